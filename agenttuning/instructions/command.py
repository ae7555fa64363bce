"""What the verb `instructions` does: let a policy propose tasks, derive from gold programs, prove or rate tasks.

Written below the run's `instructions/<environment>/`: `tasks.jsonl`, `report.json` and `requests/` by `propose` (see
`self_instruct`); `proven.jsonl` and `validation.json` by `prove`; `derived.jsonl` and `derivation.json` by `derive`
from a file of questions; `rated.jsonl` by `rate`. Derived trajectories are stored below `imported/`, where curation
reads them.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, TypeVar

from agenttuning.conversations.importing import name_of
from agenttuning.environments.base import Environment, environment_class, make_environment
from agenttuning.environments.difficulty import from_steps
from agenttuning.errors import ConfigurationError
from agenttuning.instructions.derived_runs import DERIVED, derive_all, questions_hash, read_questions
from agenttuning.instructions.difficulty import spread, with_difficulty
from agenttuning.instructions.known import proposals_for, trials_for
from agenttuning.instructions.rating import rated_tasks
from agenttuning.instructions.self_instruct import Made, Plan, self_instruct
from agenttuning.instructions.trials import Trials
from agenttuning.instructions.validation import counts, validate
from agenttuning.policies.endpoint import EndpointPolicy
from agenttuning.policies.spending import Spending
from agenttuning.progress import Progress
from agenttuning.recipe import Recipe
from agenttuning.storage.manifest import begin_stage, finish_stage
from agenttuning.storage.segments import segment_names
from agenttuning.storage.store import Store
from agenttuning.trajectory import Task

DIRECTORY = "instructions"
MISTAKE_RATE = "mistake_rate"
"""Setting of environments whose expert makes deliberate mistakes: what it plays with them proves nothing of a task."""
AT_ONCE = 4
"""Tasks that are derived at once, each in an environment of its own."""
T = TypeVar("T")


def propose(recipe: Recipe, name: str, store: Store, plan: Plan) -> Made:
    """Let the recipe's endpoint propose tasks of an environment, and solve each a second time.

    Args:
        recipe: `policy` names the endpoint; `environments.<name>.settings` the world.
        name: `os` or `db`.
        store: the run's directory.
        plan: how much.

    Raises:
        ConfigurationError: no endpoint, or an environment that takes no proposals.
        InfrastructureError: the endpoint's patience is over; run again to continue.
    """
    _need_endpoint(recipe, "propose")
    with _environment(recipe, name) as environment, Progress("instructions", plan.count, "tasks kept") as bar:
        proposals, target = proposals_for(environment), store.child(DIRECTORY, name)

        def made(policy: EndpointPolicy) -> Awaitable[Made]:
            return self_instruct(proposals, policy, target, plan, policy, lambda kept, _: bar.update(kept))

        return _asked(recipe, target, made)


def derive(
    recipe: Recipe,
    name: str,
    store: Store,
    count: int,
    *,
    questions: str | None = None,
    tasks_only: bool = False,
    split: str = "train",
) -> dict[str, Any]:
    """Derive from gold programs: trajectories whose thoughts the recipe's endpoint writes, or tasks alone.

    Args:
        recipe: `policy` names the endpoint; `environments.<name>.settings` and `data.root` the world and its tasks.
        name: a registered environment that has gold programs or an expert.
        store: the run's directory.
        count: how many tasks or questions at most.
        questions: a file of questions with gold programs, of which tasks are made and validated first; None: the
            environment's own tasks.
        tasks_only: end there: the tasks are for any policy to play.
        split: of the tasks; only `train` becomes trajectories.

    Returns:
        `{"counts": {"derived" or reason: tasks}}`, and with questions `"validation"`: the report on their tasks.

    Raises:
        ConfigurationError: no endpoint, an environment without gold programs, or nothing to derive from.
        InfrastructureError: the endpoint's patience is over; run again to continue.
    """
    if tasks_only and questions is None:
        raise ConfigurationError(
            "instructions derive --tasks-only makes tasks of the questions in a file: name it with --from. The "
            "environment's own tasks are there already; `agenttuning instructions prove` validates them"
        )
    if not tasks_only:
        _need_endpoint(recipe, "derive")
        if split != "train":
            raise ConfigurationError(f"instructions derive: {split!r} tasks are never learned from; use train")
    told: dict[str, Any] = {}
    with _environment(recipe, name) as environment:
        if questions is None:
            tasks = list(environment.tasks(split, count, recipe.run.seed))
        else:
            proposals = proposals_for(environment, split, DERIVED)
            drafts, refused = read_questions(proposals, questions, count)
            tasks, report = _proven(drafts, proposals.trials)
            told = {"counts": {DERIVED: len(tasks)}, "validation": {**report, "refused": refused}}
            _write(store.child(DIRECTORY, name), "derived.jsonl", tasks, "derivation.json", told["validation"])
    return told if tasks_only else {**told, "counts": _derived(recipe, name, store, tasks, questions)}


def _derived(recipe: Recipe, name: str, store: Store, tasks: Sequence[Task], questions: str | None) -> dict[str, int]:
    target = store.child("imported", "-".join([DERIVED, name, *([name_of(questions)] if questions else [])]))
    spec = recipe.environments[name]

    async def made(policy: EndpointPolicy) -> dict[str, int]:
        key: dict[str, Any] = {"environment": name, "version": environment_class(name).version}
        key |= {"settings": spec.settings, "reward_threshold": spec.reward_threshold, "data": recipe.data.model_dump()}
        key |= {"from": {"path": questions, "records": questions_hash(questions)} if questions else None}
        key |= {"seed": recipe.run.seed, "policy": [policy.name, policy.settings]}
        begin_stage(target, "instructions derive", key)
        with ExitStack() as stack, Progress("instructions", len(tasks), "tasks tried") as bar:
            worlds = [stack.enter_context(_environment(recipe, name)) for _ in range(min(AT_ONCE, len(tasks)))]
            counted = await derive_all(
                worlds,
                tasks,
                policy,
                target,
                seed=recipe.run.seed,
                threshold=spec.reward_threshold,
                on_progress=bar.update,
            )
        finish_stage(target, "instructions derive", key, {"counts": counted, "segments": segment_names(target)})
        return counted

    return _asked(recipe, store.child(DIRECTORY, name), made)


def prove(recipe: Recipe, name: str, store: Store, split: str, count: int) -> dict[str, Any]:
    """Validate tasks of an environment by execution; write the proven ones with their difficulty, and the report.

    Args:
        recipe: `environments.<name>.settings` and `data.root` say which tasks; `run.seed` draws them.
        name: a registered environment that has gold programs or an expert.
        store: the run's directory.
        split: which tasks.
        count: how many at most.

    Returns:
        `{"counts": {source: {"kept" or reason: tasks}}, "dropped": [{"id", "reason", "detail"}]}`.
    """
    with _environment(recipe, name, flawless=True) as environment:
        proven, report = _proven(list(environment.tasks(split, count, recipe.run.seed)), trials_for(environment))
    _write(store.child(DIRECTORY, name), "proven.jsonl", proven, "validation.json", report)
    return report


def rate(recipe: Recipe, name: str, store: Store, count: int) -> list[Task]:
    """Rate the tasks that the run has played by how often its policy solved them, and write an even choice of them.

    Args:
        recipe: `environments.<name>.reward_threshold` says what is solved.
        name: whose trajectories are read.
        store: the run's directory.
        count: how many are chosen, as evenly as can be from five ranges of difficulty.

    Raises:
        DataError: the run has played no task of the environment.
    """
    _need_environment(recipe, name)
    rated = rated_tasks(store.child("trajectories"), name, recipe.environments[name].reward_threshold)
    chosen = spread(rated, count)
    store.child(DIRECTORY, name).write("rated.jsonl", _lines(chosen))
    return chosen


def _proven(tasks: Sequence[Task], trials: Trials) -> tuple[list[Task], dict[str, Any]]:
    """Return the tasks that validation keeps, with their difficulty, and the report."""
    verdicts, limit = [], trials.environment.max_steps
    with Progress("instructions", len(tasks), "tasks tried") as bar:
        for task in tasks:
            verdicts.append(validate(task, trials))
            bar.update(len(verdicts))
    kept = [verdict for verdict in verdicts if verdict.kept]
    steps = {verdict.task.id: from_steps(max(1, verdict.steps or 1), limit) for verdict in kept}
    proven = with_difficulty([verdict.task for verdict in kept], steps) if limit > 1 else [v.task for v in kept]
    dropped = [
        {"id": verdict.task.id, "reason": verdict.reason.value, "detail": verdict.detail}
        for verdict in verdicts
        if verdict.reason is not None
    ]
    return proven, {"counts": counts(verdicts), "dropped": dropped}


def _write(target: Store, tasks_name: str, tasks: Sequence[Task], report_name: str, report: dict[str, Any]) -> None:
    target.write(tasks_name, _lines(tasks))
    target.write_json(report_name, report)


def _lines(tasks: Sequence[Task]) -> bytes:
    return b"".join(task.model_dump_json().encode() + b"\n" for task in tasks)


def _need_endpoint(recipe: Recipe, what: str) -> None:
    if recipe.policy.kind != "endpoint":
        raise ConfigurationError(f"instructions {what} needs policy.kind=endpoint (got {recipe.policy.kind!r})")


def _asked(recipe: Recipe, store: Store, work: Callable[[EndpointPolicy], Awaitable[T]]) -> T:
    """Run work that asks the recipe's endpoint, within the recipe's budget; what is spent is noted in `store`."""

    async def run() -> T:
        policy = EndpointPolicy.from_spec(recipe.policy, spending=Spending(store))
        try:
            return await work(policy)
        finally:
            await policy.aclose()

    return asyncio.run(run())


def _need_environment(recipe: Recipe, name: str) -> None:
    if name not in recipe.environments:
        raise ConfigurationError(
            f"instructions: {name!r} is not in the recipe; known: {', '.join(recipe.environments)}"
        )


@contextmanager
def _environment(recipe: Recipe, name: str, *, flawless: bool = False) -> Iterator[Environment]:
    """Open an environment; `flawless`: its expert makes no deliberate mistake, where it has a setting for them."""
    _need_environment(recipe, name)
    settings = recipe.environments[name].settings
    if flawless and MISTAKE_RATE in environment_class(name).Settings.model_fields:
        settings = {**settings, MISTAKE_RATE: 0.0}
    with make_environment(name, settings, recipe.data.root) as environment:
        yield environment
