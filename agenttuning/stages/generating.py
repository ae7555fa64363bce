"""Generation: the train tasks, played by the recipe's policy and, in a later round, by the last round's model.

The stage is done when every attempt is stored, or unneeded because its environment's quota is met. Attempts that
infrastructure failures kept from being played are played when it runs again, and so are those whose files are gone.
"""

import contextlib
import time
from collections.abc import Generator, Sequence
from typing import TYPE_CHECKING, Any

import pyarrow.compute as pc

from agenttuning.errors import InfrastructureError
from agenttuning.policies.spending import Spending
from agenttuning.progress import Progress, say
from agenttuning.recipe import PolicySpec, Recipe
from agenttuning.servers import Servers
from agenttuning.session import Session
from agenttuning.stages.common import (
    EARLIER_MODEL,
    already,
    lost_episodes,
    open_tracker,
    rescored,
    rules,
    show_on,
)
from agenttuning.stages.rounds import earlier_model, earlier_rounds, model_key, own_rounds, play_rounds
from agenttuning.stages.tasks import build_tasks
from agenttuning.storage import Store
from agenttuning.storage.manifest import MANIFEST, StageState, begin_stage, finish_stage
from agenttuning.trajectory import Task, content_hash

if TYPE_CHECKING:
    from agenttuning.rollout.job import OnProgress, RolloutSummary
    from agenttuning.tracking import Tracker

TRACKED_SECONDS = 10.0
"""Least time between two events about the same stage's progress."""


def generate(session: Session, servers: Servers, others: Sequence[Store] = ()) -> dict[str, Any]:
    """Play the train tasks; every finished episode is durable at once. Rounds before the run's own are run first.

    Args:
        session: of the run.
        servers: of its models.
        others: run directories of the other rounds, where this is one of several: they have one budget.

    Raises:
        ConfigurationError: another driver is at work here.
        InfrastructureError: more attempts than `rollout.allow_unfinished` could not be played.
    """
    recipe, store = session.recipe, session.store.child("trajectories")
    if not any(spec.train_tasks for spec in recipe.environments.values()):
        say("generate: the recipe asks for no train tasks (environments.<name>.train_tasks); nothing to play")
        return {}
    play_rounds(session)
    earlier = earlier_rounds(session)
    tasks = build_tasks(session, earlier)
    key: dict[str, Any] = {
        "tasks": content_hash([t.id for t in tasks]),
        "policy": _policy_key(recipe.policy),
        "rules": rules(recipe),
    }
    if recipe.rollout.temperatures:
        key["temperatures"] = list(recipe.rollout.temperatures)
    if earlier:
        key[EARLIER_MODEL] = model_key(earlier[-1])
    quota = _quota(session)
    state = begin_stage(store, "generate", key)
    if _settled(session, state, quota):
        return already("generate", state)
    session.ray()
    rounds = [*others, *own_rounds(session)]
    elsewhere = sum(Spending(run.child("trajectories")).read() for run in rounds)
    told: dict[str, RolloutSummary] = {}
    with contextlib.closing(_players(session, servers, earlier)) as players:
        for who, policy in players:
            if recipe.rollout.pilot and not who:
                _pilot(session, tasks, policy, quota, elsewhere)
            stage = f"generate-{who}" if who else "generate"
            told[who] = _play(session, stage, tasks, policy, quota, elsewhere)
            say(f"{stage}: {told[who].text()}")
    _heed_unfinished(list(told.values()), recipe)
    info = {**told[""].as_dict(), "quota": quota, **rescored(store)}
    info["unfinished"] = sum(summary.unfinished for summary in told.values())
    info["retried"] = list(told.values())[-1].retried
    if EARLIER_MODEL in told:
        info[EARLIER_MODEL] = told[EARLIER_MODEL].as_dict()
    finish_stage(store, "generate", key, info)
    return info


def _players(session: Session, servers: Servers, earlier: Sequence[Store]) -> Generator[tuple[str, PolicySpec]]:
    """Yield who plays, one after another, each served while it does: the recipe's policy, the last round's model."""
    policy = session.recipe.policy
    if policy.kind == "local":
        endpoint = servers.base()
        served = {"base_url": endpoint.base_url, "model": endpoint.model, "send_seed": endpoint.takes_seed}
        policy = policy.model_copy(update={"kind": "endpoint", **served})
    yield "", policy
    if earlier:
        servers.stop()
        with earlier_model(session, earlier[-1]) as model:
            yield EARLIER_MODEL, model


def _play(
    session: Session, stage: str, tasks: Sequence[Task], policy: PolicySpec, quota: dict[str, int], elsewhere: float
) -> "RolloutSummary":
    from agenttuning.rollout.job import play_tasks

    recipe = session.recipe
    attempts = len(tasks) * recipe.rollout.attempts
    with open_tracker(session, stage) as tracker, Progress(stage, attempts, "episodes") as bar:
        summary = play_tasks(
            tasks,
            recipe,
            policy,
            session.store.child("trajectories"),
            on_progress=_tracked(stage, bar, tracker),
            temperatures=recipe.rollout.temperatures,
            quota=quota,
            spent_elsewhere=elsewhere,
        )
        tracker.log({f"{stage}/{k}": v for k, v in summary.as_dict().items() if isinstance(v, int | float)})
    return summary


def _pilot(
    session: Session, tasks: Sequence[Task], policy: PolicySpec, quota: dict[str, int], elsewhere: float
) -> None:
    """Play the first tasks of each environment and say what the rest will take."""
    from agenttuning.rollout.forecast import forecast, forecast_text
    from agenttuning.rollout.job import play_tasks
    from agenttuning.storage.index import read_index

    recipe, store = session.recipe, session.store.child("trajectories")
    by_environment: dict[str, list[Task]] = {}
    for task in tasks:
        by_environment.setdefault(task.environment, []).append(task)
    first = [task for group in by_environment.values() for task in group[: recipe.rollout.pilot]]
    once = recipe.model_copy(update={"rollout": recipe.rollout.model_copy(update={"attempts": 1})})
    with Progress("pilot", len(first), "episodes") as bar:
        play_tasks(
            first,
            once,
            policy,
            store,
            on_progress=show_on(bar),
            temperatures=once.rollout.temperatures,
            spent_elsewhere=elsewhere,
        )
    stored = read_index(store)
    totals = {name: len(group) * recipe.rollout.attempts for name, group in by_environment.items()}
    thresholds = {name: spec.reward_threshold for name, spec in recipe.environments.items()}
    at_once = recipe.rollout.actors[1] * recipe.rollout.episodes_in_flight
    spent = elsewhere + float(pc.sum(stored.column("cost")).as_py() or 0.0)
    parts = forecast(stored, totals, thresholds, quota)
    say(f"generate: forecast by {stored.num_rows} episodes\n{forecast_text(parts, spent, at_once, policy)}")


def _settled(session: Session, state: StageState, quota: dict[str, int]) -> bool:
    """Return whether a stage that was done once has nothing left to do, or what follows was made of it already."""
    if not state.done:
        return False
    unfinished, lost = state.info.get("unfinished", 0), lost_episodes(session.store.child("trajectories"))
    if session.store.child("mixture").exists(MANIFEST):
        if unfinished:
            say(f"generate: {unfinished} attempts stay unplayed: the mixture is made without them")
        if lost:
            say(f"generate: {lost} stored episodes are gone, in files torn or deleted; the mixture is made already")
        return True
    if lost:
        say(f"generate: {lost} stored episodes are gone, in files torn or deleted; they are played again")
    return not unfinished and not lost and state.info.get("quota", {}) == quota


def _quota(session: Session) -> dict[str, int]:
    """Return how many rewarded trajectories are enough, by environment, after what the last curation kept of them."""
    from agenttuning.curation.quota import aim
    from agenttuning.curation.report import CurationReport
    from agenttuning.curation.run import REPORT

    quota, curated = dict(session.recipe.curation.quota), session.store.child("curated")
    if not quota or not curated.exists(REPORT):
        return quota
    groups = CurationReport.model_validate(curated.read_json(REPORT)).environments
    rewarded = {name: group.collected - group.dropped.get("reward", 0) for name, group in groups.items()}
    return aim(quota, rewarded, {name: group.kept for name, group in groups.items()})


def _heed_unfinished(told: Sequence["RolloutSummary"], recipe: Recipe) -> None:
    unfinished, total = sum(s.unfinished for s in told), sum(s.total for s in told)
    if not unfinished:
        return
    why = "; ".join([failure for summary in told for failure in summary.failures][:2])
    said = f"generate: {unfinished} of {total} attempts could not be played ({why})"
    if unfinished > recipe.rollout.allow_unfinished * total:
        raise InfrastructureError(
            f"{said}. What was played is stored: run the same command again to play the rest, or set "
            "rollout.allow_unfinished to the share that you can do without"
        )
    say(f"{said}; rollout.allow_unfinished={recipe.rollout.allow_unfinished:g} goes on without them")


def _policy_key(policy: PolicySpec) -> dict[str, Any]:
    """Return what decides the trajectories; patience, limits and prices do not."""
    others = {
        "request_timeout_s",
        "patience_s",
        "drop_slow",
        "api_key_env",
        "base_url",
        "concurrency",
        "prices",
        "budget",
    }
    return policy.model_dump(mode="json", exclude=others)


def _tracked(stage: str, bar: Progress, tracker: "Tracker") -> "OnProgress":
    """Return what shows progress, and tracks it every few seconds over the number of stored episodes."""
    show, last = show_on(bar), [0.0, -1]

    def track(done: int, total: int, by_environment: dict[str, Any]) -> None:
        show(done, total, by_environment)
        if done == last[1] or (time.monotonic() - last[0] < TRACKED_SECONDS and done < total):
            return
        last[:] = [time.monotonic(), done]
        metrics = {}
        for name, tally in by_environment.items():
            shown = {k: v for k, v in tally.as_dict().items() if isinstance(v, int | float)}
            if tally.total:
                metrics.update({f"{stage}/{name}/{key}": value for key, value in shown.items()})
            failures = {kind.replace(": ", "_").replace(" ", "_"): count for kind, count in tally.failures.items()}
            metrics.update({f"{stage}/{name}/failures/{kind}": count for kind, count in failures.items()})
        tracker.log(metrics, done)

    return track
