"""The rollout on Ray: the actor that Ray Data scales, the board that its progress is read from, and the job itself.

An actor takes several small blocks of tasks at once on threads of Ray Data, and plays them all on one event loop of
its own. What Ray Data carries back is the index of what happened, row by row.

Ray Data kills its actors as soon as the last block is done, which leaves no time to shut environments down. So one
block more, without a task, is answered only when every actor has freed what it held.
"""

import asyncio
import contextlib
import logging
import threading
import uuid
from collections import Counter, defaultdict
from collections.abc import Coroutine, Generator, Sequence
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa

from agenttuning.recipe import Rollout
from agenttuning.rollout.worker import EpisodeWorker, Report, RolloutPlan
from agenttuning.storage.segments import stored_ids
from agenttuning.trajectory import Task

LONGEST_BLOCK = 8
"""Most tasks in one block: a block is reported when its longest episode is over."""
ACTOR_START_DEATHS = 3
"""Deaths of starting actors in a row that end the job."""
FREE_SECONDS = 10.0
"""How long actors may take to free their environments when the job is over."""
BOARD_CALLS = 10_000
"""Calls that may wait on the board at once: one for each actor."""

T = TypeVar("T")


class Board:
    """Where actors and driver meet: what is stored so far, which actors are there, and whether the job is over.

    Becomes an asynchronous Ray actor.
    """

    def __init__(self) -> None:
        self._done: Counter[str] = Counter()
        self._reward: defaultdict[str, float] = defaultdict(float)
        self._joined = 0
        self._present: set[str] = set()
        self._over = asyncio.Event()
        self._empty = asyncio.Event()

    async def add(self, environment: str, reward: float) -> None:
        """Count one stored episode."""
        self._done[environment] += 1
        self._reward[environment] += reward

    async def read(self) -> tuple[dict[str, int], dict[str, float], int]:
        """Return stored episodes and the sum of their rewards by environment, and how many actors ever joined."""
        return dict(self._done), dict(self._reward), self._joined

    async def join(self, actor: str) -> None:
        """Enter an actor; returns when the job is over and it shall free its environments."""
        self._joined += 1
        self._present.add(actor)
        await self._over.wait()

    async def leave(self, actor: str) -> None:
        """Say that an actor has freed its environments."""
        self._present.discard(actor)

    async def wait_empty(self) -> None:
        """Return when the job is over and all actors have left."""
        await self._empty.wait()

    async def finish(self) -> None:
        """Declare the job over, wait a little until the actors have left, and let the last block return."""
        self._over.set()
        deadline = asyncio.get_running_loop().time() + FREE_SECONDS
        while self._present and asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(0.02)
        self._empty.set()


class RolloutActor:
    """What Ray Data calls with blocks of tasks; several calls at a time."""

    def __init__(self, plan: RolloutPlan, board: Any) -> None:
        import ray

        self._board = board
        self._key = uuid.uuid4().hex
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, name="episodes", daemon=True).start()
        restarted = ray.get_runtime_context().was_current_actor_reconstructed
        stored = frozenset(stored_ids(plan.store)) if restarted else frozenset()
        self._worker = self._await(_make_worker(plan, stored, self._pin))
        asyncio.run_coroutine_threadsafe(self._leave_at_the_end(), self._loop)

    def __call__(self, block: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Play a block and return its reports, one row each."""
        tasks = [Task.model_validate_json(text) for text in block["task"] if text]
        reports = self._await(self._play(tasks, [int(n) for n in block["attempt"]]) if tasks else self._last())
        rows = [report.row() for report in reports]
        return {key: np.array([row[key] for row in rows]) for key in rows[0]}

    def __del__(self) -> None:
        """Free the environments when the pool shrinks."""
        with contextlib.suppress(Exception):
            self._await(self._leave(), timeout_s=FREE_SECONDS)

    async def _leave_at_the_end(self) -> None:
        await self._board.join.remote(self._key)
        await self._leave()

    async def _leave(self) -> None:
        await self._worker.aclose()
        await self._board.leave.remote(self._key)

    async def _last(self) -> list[Report]:
        await self._board.wait_empty.remote()
        return [Report(id="", environment="")]

    def _await(self, work: Coroutine[Any, Any, T], timeout_s: float | None = None) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout_s)

    async def _play(self, tasks: list[Task], attempts: list[int]) -> list[Report]:
        plays = (self._worker.play(task, number) for task, number in zip(tasks, attempts, strict=True))
        return list(await asyncio.gather(*plays))

    def _pin(self, report: Report) -> None:
        if not report.failure:
            self._board.add.remote(report.environment, report.reward)


async def _make_worker(plan: RolloutPlan, stored: frozenset[str], on_report: Any) -> EpisodeWorker:
    return EpisodeWorker(plan, stored, on_report)


def run_job(attempts: Sequence[tuple[Task, int]], plan: RolloutPlan, board: Any) -> Generator[Report]:
    """Play attempts on Ray Data and yield a report of each; closing the iterator stops the job."""
    import ray

    rollout = plan.recipe.rollout
    block = max(1, min(LONGEST_BLOCK, rollout.episodes_in_flight // 4))
    blocks = [_block(attempts[i : i + block]) for i in range(0, len(attempts), block)]
    context = ray.data.DataContext.get_current().copy()
    context.execution_no_progress_timeout_s = -1
    context.max_consecutive_actor_init_deaths = ACTOR_START_DEATHS
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    _quiet()
    with ray.data.DataContext.current(context):
        index = ray.data.from_arrow([*blocks, pa.table({"task": [""], "attempt": [0]})]).map_batches(
            RolloutActor,
            batch_size=None,
            num_cpus=rollout.actor_cpus,
            compute=_pool(ray.data.ActorPoolStrategy, rollout, len(attempts), block),
            fn_constructor_args=(plan, board),
        )
    with contextlib.closing(iter(index.iter_batches(batch_size=None, prefetch_batches=0))) as batches:
        left = len(attempts)
        try:
            while left:
                batch = next(batches)
                left -= len(batch["id"])
                for values in zip(*(column.tolist() for column in batch.values()), strict=True):
                    yield Report(**dict(zip(batch, values, strict=True)))
        finally:
            with contextlib.suppress(ray.exceptions.RayError):
                ray.get(board.finish.remote(), timeout=2 * FREE_SECONDS)
        for _ in batches:
            pass


def make_board() -> Any:
    """Start the board of one job; end it with `ray.kill`."""
    import ray

    return ray.remote(num_cpus=0, max_concurrency=BOARD_CALLS)(Board).remote()


def _quiet() -> None:
    """Leave Ray Data's messages to its log file: progress is shown by whoever called."""
    for handler in logging.getLogger("ray.data").handlers:
        if isinstance(handler, logging.StreamHandler):
            handler.setLevel(logging.ERROR)


def _block(attempts: Sequence[tuple[Task, int]]) -> pa.Table:
    return pa.table({"task": [task.model_dump_json() for task, _ in attempts], "attempt": [n for _, n in attempts]})


def _pool(strategy: Any, rollout: Rollout, rows: int, block: int) -> Any:
    """Return the actor pool: no more actors than can be kept busy, and twice the blocks that fill one at a time."""
    least, most = rollout.actors
    useful = -(-rows // rollout.episodes_in_flight)
    return strategy(
        min_size=min(least, max(1, useful)),
        max_size=max(1, min(most, useful)),
        max_concurrent_calls_per_actor=2 * -(-rollout.episodes_in_flight // block),
        enable_true_multi_threading=True,
    )
