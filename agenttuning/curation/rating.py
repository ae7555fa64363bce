"""The difficulty of what an expert solved, where its environment does not say it before."""

from functools import lru_cache

from agenttuning.environments.base import environment_class, registered
from agenttuning.environments.difficulty import from_steps
from agenttuning.trajectory import Outcome, Trajectory

SOLVED = 1.0 - 1e-9


def rated(trajectory: Trajectory) -> Trajectory:
    """Return the trajectory with its task's difficulty by the expert's steps, where it is known by them alone.

    Counted are trained turns: deliberate mistakes are no part of the solution. A difficulty that the task has stays,
    and what another policy played has none: its way may be as long as it likes.
    """
    task = trajectory.task
    if task.difficulty is not None or trajectory.policy != "expert" or trajectory.reward < SOLVED:
        return trajectory
    steps, limit = sum(1 for turn in trajectory.turns if turn.loss), _limit(task.environment)
    if limit is None or not steps or trajectory.outcome is not Outcome.COMPLETED:
        return trajectory
    update = {"task": task.model_copy(update={"difficulty": from_steps(steps, limit)})}
    return trajectory.model_copy(update=update)


@lru_cache(maxsize=64)
def _limit(environment: str) -> int | None:
    """Return an environment's own limit on turns, whatever a recipe allows: the scale is one for all runs."""
    if environment not in registered():
        return None
    limit = environment_class(environment).max_steps
    return limit if limit > 1 else None
