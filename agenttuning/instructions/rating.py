"""Tasks rated by how often a run's policy solved them, so that curation need not keep only what is easy."""

from collections import Counter

from agenttuning.errors import DataError
from agenttuning.instructions.difficulty import from_passes, with_difficulty
from agenttuning.storage.segments import read_trajectories
from agenttuning.storage.store import Store
from agenttuning.trajectory import Task


def rated_tasks(trajectories: Store, environment: str, threshold: float) -> list[Task]:
    """Return the tasks of an environment that were played, each with its difficulty by `difficulty.from_passes`.

    Args:
        trajectories: the directory of a run's trajectories.
        environment: whose tasks.
        threshold: reward from which an attempt is a pass.

    Raises:
        DataError: no task of the environment was played.
    """
    tasks, attempts, passes = dict[str, Task](), Counter[str](), Counter[str]()
    for trajectory in read_trajectories(trajectories):
        task = trajectory.task
        if task.environment == environment:
            tasks[task.id] = task
            attempts[task.id] += 1
            passes[task.id] += trajectory.reward >= threshold
    if not tasks:
        raise DataError(
            f"instructions rate: {trajectories.uri} has no trajectories of {environment!r}; run `agenttuning generate`"
        )
    difficulties = {task: from_passes(passes[task], attempts[task]) for task in tasks}
    return with_difficulty(tasks.values(), difficulties)
