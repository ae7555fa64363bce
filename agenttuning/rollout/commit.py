"""`Committer`: finished episodes become durable together, within a stated time, before anyone is told of them.

One file per episode would be many small files, one file at the end would lose a crash's worth. So the first finished
episode starts a short clock, and what has finished when it rings is one immutable segment. Before each write the fence
is asked: the orphan of a driver that lost its directory writes nothing. An object store that stumbles is tried again
for a while under the same name, which changes nothing where the first try had arrived; a full disk is not.
"""

import asyncio
import uuid
from collections.abc import Callable

from agenttuning.storage.index import Entry, epoch_name
from agenttuning.storage.lease import Fence
from agenttuning.storage.patience import patiently
from agenttuning.storage.segments import commit_segment
from agenttuning.trajectory import Trajectory

OnCommit = Callable[[list[Entry]], None]
"""Called in the event loop with the entries of each segment that became durable."""


class Committer:
    """Writes the segments of one incarnation of a worker. Lives in one event loop.

    Args:
        fence: the directory of a stage's trajectories, and the epoch in which this worker may write.
        within_s: a finished episode is durable within about this time.
        on_commit: see `OnCommit`.
    """

    def __init__(self, fence: Fence, within_s: float, on_commit: OnCommit | None = None) -> None:
        self._fence = fence
        self._within_s = within_s
        self._on_commit = on_commit
        self._writer = epoch_name(fence.epoch, uuid.uuid4().hex[:12])
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
        entries = await asyncio.to_thread(self._write, self._number, segment)
        if self._on_commit is not None:
            self._on_commit(entries)

    def _write(self, number: int, segment: list[Trajectory]) -> list[Entry]:
        def commit() -> list[Entry]:
            self._fence.check()
            return commit_segment(self._fence.store, self._writer, number, segment)

        return patiently(self._fence.store, commit)
