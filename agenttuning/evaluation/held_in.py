"""The held-in suite: play the test and the shifted tasks with a served model, and score what was stored.

Scores are computed from the stored trajectories alone, so they can be computed again. `held_in.json` holds

    {"model", "confidence", "tasks": n, "played": n,
     "test": SPLIT, "shifted": SPLIT}
    SPLIT = {"overall": RATE, "by_environment": {name: ENVIRONMENT}}
    ENVIRONMENT = {"rate": RATE, "mean_score", "mean_turns", "families": {family: RATE},
                   "failures": {mode: episodes}, "signs": {mode: episodes}}
    RATE = {"success", "low", "high", "episodes", "successes"}

`test` is the main figure; `shifted` (wording and schema or layout that no train task has) stands beside it and never
enters it. `failures` counts each failed episode once, `signs` every sign in every episode. An episode that the
infrastructure kept from being played fails the stage, not the model: it is played when the stage runs again.
"""

from collections.abc import Callable, Iterable
from typing import Any

from pydantic import BaseModel, ConfigDict

from agenttuning.environments.base import make_environment
from agenttuning.errors import InfrastructureError
from agenttuning.evaluation.failures import count_modes, count_signs, succeeded
from agenttuning.evaluation.scoring import Rate, pooled, rate_of, rates_by
from agenttuning.recipe import PolicySpec, Recipe
from agenttuning.storage import Store
from agenttuning.storage.segments import read_trajectories
from agenttuning.trajectory import Task, Trajectory

HELD_IN = "held_in.json"
TRAJECTORIES = "trajectories"
SPLITS = ("test", "shifted")

OnProgress = Callable[[int, int, dict[str, Any]], None]


class _Result(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class EnvironmentResult(_Result):
    """What one environment's episodes of one split came to."""

    rate: Rate
    mean_score: float
    """Mean of the benchmark's own metric, in [0, 1]."""
    mean_turns: float
    """Mean number of the agent's turns."""
    families: dict[str, Rate]
    failures: dict[str, int]
    signs: dict[str, int]


class SplitResult(_Result):
    """One split, over all environments and by environment."""

    overall: Rate
    by_environment: dict[str, EnvironmentResult]


class HeldInResult(_Result):
    """The held-in scores of one model."""

    model: str
    confidence: float
    tasks: int
    played: int
    test: SplitResult
    shifted: SplitResult

    def rows(self) -> list[list[Any]]:
        """Return rows of environment, success, low, high, episodes: all of the test split, then the shifted one."""
        lines: list[list[Any]] = []
        for name, split in (("", self.test), (" (shifted)", self.shifted)):
            if split.overall.episodes:
                rates = {e: r.rate for e, r in split.by_environment.items()} | {"all": split.overall}
                lines += [[f"{e}{name}", r.success, r.low, r.high, r.episodes] for e, r in rates.items()]
        return lines

    def headline(self) -> dict[str, Any]:
        """Return the main figure: success on the test split with its interval."""
        return self.test.overall.model_dump()


def test_tasks(recipe: Recipe) -> list[Task]:
    """Build the test and the shifted tasks of every environment, the same for the same recipe.

    Raises:
        ConfigurationError: an environment is unknown or refuses its settings.
    """
    tasks: list[Task] = []
    for name, spec in recipe.environments.items():
        with make_environment(name, spec.settings, recipe.data.root) as environment:
            for split, count in zip(SPLITS, (spec.test_tasks, spec.shifted_tasks), strict=True):
                tasks += environment.tasks(split, count, recipe.run.seed)
    return tasks


def evaluate_held_in(
    endpoint_base_url: str,
    model_name: str,
    recipe: Recipe,
    tasks: list[Task],
    store: Store,
    on_progress: OnProgress | None = None,
    send_seed: bool = True,
) -> HeldInResult:
    """Play `tasks` with a served model, store every episode, score them, and write `held_in.json`.

    Args:
        endpoint_base_url: an OpenAI-compatible URL up to `/v1`.
        model_name: the model's name there.
        recipe: limits, decoding (`evaluation`) and environments.
        tasks: what `test_tasks` returned.
        store: the directory of this model's evaluation; episodes go to `trajectories/` below it.
        on_progress: called with episodes done, episodes in all, and counts by environment.
        send_seed: pass a seed with each sampled request; off for servers that do not bear one (`Endpoint.takes_seed`).

    Raises:
        InfrastructureError: some episodes could not be played; those that were are kept for the next run.
    """
    from agenttuning.rollout.job import play_tasks

    episodes = store.child(TRAJECTORIES)
    evaluation = recipe.evaluation
    policy = PolicySpec(
        kind="endpoint",
        base_url=endpoint_base_url,
        model=model_name,
        temperature=evaluation.temperature,
        max_tokens=evaluation.max_tokens,
        send_seed=send_seed,
    )
    told = play_tasks(tasks, one_attempt(recipe), policy, episodes, on_progress=on_progress)
    wanted = {task.id for task in tasks}
    played = [t for t in read_trajectories(episodes) if t.task.id in wanted]
    missing = len(wanted - {t.task.id for t in played})
    if missing:
        raise InfrastructureError(
            f"evaluation: {missing} of {len(wanted)} episodes could not be played ({'; '.join(told.failures[:2])}); "
            f"what was played is stored in {episodes.uri}. Run the same command again: it plays only the missing ones"
        )
    result = score_held_in(played, model_name, len(wanted), evaluation.confidence)
    store.write_json(HELD_IN, result.model_dump(mode="json"))
    return result


def one_attempt(recipe: Recipe) -> Recipe:
    """Return the recipe for playing an evaluation: one attempt per task, `evaluation.concurrency` episodes at once."""
    actors = recipe.rollout.actors
    rollout = recipe.rollout.model_copy(
        update={"attempts": 1, "episodes_in_flight": max(1, recipe.evaluation.concurrency // actors[1])}
    )
    return recipe.model_copy(update={"rollout": rollout})


def score_held_in(played: Iterable[Trajectory], model: str, tasks: int, confidence: float = 0.95) -> HeldInResult:
    """Score stored trajectories: pure, by split and environment. A task counts once (its first attempt)."""
    first: dict[str, Trajectory] = {}
    for trajectory in sorted(played, key=lambda t: (t.task.environment, t.task.id, t.attempt, t.id)):
        first.setdefault(trajectory.task.id, trajectory)
    splits = {s: _split([t for t in first.values() if t.task.split == s], confidence) for s in SPLITS}
    return HeldInResult(model=model, confidence=confidence, tasks=tasks, played=len(first), **splits)


def _split(played: list[Trajectory], confidence: float) -> SplitResult:
    groups: dict[str, list[Trajectory]] = {}
    for trajectory in played:
        groups.setdefault(trajectory.task.environment, []).append(trajectory)
    results = {name: _environment(group, confidence) for name, group in groups.items()}
    return SplitResult(overall=pooled({n: r.rate for n, r in results.items()}, confidence), by_environment=results)


def _environment(played: list[Trajectory], confidence: float) -> EnvironmentResult:
    return EnvironmentResult(
        rate=rate_of((succeeded(t) for t in played), confidence),
        mean_score=sum(t.score for t in played) / len(played),
        mean_turns=sum(t.steps for t in played) / len(played),
        families=rates_by(((t.task.family, succeeded(t)) for t in played), confidence),
        failures=count_modes(played),
        signs=count_signs(played),
    )
