"""`Watch`: the driver's eye on a running job, on a thread of its own.

About every second it takes from the board what is new, shows progress, and keeps three things up to date in the store:
the index of what is stored, `progress.json` for whoever looks at a running directory, and the lease (by asking whether
it still holds). It also ends actors that are gone while others are idle, so that their episodes are played elsewhere.
"""

import contextlib
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from agenttuning.errors import AgentTuningError, DataError, InfrastructureError, StorageError
from agenttuning.progress import say
from agenttuning.rollout.actor import end_stranded
from agenttuning.rollout.board import News
from agenttuning.rollout.tally import Ledger, Tally
from agenttuning.rollout.worker import RolloutPlan
from agenttuning.storage import Store
from agenttuning.storage.index import Entry, write_index
from agenttuning.storage.lease import Lease
from agenttuning.storage.patience import patience_of

POLL_SECONDS = 1.0
INDEX_SECONDS = 30.0
"""Time between two index files."""
PROGRESS_SECONDS = 5.0
"""Time between two writes of `progress.json`."""
ROOM_SECONDS = 30.0
"""After so long without an actor it is said what the job waits for."""
PROGRESS = "progress.json"

OnProgress = Callable[[int, int, dict[str, Tally]], None]
"""Called about every second with attempts done, attempts in all, and the tallies by environment."""


def failures_before(store: Store) -> dict[str, dict[str, int]]:
    """Return the infrastructure failures that earlier calls counted in a directory, none where that cannot be told."""
    try:
        told = store.read_json(PROGRESS)["failures"] if store.exists(PROGRESS) else {}
        return {str(name): {str(kind): int(count) for kind, count in kinds.items()} for name, kinds in told.items()}
    except (DataError, LookupError, TypeError, ValueError, AttributeError):
        return {}


class Watch:
    """Use as a context manager around the passes of a job.

    Args:
        board: the job's board.
        ledger: what is counted; brought up to date here.
        lease: of the directory that is written.
        plan: what is played.
        on_progress: see `OnProgress`.
    """

    def __init__(
        self, board: Any, ledger: Ledger, lease: Lease, plan: RolloutPlan, on_progress: OnProgress | None
    ) -> None:
        self._board = board
        self._ledger = ledger
        self._lease = lease
        self._plan = plan
        self._on_progress = on_progress
        self._pending: list[Entry] = []
        self._files = 0
        self._failing_since: float | None = None
        self._last_index = self._last_file = self._last_actor = time.monotonic()
        self._started = time.time()
        self._warned = False
        self._money: float | None = None if plan.shared is not None else 0.0
        self._concurrency = 0
        self._over = threading.Event()
        self._error: AgentTuningError | None = None
        self._thread = threading.Thread(target=self._watch, name="rollout-watch", daemon=True)

    def __enter__(self) -> Self:
        """Begin to watch."""
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Look a last time, and write what is not in the index yet."""
        import ray

        self._over.set()
        self._thread.join()
        with contextlib.suppress(ray.exceptions.RayError, AgentTuningError):
            self._look(last=True)

    def check(self) -> None:
        """Raise what the watch has met.

        Raises:
            InfrastructureError: it met an error that is none of ours, such as a broken pipe while it showed progress.
            StorageError: the lease is lost, or the store cannot be written.
        """
        if self._error is not None:
            raise self._error

    def _watch(self) -> None:
        import ray

        while not self._over.wait(POLL_SECONDS):
            try:
                self._look()
                continue
            except ray.exceptions.RayError:
                continue
            except AgentTuningError as error:
                self._error = error
            except BaseException as error:
                self._error = _unforeseen(error)
                self._on_progress = None  # It may be what failed; the last look writes the index without it.
            with contextlib.suppress(ray.exceptions.RayError):
                ray.get(self._board.finish.remote(), timeout=POLL_SECONDS)
            return

    def _look(self, last: bool = False) -> None:
        import ray

        news: News = ray.get(self._board.take.remote(), timeout=30)
        now = time.monotonic()
        self._ledger.played(news.entries, now)
        self._ledger.failed(news.failures)
        self._pending += news.entries
        tallies = self._ledger.tallies(now)
        if self._on_progress is not None:
            done, total = sum(t.done for t in tallies.values()), sum(t.total for t in tallies.values())
            self._on_progress(done, total, tallies)
        self._lease.check()
        self._write_index(now, last)
        self._write_progress(news, tallies, now, last)
        self._see_to_actors(news, now)

    def _write_index(self, now: float, last: bool) -> None:
        """Write what is not in the index; an object store that stumbles is tried again at the next look."""
        if not self._pending or not (last or now - self._last_index > INDEX_SECONDS):
            return
        try:
            write_index(self._plan.store, self._lease.epoch, self._files + 1, self._pending)
        except StorageError as error:
            if self._failing_since is None:
                self._failing_since = now
            if not error.may_pass or now - self._failing_since >= patience_of(self._plan.store):
                raise
            return
        self._files += 1
        self._pending, self._last_index, self._failing_since = [], now, None

    def _write_progress(self, news: News, tallies: dict[str, Tally], now: float, last: bool) -> None:
        if not last and now - self._last_file < PROGRESS_SECONDS:
            return
        self._last_file = now
        self._ask_limits()
        if self._money is None:
            return
        with contextlib.suppress(StorageError):
            self._plan.store.write_json(
                PROGRESS,
                {
                    "time": time.time(),
                    "started": self._started,
                    "actors": news.actors,
                    "in_flight": news.in_flight,
                    "environments": {name: tally.as_dict() for name, tally in tallies.items()},
                    "failures": self._ledger.failures(),
                    "spent": self._money,
                    "concurrency": self._concurrency,
                },
            )

    def _ask_limits(self) -> None:
        """Ask for the money that this run has spent or may have, over all its calls, and the requests in flight."""
        import ray

        shared = self._plan.shared
        if shared is not None:
            with contextlib.suppress(ray.exceptions.RayError):
                reading, self._concurrency = ray.get([shared.read.remote(), shared.concurrency.remote()], timeout=10)
                self._money = float(reading.spent + reading.held)

    def _see_to_actors(self, news: News, now: float) -> None:
        import ray

        if end_stranded(news):
            self._board.finish.remote()
        if news.actors:
            self._last_actor, self._warned = now, False
        elif not self._warned and now - self._last_actor > ROOM_SECONDS:
            self._warned = True
            rollout = self._plan.recipe.rollout
            asked = {"CPU": rollout.actor_cpus, **rollout.resources}
            free = {name: ray.available_resources().get(name, 0.0) for name in asked}
            labels = f" on a node with the labels {rollout.labels}" if rollout.labels else ""
            say(
                f"waiting for room: an actor asks for {_amounts(asked)}{labels} (rollout.actor_cpus, resources and "
                f"labels), the cluster has {_amounts(free)} free"
            )


def _amounts(resources: dict[str, float]) -> str:
    return ", ".join(f"{amount:g} {name}" for name, amount in resources.items())


def _unforeseen(error: BaseException) -> InfrastructureError:
    """Return what ends the job where watching it met an error that is none of ours, such as the end of a pipe."""
    found = InfrastructureError(
        f"the rollout's watch ended by an error of its own ({type(error).__name__}: {error}); where the output goes "
        "to a pipe, see that its reader stays. Finished episodes are stored; the same command continues."
    )
    found.__cause__ = error
    return found
