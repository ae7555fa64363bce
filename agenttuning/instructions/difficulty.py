"""How hard a task is, from 0 to 1, by how often a reference policy solves it; and tasks taken evenly by it. Pure.

The other scale, by the expert's steps, is `environments.difficulty`. Both say where a task stands among others of its
environment; they are not the same scale, and a table of tasks should use one of them. Curation and quotas can then
take tasks of every difficulty, where keeping what a policy solves keeps the easy ones.
"""

from collections.abc import Iterable, Mapping, Sequence

from agenttuning.environments.difficulty import FIFTHS, range_of
from agenttuning.trajectory import Task

PRIOR = (0.5, 0.5)
"""Jeffreys' prior for a pass rate: solved and unsolved attempts seen before any is made."""


def from_passes(passes: int, attempts: int) -> float:
    """Return one minus the pass rate, drawn towards a half by Jeffreys' prior where attempts are few.

    Args:
        passes: how many attempts of a reference policy solved the task.
        attempts: how many were made; 0 gives 0.5.

    Raises:
        ValueError: fewer attempts than passes, or a negative number.
    """
    _check(passes, attempts)
    return 1.0 - (passes + PRIOR[0]) / (attempts + sum(PRIOR))


def with_difficulty(tasks: Iterable[Task], difficulties: Mapping[str, float]) -> list[Task]:
    """Return tasks with the difficulty that is known for their id; the others as they are.

    A difficulty is what was measured on a task, not part of what the task is: an id must not change by it.
    """
    return [
        task.model_copy(update={"difficulty": difficulties[task.id]}) if task.id in difficulties else task
        for task in tasks
    ]


def spread(tasks: Sequence[Task], count: int, bins: int = FIFTHS) -> list[Task]:
    """Return up to `count` tasks, as evenly as can be from `bins` equal ranges of difficulty, in their order.

    Tasks without a difficulty are a range of their own. Where a range has too few, the others give more.
    """
    if count >= len(tasks):
        return list(tasks)
    shelves: dict[int, list[int]] = {}
    for index, task in enumerate(tasks):
        shelf = bins if task.difficulty is None else range_of(task.difficulty, bins)
        shelves.setdefault(shelf, []).append(index)
    chosen: list[int] = []
    queues = [shelves[key] for key in sorted(shelves)]
    depth = 0
    while len(chosen) < count:
        layer = [queue[depth] for queue in queues if depth < len(queue)]
        chosen += layer[: count - len(chosen)]
        depth += 1
    return [tasks[index] for index in sorted(chosen)]


def _check(passes: int, attempts: int) -> None:
    if not 0 <= passes <= attempts:
        raise ValueError(f"difficulty: passes must lie from 0 to attempts (got {passes} of {attempts})")
