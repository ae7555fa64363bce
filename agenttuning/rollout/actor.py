"""The rollout on Ray: the actor that Ray Data scales, and the pass in which it plays.

An actor takes several small blocks of tasks at once on threads of Ray Data, and plays them all on one event loop of
its own. What Ray Data carries back is the index of what happened, row by row.

Ray Data kills its actors as soon as the last block is done, which leaves no time to shut environments down. So one
block more, without a task, is answered only when every actor has freed what it held.

A block belongs to one actor. Where that actor's node is gone and has no successor, its blocks would wait for ever while
others are idle; such an actor is ended for good (`end_stranded`), Ray Data passes its blocks over, and the job plays
their episodes in its next pass.
"""

import asyncio
import contextlib
import gc
import logging
import threading
import traceback
import uuid
from collections.abc import Collection, Coroutine, Generator, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa

from agenttuning.reading import reading
from agenttuning.recipe import Rollout
from agenttuning.rollout.board import BEAT_SECONDS, FREE_SECONDS, Board, News
from agenttuning.rollout.worker import EpisodeWorker, Report, RolloutPlan, World
from agenttuning.storage.index import Entry
from agenttuning.storage.segments import stored_ids
from agenttuning.trajectory import Task

LONGEST_BLOCK = 8
"""Most tasks in one block: a block is reported when its longest episode is over."""
GARBAGE = 20_000
"""New objects after which an actor's garbage collector looks at the young ones; by default it is far fewer."""
ACTOR_START_DEATHS = 10
"""Deaths of starting actors in a row that end the job."""
BOARD_CALLS = 10_000
"""Calls that may wait on the board at once: one for each actor."""
BUG = "Bug"
"""`Report.fatal` of an exception that is no failure of our own vocabulary; `failure` holds its traceback."""

T = TypeVar("T")


class RolloutActor:
    """What Ray Data calls with blocks of tasks; several calls at a time."""

    def __init__(self, plan: RolloutPlan, board: Any) -> None:
        import ray

        context = ray.get_runtime_context()
        self._board = board
        self._key = context.get_actor_id()
        self._untold: list[Entry] = []
        # Not the uvloop that Ray's workers prefer: policies are tested on asyncio's own loop, whose timers differ.
        self._loop = asyncio.SelectorEventLoop()
        threading.Thread(target=self._loop.run_forever, name="episodes", daemon=True).start()
        restarted = context.was_current_actor_reconstructed
        stored: Collection[str] = stored_ids(plan.store) if restarted else frozenset()
        if restarted:
            board.note.remote("", World.ACTOR_LOST.value)
        self._worker = self._await(self._make_worker(plan, stored))
        # A full collection over all that is imported would hold up every episode for a tenth of a second.
        gc.freeze()
        gc.set_threshold(GARBAGE)
        asyncio.run_coroutine_threadsafe(self._leave_at_the_end(context.current_actor), self._loop)
        asyncio.run_coroutine_threadsafe(self._beat(), self._loop)

    def __call__(self, block: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Play a block and return its reports, one row each."""
        tasks = [Task.model_validate_json(text) for text in block["task"] if text]
        attempts = [int(n) for n in block["attempt"]]
        try:
            reports = self._await(self._play(tasks, attempts) if tasks else self._last())
        except Exception:
            environment = tasks[0].environment if tasks else ""
            reports = [Report(id="", environment=environment, failure=traceback.format_exc(), fatal=BUG)]
        rows = [report.row() for report in reports]
        return {key: np.array([row[key] for row in rows]) for key in rows[0]}

    def __del__(self) -> None:
        """Free the environments when the pool shrinks."""
        with contextlib.suppress(Exception):
            self._await(self._leave(), timeout_s=FREE_SECONDS)

    async def _leave_at_the_end(self, handle: Any) -> None:
        await self._reach(self._board.join, self._key, [handle], uuid.uuid4().hex)
        await self._leave()

    async def _leave(self) -> None:
        await self._worker.aclose()
        await self._reach(self._board.leave, self._key)

    async def _beat(self) -> None:
        while True:
            await self._tell()
            await asyncio.sleep(BEAT_SECONDS)

    async def _tell(self, entries: Sequence[Entry] = ()) -> None:
        """Give a sign of life; what Ray could not carry to the board is told with the next one."""
        import ray

        worker = self._worker
        telling, self._untold = [*self._untold, *entries], []
        try:
            full = await self._board.tell.remote(self._key, worker.in_flight, worker.told_failures(), telling)
            worker.full = frozenset(full)
        except ray.exceptions.RayError:
            self._untold = [*telling, *self._untold]

    async def _last(self) -> list[Report]:
        await self._reach(self._board.wait_empty)
        return [Report(id="", environment="")]

    async def _reach(self, method: Any, *arguments: Any) -> None:
        """Call the board; again, where Ray could not reach it for a moment."""
        import ray

        while True:
            try:
                await method.remote(*arguments)
                return
            except ray.exceptions.ActorUnavailableError:
                await asyncio.sleep(BEAT_SECONDS)

    def _await(self, work: Coroutine[Any, Any, T], timeout_s: float | None = None) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout_s)

    async def _play(self, tasks: list[Task], attempts: list[int]) -> list[Report]:
        plays = (self._worker.play(task, number) for task, number in zip(tasks, attempts, strict=True))
        return list(await asyncio.gather(*plays))

    async def _make_worker(self, plan: RolloutPlan, stored: Collection[str]) -> EpisodeWorker:
        telling: set[asyncio.Task[None]] = set()

        def on_commit(entries: list[Entry]) -> None:
            task = asyncio.create_task(self._tell(entries))
            telling.add(task)
            task.add_done_callback(telling.discard)

        return EpisodeWorker(plan, stored, on_commit=on_commit)


def run_pass(attempts: Sequence[tuple[Task, int]], plan: RolloutPlan, board: Any) -> Generator[Report]:
    """Play attempts on Ray Data and yield a report of each, but for those whose actor was lost for good.

    Closing the iterator stops the pass.
    """
    import ray

    rollout = plan.recipe.rollout
    block = max(1, min(LONGEST_BLOCK, rollout.episodes_in_flight // 4))
    blocks = [_block(attempts[i : i + block]) for i in range(0, len(attempts), block)]
    context = ray.data.DataContext.get_current().copy()
    context.execution_no_progress_timeout_s = -1
    context.max_consecutive_actor_init_deaths = ACTOR_START_DEATHS
    context.max_errored_blocks = -1
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    _quiet()
    with ray.data.DataContext.current(context):
        # `from_arrow` would start a task on the cluster for each block, to count its rows.
        index = ray.data.from_blocks([*blocks, pa.table({"task": [""], "attempt": [0]})]).map_batches(
            RolloutActor,
            batch_size=None,
            num_cpus=rollout.actor_cpus,
            resources=rollout.resources or None,
            label_selector=rollout.labels or None,
            compute=_pool(ray.data.ActorPoolStrategy, rollout, len(attempts), block),
            fn_constructor_args=(plan, board),
        )
    with reading(index.iter_batches(batch_size=None, prefetch_batches=0)) as batches:
        left, in_progress = len(attempts), False
        try:
            for batch in batches:
                in_progress = True
                left -= len(batch["id"])
                for values in zip(*(column.tolist() for column in batch.values()), strict=True):
                    yield Report(**dict(zip(batch, values, strict=True)))
                if left <= 0:
                    break
                in_progress = False
        finally:
            # Where Ray Data itself was interrupted, it has ended the actors, and none is left to wait for.
            if in_progress:
                with contextlib.suppress(ray.exceptions.RayError):
                    ray.get(board.finish.remote(), timeout=2 * FREE_SECONDS)
        for _ in batches:
            pass


def make_board(thresholds: Mapping[str, float], quota: Mapping[str, int], kept: Mapping[str, int]) -> Any:
    """Start the board of one job on the driver's node; end it with `ray.kill`."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    remote = ray.remote(num_cpus=0, max_concurrency=BOARD_CALLS, scheduling_strategy=here)(Board)
    return remote.remote(thresholds, quota, kept)


def end_stranded(news: News) -> int:
    """End the actors that are gone while others are idle, and return how many."""
    import ray

    for handle in news.stranded:
        with contextlib.suppress(ray.exceptions.RayError):
            ray.kill(handle)
    return len(news.stranded)


def _quiet() -> None:
    """Leave Ray Data's messages to its log file: progress is shown by whoever called."""
    for handler in logging.getLogger("ray.data").handlers:
        if isinstance(handler, logging.StreamHandler):
            handler.setLevel(logging.CRITICAL)


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
