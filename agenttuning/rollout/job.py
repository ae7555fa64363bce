"""`play_tasks`: play every attempt that is not stored yet, on Ray Data, and say how it goes.

The caller's directory is taken under a lease, so that no other driver plays the same. Each finished episode is durable
before it is counted, and attempts that are stored are not played again: the same call continues after any
interruption, be it Ctrl-C, a dead actor, node or driver, or an endpoint that went away.

Attempts that the world failed are played again in further passes, on new actors, until their patience is over.
"""

import asyncio
import contextlib
import random
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain, zip_longest
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from agenttuning.errors import AgentTuningError, ConfigurationError, InfrastructureError
from agenttuning.policies.endpoint import check_endpoint, key_of
from agenttuning.policies.sharing import shared_limits
from agenttuning.policies.spending import Spending
from agenttuning.policies.wire import retry_wait
from agenttuning.recipe import PolicySpec, Recipe
from agenttuning.rollout.actor import BUG, make_board, run_pass
from agenttuning.rollout.summary import KEPT_FAILURES, RolloutSummary, add_stored
from agenttuning.rollout.tally import Ledger, Tally
from agenttuning.rollout.watch import OnProgress, Watch, failures_before
from agenttuning.rollout.worker import Report, RolloutPlan, check_environments
from agenttuning.storage import Store
from agenttuning.storage.index import read_index, seal
from agenttuning.storage.lease import Fence, Lease
from agenttuning.storage.patience import patiently
from agenttuning.trajectory import Task

__all__ = ["OnProgress", "RolloutSummary", "Tally", "play_tasks"]

_Attempts = dict[str, tuple[Task, int]]
"""Attempts by trajectory id, in the order of play."""


def play_tasks(
    tasks: Sequence[Task],
    recipe: Recipe,
    policy: PolicySpec,
    store: Store,
    *,
    on_progress: OnProgress | None = None,
    temperatures: tuple[float, ...] = (),
    quota: Mapping[str, int] | None = None,
    spent_elsewhere: float = 0.0,
) -> RolloutSummary:
    """Play `recipe.rollout.attempts` attempts at every task and store every finished episode.

    Ray must be initialised. A `local` policy is given as the endpoint that serves it.

    Args:
        tasks: what to play.
        recipe: environments, limits, seed, and how episodes are played.
        policy: who plays.
        store: where segments go.
        on_progress: see `OnProgress`; called from another thread.
        temperatures: of the attempts in turn; none: the policy's own.
        quota: kept episodes that are enough, by environment: its remaining attempts are then left.
        spent_elsewhere: money of the policy's budget that was spent in other directories.

    Raises:
        ConfigurationError: an environment, the endpoint or the machine is not as it must be, or another driver is at
            work in `store`.
        DataError: the note of the money was changed by hand and is no sum of money.
        InfrastructureError: the policy has not answered any request for its whole patience.
        StorageError: the store cannot be written, or another driver took it over.
    """
    started = time.monotonic()
    plan = RolloutPlan(recipe, policy, store, key_of(policy), temperatures=temperatures)
    ordered = _interleaved(tasks)
    wanted = {plan.id_of(t, n): (t, n) for n in range(recipe.rollout.attempts) for t in ordered}
    thresholds = {name: spec.reward_threshold for name, spec in recipe.environments.items()}
    totals = {name: 0 for name in dict.fromkeys(task.environment for task in ordered)}
    for task, _ in wanted.values():
        totals[task.environment] += 1
    with Lease(store, f"{recipe.run.name}: playing {len(wanted)} attempts") as lease:
        before = _only(seal(store, lease.epoch), wanted)
        ledger = Ledger(totals, thresholds, quota or {})
        ledger.found(*_stored_counts(before, thresholds))
        ledger.failed_before(failures_before(store))
        summary = RolloutSummary(total=len(wanted), skipped=before.num_rows)
        missing = _still_wanted(wanted, before, ledger)
        if missing:
            check_environments(recipe, {task.environment for task, _ in missing.values()}, policy)
            if policy.kind != "expert":
                asyncio.run(check_endpoint(policy, plan.api_key))
            under = replace(plan, epoch=lease.epoch)
            with _limits(under, spent_elsewhere) as shared:
                _play(wanted, missing, replace(under, shared=shared), lease, ledger, summary, on_progress)
        elif on_progress is not None:
            on_progress(summary.skipped, summary.total, ledger.tallies(time.monotonic()))
        stored = _only(patiently(store, lambda: read_index(store)), wanted)
        add_stored(summary, stored, before.column("id"), thresholds)
        summary.unfinished = len(_still_wanted(wanted, stored, ledger))
        summary.unneeded = summary.total - stored.num_rows - summary.unfinished
        summary.retried = ledger.failures()
        summary.spent = round(Spending(store).read(), 6)
        summary.seconds = round(time.monotonic() - started, 2)
        if missing:
            lease.release_into(partial(seal, store))
    return summary


def _play(
    wanted: _Attempts,
    missing: _Attempts,
    plan: RolloutPlan,
    lease: Lease,
    ledger: Ledger,
    summary: RolloutSummary,
    on_progress: OnProgress | None,
) -> None:
    """Play passes until nothing is left to play, or its patience is over."""
    import ray

    patience = plan.recipe.rollout.patience_s
    first_failure: dict[str, float] = {}
    left, passes = missing, 0
    board = make_board(ledger.thresholds, ledger.quota, ledger.kept())
    try:
        with Watch(board, ledger, lease, plan, on_progress) as watch:
            while left:
                passes += 1
                closing = contextlib.closing(run_pass(list(left.values()), plan, board))
                with closing as reports, _named_errors():
                    for report in reports:
                        watch.check()
                        _heed(report, summary)
                watch.check()
                stored = patiently(plan.store, lambda: read_index(plan.store))
                left = _still_wanted(left, _only(stored, wanted), ledger)
                now, wait = time.monotonic(), retry_wait(passes, None, random.random())
                for identifier in left:
                    first_failure.setdefault(identifier, now)
                left = {i: attempt for i, attempt in left.items() if now + wait < first_failure[i] + patience}
                if left:
                    time.sleep(wait)
                    with _named_errors():
                        ray.get(board.begin.remote())
    finally:
        ray.kill(board)


@contextlib.contextmanager
def _limits(plan: RolloutPlan, spent_elsewhere: float) -> Iterator[Any]:
    """Keep the endpoint's limits for all actors, with what earlier calls have spent; None for an expert."""
    if plan.policy.kind == "expert":
        yield None
        return
    run = f"{plan.recipe.run.name}-{uuid.uuid4().hex[:8]}"
    spending = Spending(plan.store, Fence(plan.store, plan.epoch), spent_elsewhere)
    with shared_limits(plan.policy, run, spending) as shared:
        yield shared


def _heed(report: Report, summary: RolloutSummary) -> None:
    """Raise what ends the run; keep some of the reasons of what is played again."""
    if report.fatal == BUG:
        raise RuntimeError(f"a rollout actor met an error of its own:\n{report.failure}")
    if report.fatal:
        message = f"{report.failure}\nFinished episodes are stored; the same command continues."
        raise _fatal_classes().get(report.fatal, ConfigurationError)(message)
    if report.failure and report.failure not in summary.failures and len(summary.failures) < KEPT_FAILURES:
        summary.failures.append(report.failure)


@contextlib.contextmanager
def _named_errors() -> Iterator[None]:
    """Turn an error of Ray's own into one of our vocabulary."""
    import ray

    try:
        yield
    except ray.exceptions.RayError as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InfrastructureError(
            f"Ray: {first}\nFinished episodes are stored; see to the cluster (`ray status`), then the same command "
            "continues."
        ) from error


def _fatal_classes() -> dict[str, type[AgentTuningError]]:
    found: dict[str, type[AgentTuningError]] = {}
    waiting: list[type[AgentTuningError]] = [AgentTuningError]
    while waiting:
        cls = waiting.pop()
        found[cls.__name__] = cls
        waiting += cls.__subclasses__()
    return found


def _interleaved(tasks: Sequence[Task]) -> list[Task]:
    """Return the tasks with environments taking turns, so that all of them progress and none is left for the end."""
    by_environment: dict[str, list[Task]] = {}
    for task in tasks:
        by_environment.setdefault(task.environment, []).append(task)
    return [task for task in chain.from_iterable(zip_longest(*by_environment.values())) if task is not None]


def _only(table: pa.Table, wanted: _Attempts) -> pa.Table:
    """Return the entries of the attempts that were asked for; a directory may hold others."""
    return table.filter(pc.is_in(table.column("id"), pa.array(list(wanted), pa.string())))


def _still_wanted(attempts: _Attempts, stored: pa.Table, ledger: Ledger) -> _Attempts:
    """Return the attempts that are not stored, but for those of environments whose quota the stored meet."""
    have = set(stored.column("id").to_pylist())
    _, kept = _stored_counts(stored, ledger.thresholds)
    full = {name for name, enough in ledger.quota.items() if kept.get(name, 0) >= enough}
    return {i: attempt for i, attempt in attempts.items() if i not in have and attempt[0].environment not in full}


def _stored_counts(table: pa.Table, thresholds: Mapping[str, float]) -> tuple[dict[str, int], dict[str, int]]:
    """Return the stored and the kept by environment."""
    done: dict[str, int] = {}
    kept: dict[str, int] = {}
    pairs = zip(table.column("environment").to_pylist(), table.column("reward").to_pylist(), strict=True)
    for name, reward in pairs:
        done[name] = done.get(name, 0) + 1
        kept[name] = kept.get(name, 0) + (reward >= thresholds.get(name, 1.0))
    return done, kept
