"""What the verb `instructions` does: let a policy propose tasks, or prove the tasks that an environment has.

Written below the run's `instructions/<environment>/`: `tasks.jsonl`, `report.json` and `requests/` by `propose` (see
`self_instruct`); `proven.jsonl` and `validation.json` by `prove`.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from agenttuning.environments.base import Environment, make_environment
from agenttuning.environments.database.environment import Database
from agenttuning.environments.difficulty import from_steps
from agenttuning.environments.operating_system import OperatingSystem
from agenttuning.errors import ConfigurationError
from agenttuning.instructions.difficulty import with_difficulty
from agenttuning.instructions.proposals import Proposals
from agenttuning.instructions.self_instruct import Made, Plan, self_instruct
from agenttuning.instructions.shell_proposals import ShellProposals
from agenttuning.instructions.shell_trials import ShellTrials
from agenttuning.instructions.sql_proposals import SqlProposals
from agenttuning.instructions.sql_trials import SqlTrials
from agenttuning.instructions.trials import ContractTrials, Trials
from agenttuning.instructions.validation import counts, validate
from agenttuning.policies.endpoint import EndpointPolicy
from agenttuning.progress import Progress
from agenttuning.recipe import Recipe
from agenttuning.storage.store import Store

DIRECTORY = "instructions"


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
    if recipe.policy.kind != "endpoint":
        raise ConfigurationError(f"instructions propose needs policy.kind=endpoint (got {recipe.policy.kind!r})")

    async def run(proposals: Proposals) -> Made:
        policy = EndpointPolicy.from_spec(recipe.policy)
        try:
            with Progress("instructions", plan.count, "tasks kept") as bar:
                target = store.child(DIRECTORY).child(name)
                return await self_instruct(proposals, policy, target, plan, policy, lambda kept, _: bar.update(kept))
        finally:
            await policy.aclose()

    with _environment(recipe, name) as environment:
        return asyncio.run(run(proposals_for(environment)))


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
    with _environment(recipe, name) as environment:
        trials = trials_for(environment)
        tasks = list(environment.tasks(split, count, recipe.run.seed))
        verdicts = []
        with Progress("instructions", len(tasks), "tasks tried") as bar:
            for task in tasks:
                verdicts.append(validate(task, trials))
                bar.update(len(verdicts))
        limit = environment.max_steps
    kept = [verdict for verdict in verdicts if verdict.kept]
    steps = {verdict.task.id: from_steps(max(1, verdict.steps or 1), limit) for verdict in kept}
    proven = with_difficulty([verdict.task for verdict in kept], steps) if limit > 1 else [v.task for v in kept]
    dropped = [
        {"id": verdict.task.id, "reason": verdict.reason.value, "detail": verdict.detail}
        for verdict in verdicts
        if verdict.reason is not None
    ]
    report = {"counts": counts(verdicts), "dropped": dropped}
    target = store.child(DIRECTORY).child(name)
    target.write("proven.jsonl", b"".join(task.model_dump_json().encode() + b"\n" for task in proven))
    target.write_json("validation.json", report)
    return report


def trials_for(environment: Environment) -> Trials:
    """Return what is known to try on an environment's tasks; for a stranger's, its expert."""
    if isinstance(environment, OperatingSystem):
        return ShellTrials(environment)
    if isinstance(environment, Database):
        return SqlTrials(environment)
    return ContractTrials(environment)


def proposals_for(environment: Environment) -> Proposals:
    """Return how an environment's tasks are proposed.

    Raises:
        ConfigurationError: they are not.
    """
    if isinstance(environment, OperatingSystem):
        return ShellProposals(environment)
    if isinstance(environment, Database):
        return SqlProposals(environment)
    raise ConfigurationError(f"instructions propose: {environment.name!r} takes no proposals; known: os, db")


@contextmanager
def _environment(recipe: Recipe, name: str) -> Iterator[Environment]:
    if name not in recipe.environments:
        raise ConfigurationError(
            f"instructions: {name!r} is not in the recipe; known: {', '.join(recipe.environments)}"
        )
    with make_environment(name, recipe.environments[name].settings, recipe.data.root) as environment:
        yield environment
