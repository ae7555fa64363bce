"""Learning rates, and how many steps fit a time limit. Pure functions of the step.

The rate rises linearly over the warm-up and falls along a cosine to its floor at the last step. Where the recipe
limits the time, the first steps are timed inside the warm-up; the number of steps is then fixed before the cosine
begins, and kept in every checkpoint.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from agenttuning.recipe import Training

TIMED_STEPS = 4
"""Steps after which a time limit is turned into a number of steps. The first is not counted: it warms caches."""


@dataclass(frozen=True)
class Schedule:
    """Warm-up, cosine, floor.

    Attributes:
        peak: the highest learning rate.
        floor: the lowest, as a share of `peak`.
        warmup: steps that rise.
        steps: steps in all.
    """

    peak: float
    floor: float
    warmup: int
    steps: int

    def rate(self, step: int) -> float:
        """Return the learning rate of step `step`, from 0."""
        if step < self.warmup:
            return self.peak * (step + 1) / self.warmup
        done = (step + 1 - self.warmup) / max(1, self.steps - self.warmup)
        return self.peak * (self.floor + (1 - self.floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, done))))


def make_schedule(training: Training, steps: int) -> Schedule:
    """Return the schedule of a run of `steps` steps; the steps that are timed always lie in its warm-up."""
    warmup = max(1, round(training.warmup_ratio * steps))
    if training.max_seconds is not None:
        warmup = max(warmup, TIMED_STEPS)
    return Schedule(training.learning_rate, training.min_learning_rate_ratio, warmup, steps)


def steps_within(limit: float, tokens: Sequence[int], seconds: Sequence[float], spent: float) -> int:
    """Return how many steps fit a time limit, by the speed of the steps so far.

    Args:
        limit: seconds in all.
        tokens: tokens of each planned step.
        seconds: duration of each step so far; the first is left out where there are more.
        spent: seconds since the start, with what is not in `seconds`.
    """
    timed = len(seconds)
    first = min(1, timed - 1)
    speed = sum(tokens[first:timed]) / sum(seconds[first:])
    left = (limit - spent) * speed
    for step in range(timed, len(tokens)):
        left -= tokens[step]
        if left < 0:
            return max(step, timed + 1)
    return len(tokens)
