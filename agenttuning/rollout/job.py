"""`play_tasks`: play every attempt that is not stored yet, on Ray Data, and say how it goes.

Each finished episode is durable in the store before it is reported, and attempts that are stored are not played
again. So the same call continues after any interruption: Ctrl-C, a dead actor, an endpoint that went away.
"""

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import chain, zip_longest
from typing import Any

from agenttuning.errors import AgentTuningError, ConfigurationError, DataError, InfrastructureError, StorageError
from agenttuning.policies.endpoint import check_endpoint, key_of
from agenttuning.progress import say
from agenttuning.recipe import PolicySpec, Recipe
from agenttuning.rollout.actor import make_board, run_job
from agenttuning.rollout.expert import identity
from agenttuning.rollout.worker import Report, RolloutPlan, check_environments
from agenttuning.storage import Store
from agenttuning.storage.segments import stored_ids
from agenttuning.trajectory import Task, trajectory_id

POLL_SECONDS = 1.0
ROOM_SECONDS = 30.0
"""After so long without an actor it is said what the job waits for."""
KEPT_FAILURES = 5
"""How many different failure messages a summary keeps."""

_FATAL: dict[str, type[AgentTuningError]] = {
    cls.__name__: cls for cls in (ConfigurationError, DataError, InfrastructureError, StorageError)
}


@dataclass(frozen=True)
class Tally:
    """Progress of one environment."""

    total: int
    done: int
    """Attempts that are stored."""
    played: int = 0
    """Of them, by this call."""
    reward: float = 0.0
    """Mean reward of the played; 0 where none is."""

    def __str__(self) -> str:
        """Return `12/100, reward 0.83`."""
        return f"{self.done}/{self.total}" + (f", reward {self.reward:.2f}" if self.played else "")


OnProgress = Callable[[int, int, dict[str, Tally]], None]
"""Called about every second with attempts done, attempts in all, and the tallies by environment."""


@dataclass
class RolloutSummary:
    """What one call of `play_tasks` did."""

    total: int
    """Attempts asked for."""
    skipped: int
    """Attempts that were stored before."""
    played: int = 0
    """Attempts played and stored."""
    unfinished: int = 0
    """Attempts given back after infrastructure failures; the next call plays them."""
    outcomes: dict[str, dict[str, int]] = field(default_factory=dict)
    """Count of the played by environment and outcome."""
    rewards: dict[str, float] = field(default_factory=dict)
    """Mean reward of the played by environment."""
    steps: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    episode_seconds: float = 0.0
    """Sum of the episodes' wall times."""
    seconds: float = 0.0
    """Wall time of the call."""
    failures: list[str] = field(default_factory=list)
    """Some reasons of the unfinished."""

    def as_dict(self) -> dict[str, Any]:
        """Return the summary as plain JSON values."""
        return asdict(self)


def play_tasks(
    tasks: Sequence[Task],
    recipe: Recipe,
    policy: PolicySpec,
    store: Store,
    *,
    on_progress: OnProgress | None = None,
) -> RolloutSummary:
    """Play `recipe.rollout.attempts` attempts at every task and store every finished episode.

    Ray must be initialised. A `local` policy is given as the endpoint that serves it.

    Args:
        tasks: what to play.
        recipe: environments, limits, seed, and how episodes are played.
        policy: who plays.
        store: where segments go.
        on_progress: see `OnProgress`; called from another thread.

    Raises:
        ConfigurationError: an environment, the endpoint or the machine is not as it must be.
        InfrastructureError: the policy has not answered any request for its whole patience.
        StorageError: the store cannot be written.
    """
    started = time.monotonic()
    name, settings = identity(policy)
    ordered = _interleaved(tasks)
    wanted = [(task, number) for number in range(recipe.rollout.attempts) for task in ordered]
    known = stored_ids(store)
    missing = [(t, n) for t, n in wanted if trajectory_id(t, name, settings, n) not in known]
    tallies = _tallies(wanted, missing)
    summary = RolloutSummary(total=len(wanted), skipped=len(wanted) - len(missing))
    if missing:
        check_environments(recipe, set(tallies), policy)
        api_key = key_of(policy)
        if policy.kind != "expert":
            asyncio.run(check_endpoint(policy, api_key))
        _run(missing, RolloutPlan(recipe, policy, store, api_key), summary, tallies, on_progress)
    elif on_progress is not None:
        on_progress(summary.skipped, summary.total, tallies)
    summary.seconds = round(time.monotonic() - started, 2)
    return summary


def _run(
    missing: list[tuple[Task, int]],
    plan: RolloutPlan,
    summary: RolloutSummary,
    tallies: dict[str, Tally],
    on_progress: OnProgress | None,
) -> None:
    import ray

    board = make_board()
    try:
        with (
            _watched(board, tallies, on_progress, plan.recipe.rollout.actor_cpus),
            contextlib.closing(run_job(missing, plan, board)) as reports,
        ):
            for report in reports:
                if report.fatal:
                    message = f"{report.failure}\nFinished episodes are stored; the same command continues."
                    raise _FATAL.get(report.fatal, ConfigurationError)(message)
                _count(summary, report)
    finally:
        ray.kill(board)


@contextlib.contextmanager
def _watched(board: Any, tallies: dict[str, Tally], on_progress: OnProgress | None, cpus: float) -> Iterator[None]:
    """Show progress every second while the block runs, and once more at its end; say so when no actor finds room."""
    import ray

    over = threading.Event()
    started = time.monotonic()
    warned = False

    def show() -> None:
        nonlocal warned
        played, rewards, actors = ray.get(board.read.remote(), timeout=30)
        if not actors and not warned and time.monotonic() - started > ROOM_SECONDS:
            warned = True
            free = ray.available_resources().get("CPU", 0.0)
            say(f"waiting for room: an actor asks for rollout.actor_cpus={cpus:g}, the cluster has {free:g} CPUs free")
        if on_progress is None:
            return
        now = {name: _grown(tally, played.get(name, 0), rewards.get(name, 0.0)) for name, tally in tallies.items()}
        on_progress(sum(t.done for t in now.values()), sum(t.total for t in now.values()), now)

    def watch() -> None:
        while not over.wait(POLL_SECONDS):
            with contextlib.suppress(ray.exceptions.RayError):
                show()

    thread = threading.Thread(target=watch, name="rollout-progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
    with contextlib.suppress(ray.exceptions.RayError):
        show()


def _count(summary: RolloutSummary, report: Report) -> None:
    if report.failure:
        summary.unfinished += 1
        if report.failure not in summary.failures and len(summary.failures) < KEPT_FAILURES:
            summary.failures.append(report.failure)
        return
    if not report.outcome:
        summary.skipped += 1
        return
    outcomes = summary.outcomes.setdefault(report.environment, {})
    before = sum(outcomes.values())
    outcomes[report.outcome] = outcomes.get(report.outcome, 0) + 1
    mean = summary.rewards.get(report.environment, 0.0)
    summary.rewards[report.environment] = mean + (report.reward - mean) / (before + 1)
    summary.played += 1
    summary.steps += report.steps
    summary.prompt_tokens += report.prompt_tokens
    summary.completion_tokens += report.completion_tokens
    summary.episode_seconds += report.seconds


def _interleaved(tasks: Sequence[Task]) -> list[Task]:
    """Return the tasks with environments taking turns, so that all of them progress and none is left for the end."""
    by_environment: dict[str, list[Task]] = {}
    for task in tasks:
        by_environment.setdefault(task.environment, []).append(task)
    return [task for task in chain.from_iterable(zip_longest(*by_environment.values())) if task is not None]


def _tallies(wanted: list[tuple[Task, int]], missing: list[tuple[Task, int]]) -> dict[str, Tally]:
    totals = {name: 0 for name in dict.fromkeys(task.environment for task, _ in wanted)}
    left = dict(totals)
    for task, _ in wanted:
        totals[task.environment] += 1
    for task, _ in missing:
        left[task.environment] += 1
    return {name: Tally(total=totals[name], done=totals[name] - left[name]) for name in totals}


def _grown(tally: Tally, played: int, reward: float) -> Tally:
    return Tally(tally.total, tally.done + played, played, reward / played if played else 0.0)
