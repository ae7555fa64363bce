"""How hard a task is, from 0 to 1, by the turns that its solution takes. Pure; one scale for all environments."""

FIFTHS = 5
"""Equal ranges of difficulty that quotas and reports tell apart."""


def from_steps(steps: int, max_steps: int) -> float:
    """Return 0 for a task solved in one step, 1 for one that takes the whole limit.

    Args:
        steps: agent turns of the expert's solution.
        max_steps: the environment's limit on turns.

    Raises:
        ValueError: fewer than one step, or a limit below two.
    """
    if steps < 1 or max_steps < 2:
        raise ValueError(f"difficulty: steps must be 1 or more (got {steps}) and max_steps 2 or more (got {max_steps})")
    return min(1.0, (steps - 1) / (max_steps - 1))


def range_of(difficulty: float, ranges: int = FIFTHS) -> int:
    """Return in which of so many equal ranges a difficulty lies, from 0 for the easiest."""
    return min(ranges - 1, int(difficulty * ranges))
