"""Many derivations: each task becomes a trajectory in a directory that curation reads, or is told by its reason.

Each finished task is a file of its own, `segments/<task>-000000.jsonl` or `refused/<task>.json`: run again, what is
there is not asked for again. Several tasks are under way at once, each in an environment of its own.
"""

import asyncio
import json
from collections import Counter
from collections.abc import Callable, Sequence
from hashlib import sha256
from itertools import islice
from typing import Any

from agenttuning.conversations.sources import source_records
from agenttuning.environments.base import Environment
from agenttuning.instructions.derivation import NotDerived, derive_trajectory
from agenttuning.instructions.proposals import Proposals, Refused
from agenttuning.instructions.trials import ContractTrials
from agenttuning.policies.base import Policy
from agenttuning.storage.segments import SEGMENTS, commit_segment
from agenttuning.storage.store import Store
from agenttuning.trajectory import Task, Trajectory, content_hash

DERIVED = "derived"
SETTING = "instructions derive --from"
"""What an error about a file of questions names as the place to mend."""


async def derive_all(
    environments: Sequence[Environment],
    tasks: Sequence[Task],
    policy: Policy,
    store: Store,
    *,
    seed: int = 0,
    threshold: float = 1.0,
    on_progress: Callable[[int], None] | None = None,
) -> dict[str, int]:
    """Derive a trajectory of each task from its environment's expert, and store it.

    Args:
        environments: as many tasks are under way at once; closed by the caller.
        tasks: of one environment, each with a gold program.
        policy: writes the thoughts.
        store: the directory that gets `segments/` and `refused/`.
        seed: of the policy's requests, with each task's id.
        threshold: reward from which a trajectory is good.
        on_progress: called with the tasks that are done.

    Returns:
        How many tasks were derived, and how many were not, by reason.

    Raises:
        ConfigurationError: a task has no gold program.
        InfrastructureError: a world broke, or the policy's patience is over; run again to continue.
    """
    found = {task.id: _stored(store, task) for task in tasks}
    done = Counter(reason for reason in found.values() if reason)
    waiting = iter([task for task in tasks if not found[task.id]])

    async def work(environment: Environment) -> None:
        solutions = ContractTrials(environment).solutions
        for task in waiting:
            (solution,) = solutions(task).values()
            number = int(content_hash([seed, task.id], 7), 16)
            made = await derive_trajectory(environment, task, solution, policy, seed=number, threshold=threshold)
            done[_keep(store, task, made)] += 1
            if on_progress:
                on_progress(done.total())

    await asyncio.gather(*(work(environment) for environment in environments))
    return dict(done.most_common())


def read_questions(proposals: Proposals, path: str, count: int) -> tuple[list[Task], list[dict[str, Any]]]:
    """Read questions with gold programs from a file, in the form in which a policy proposes tasks.

    Args:
        proposals: the environment's side.
        path: JSON, JSON lines or Parquet.
        count: how many are read.

    Returns:
        The tasks, and what is none: `{"record", "reason", "detail"}`.
    """
    tasks, refused = dict[str, Task](), list[dict[str, Any]]()
    records = source_records(path, SETTING)
    for _, place, record in islice(records, count):
        try:
            task = proposals.task(record)
            if task.id in tasks:
                raise Refused("repeated", f"it is the task of an earlier record: {task.instruction[:100]}")
            tasks[task.id] = task
        except Refused as error:
            refused.append({"record": place, "reason": error.reason, "detail": str(error)})
    return list(tasks.values()), refused


def questions_hash(path: str) -> str:
    """Return a hash of all records of a file of questions; the same however many of them are read."""
    digest = sha256()
    for _, _, record in source_records(path, SETTING):
        digest.update(json.dumps(record, sort_keys=True, default=str).encode() + b"\n")
    return digest.hexdigest()[:16]


def _stored(store: Store, task: Task) -> str:
    """Return what an earlier run made of a task: `derived`, the reason why not, or nothing."""
    if store.exists(f"{SEGMENTS}/{task.id}-000000.jsonl"):
        return DERIVED
    name = _refusal(task)
    return str(store.read_json(name)["reason"]) if store.exists(name) else ""


def _keep(store: Store, task: Task, made: Trajectory | NotDerived) -> str:
    if isinstance(made, NotDerived):
        store.write_json(_refusal(task), {"reason": made.reason, "detail": made.detail, "task": task.id})
        return made.reason
    commit_segment(store, task.id, 0, [made])
    return DERIVED


def _refusal(task: Task) -> str:
    return f"refused/{task.id}.json"
