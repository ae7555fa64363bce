"""`Committer`: finished episodes become durable together, within a stated time, before anyone is told of them.

One file per episode would be many small files, one file at the end would lose a crash's worth. So the first finished
episode starts a short clock, and what has finished when it rings is one immutable segment.
"""

import asyncio
import uuid

from agenttuning.storage import Store
from agenttuning.storage.segments import commit_segment
from agenttuning.trajectory import Trajectory


class Committer:
    """Writes the segments of one incarnation of a worker. Lives in one event loop.

    Args:
        store: the directory of a stage's trajectories.
        within_s: a finished episode is durable within about this time.
    """

    def __init__(self, store: Store, within_s: float) -> None:
        self._store = store
        self._within_s = within_s
        self._writer = uuid.uuid4().hex[:12]
        self._number = 0
        self._waiting: list[Trajectory] = []
        self._commit: asyncio.Task[None] | None = None

    async def add(self, trajectory: Trajectory) -> None:
        """Return when the trajectory is durable.

        Raises:
            StorageError: it cannot be written; every trajectory of the segment hears of it.
        """
        self._waiting.append(trajectory)
        if self._commit is None:
            self._commit = asyncio.create_task(self._write_soon())
        await asyncio.shield(self._commit)

    async def _write_soon(self) -> None:
        await asyncio.sleep(self._within_s / 2)
        segment, self._waiting, self._commit = self._waiting, [], None
        self._number += 1
        await asyncio.to_thread(commit_segment, self._store, self._writer, self._number, segment)
