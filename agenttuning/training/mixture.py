"""Which items each optimizer step trains: weighted sources, drawn so that shares hold at every single step.

Sources take turns by Tijdeman's rule (The chairman assignment problem, 1980): among the sources that may be chosen
without running ahead of their share, the one whose deadline comes first. It keeps every source's cumulative item count
within one of its share after every item, so after every step too. Each source is gone through in seeded shuffles, epoch
by epoch, without replacement. Nothing is drawn at random per step, so a step needs no history to be known again.
"""

import hashlib
import math
from dataclasses import dataclass
from fractions import Fraction
from typing import cast

import numpy as np
import numpy.typing as npt

from agenttuning.errors import ConfigurationError, DataError

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Draw:
    """The items of all steps.

    Attributes:
        sources: names of the sources.
        source: position in `sources`, int64 [steps, items_per_step].
        index: row in the source's table, int64 [steps, items_per_step].
        sizes: items that each source has.
    """

    sources: tuple[str, ...]
    source: Ints
    index: Ints
    sizes: tuple[int, ...]

    @property
    def steps(self) -> int:
        """Number of optimizer steps."""
        return len(self.source)

    def step(self, number: int) -> list[tuple[str, int]]:
        """Return the items of step `number` (from 0) as pairs of source and row."""
        rows = zip(self.source[number].tolist(), self.index[number].tolist(), strict=True)
        return [(self.sources[s], i) for s, i in rows]

    def counts(self) -> dict[str, int]:
        """Return how many items each source gives over all steps."""
        found = np.bincount(self.source.ravel(), minlength=len(self.sources)).tolist()
        return dict(zip(self.sources, found, strict=True))

    def epochs(self) -> dict[str, float]:
        """Return how often each source is gone through over all steps."""
        counts = self.counts()
        return {name: counts[name] / size for name, size in zip(self.sources, self.sizes, strict=True)}


def draw_items(
    weights: dict[str, float], sizes: dict[str, int], steps: int, items_per_step: int, seed: int | str
) -> Draw:
    """Draw the items of every optimizer step.

    Args:
        weights: share of each source, relative to each other.
        sizes: items that each source has.
        steps: optimizer steps.
        items_per_step: items of one step, over all workers.
        seed: a number or the data's fingerprint. Equal arguments give an equal draw; the first steps of a longer draw
            are the shorter draw.

    Raises:
        ConfigurationError: a weight is not above 0, or a weight has no source.
        DataError: a source has no items.
    """
    names = tuple(weights)
    for name, weight in weights.items():
        if not weight > 0:
            raise ConfigurationError(f"mixture.sources.{name}.weight must be above 0 (got {weight})")
        if name not in sizes:
            raise ConfigurationError(f"mixture.sources.{name}: no items were made for it; known: {', '.join(sizes)}")
        if sizes[name] < 1:
            raise DataError(
                f"mixture.sources.{name} has no items, so its share cannot be kept; look at what was dropped and why, "
                "or take it out of the recipe"
            )
    if not names:
        raise ConfigurationError("mixture.sources is empty: name at least one source")
    turns = _take_turns([weights[n] for n in names], steps * items_per_step)
    index = np.zeros_like(turns)
    for number, name in enumerate(names):
        places = np.flatnonzero(turns == number)
        index[places] = _epochs(sizes[name], len(places), f"{seed}/{name}")
    shape = (steps, items_per_step)
    return Draw(names, turns.reshape(shape), index.reshape(shape), tuple(sizes[n] for n in names))


def seed_of(key: str) -> int:
    """Return a seed that depends on nothing but `key`, the same on every machine."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:16], "big")


def _take_turns(weights: list[float], count: int) -> Ints:
    """Return the source of each item, int64 [count], every prefix within one of the shares.

    What a source is owed is kept in whole numbers: rounding must not add up over millions of items. Once as many items
    are drawn as the weights amount to in whole numbers, nothing is owed to anyone, and the turns begin again.
    """
    parts = _whole_numbers(weights)
    whole = sum(parts)
    half = max(1, 2 * len(parts) - 2)
    owed = [0] * len(parts)
    turns = np.empty(min(count, whole), np.int64)
    for number in range(turns.size):
        choice, soonest = -1, float("inf")
        for source, part in enumerate(parts):
            owed[source] += part
            if half * owed[source] >= whole:
                deadline = (half * (whole - owed[source]) - whole) / part
                if deadline < soonest:
                    choice, soonest = source, deadline
        owed[choice] -= whole
        turns[number] = choice
    return np.resize(turns, count)


def _whole_numbers(weights: list[float]) -> list[int]:
    """Return whole numbers in the proportion of some weights: small ones where the weights are plain fractions."""
    fractions = [Fraction(weight).limit_denominator(1000) for weight in weights]
    if any(float(f) != w for f, w in zip(fractions, weights, strict=True)):
        return [max(1, round(weight / sum(weights) * 2**50)) for weight in weights]
    common = math.lcm(*(f.denominator for f in fractions))
    parts = [int(f * common) for f in fractions]
    return [part // math.gcd(*parts) for part in parts]


def _epochs(size: int, count: int, key: str) -> Ints:
    """Return `count` rows of a source: one seeded shuffle after another, int64 [count]."""
    epochs = range(-(-count // size))
    shuffles = [np.random.default_rng(seed_of(f"{key}/{epoch}")).permutation(size) for epoch in epochs]
    return cast(Ints, np.concatenate([*shuffles, np.empty(0, np.int64)])[:count].astype(np.int64))
