"""Success rates with intervals: Wilson for one rate, Newcombe for a difference, bootstrap for paired losses.

Pure functions over counts and numbers; nothing here reads a file or knows an environment. The Wilson interval keeps
its coverage near 0 and 1 and for a few dozen episodes, where `p +- z * sqrt(p * (1 - p) / n)` does not
(Wilson 1927; Newcombe 1998 for the difference, method 10).
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from statistics import NormalDist

from pydantic import BaseModel, ConfigDict

BOOTSTRAP_SAMPLES = 2000


class Rate(BaseModel):
    """A share of successes and its Wilson interval. Of no episodes it is 0 with the interval [0, 1]: unknown."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    success: float
    low: float
    high: float
    episodes: int
    successes: int

    def text(self) -> str:
        """Return the rate for people: `58.3 % [38.8, 75.5]`, or `-` of no episodes."""
        if not self.episodes:
            return "-"
        return f"{100 * self.success:.1f} % [{100 * self.low:.1f}, {100 * self.high:.1f}]"


def wilson(successes: int, episodes: int, confidence: float = 0.95) -> tuple[float, float]:
    """Return the Wilson score interval of a share, inside [0, 1].

    Raises:
        ValueError: `successes` is not within 0 and `episodes`.
    """
    if not 0 <= successes <= episodes:
        raise ValueError(f"wilson: successes must lie within 0 and episodes (got {successes} of {episodes})")
    if episodes == 0:
        return 0.0, 1.0
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    share = successes / episodes
    scale = 1 + z * z / episodes
    centre = (share + z * z / (2 * episodes)) / scale
    half = z / scale * math.sqrt(share * (1 - share) / episodes + z * z / (4 * episodes * episodes))
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    high = 1.0 if successes == episodes else min(1.0, centre + half)
    return low, high


def rate(successes: int, episodes: int, confidence: float = 0.95) -> Rate:
    """Return a success rate with its interval."""
    low, high = wilson(successes, episodes, confidence)
    share = successes / episodes if episodes else 0.0
    return Rate(success=share, low=low, high=high, episodes=episodes, successes=successes)


def rate_of(passed: Iterable[bool], confidence: float = 0.95) -> Rate:
    """Return the rate of a list of verdicts."""
    verdicts = list(passed)
    return rate(sum(verdicts), len(verdicts), confidence)


def rates_by(verdicts: Iterable[tuple[str, bool]], confidence: float = 0.95) -> dict[str, Rate]:
    """Return one rate per name (environment, family, category), names sorted."""
    groups: dict[str, list[bool]] = {}
    for name, passed in verdicts:
        groups.setdefault(name, []).append(passed)
    return {name: rate_of(groups[name], confidence) for name in sorted(groups)}


def pooled(rates: Mapping[str, Rate], confidence: float = 0.95) -> Rate:
    """Return the rate over all episodes of several rates."""
    return rate(sum(r.successes for r in rates.values()), sum(r.episodes for r in rates.values()), confidence)


def overlap(first: Rate, second: Rate) -> bool:
    """Return whether two intervals share a point. Disjoint ones are the strict sense of "better"."""
    return first.low <= second.high and second.low <= first.high


def difference(tuned: Rate, base: Rate) -> tuple[float, float, float]:
    """Return `tuned - base` and its interval (Newcombe's hybrid of the two Wilson intervals)."""
    delta = tuned.success - base.success
    below = math.hypot(tuned.success - tuned.low, base.high - base.success)
    above = math.hypot(tuned.high - tuned.success, base.success - base.low)
    return delta, max(-1.0, delta - below), min(1.0, delta + above)


def token_mean(losses: Sequence[float], tokens: Sequence[int]) -> float:
    """Return the mean loss per token of dialogues given by their mean losses and token counts.

    Raises:
        ValueError: no tokens at all.
    """
    total = sum(tokens)
    if total == 0:
        raise ValueError("token_mean: no supervised token in any dialogue")
    return math.fsum(loss * count for loss, count in zip(losses, tokens, strict=True)) / total


def paired_bootstrap(
    base: Sequence[float],
    tuned: Sequence[float],
    tokens: Sequence[int],
    confidence: float = 0.95,
    samples: int = BOOTSTRAP_SAMPLES,
    seed: int = 0,
) -> tuple[float, float, float]:
    """Return the difference of token-mean losses `tuned - base` and its percentile interval.

    Dialogues are drawn with replacement, the same draw for both models, so what the two share cancels.

    Args:
        base: mean loss of each dialogue under the base model (nats per token), shape (dialogues,).
        tuned: the same dialogues under the tuned model.
        tokens: supervised tokens of each dialogue.
        confidence: mass of the interval.
        samples: bootstrap draws.
        seed: seeds the draws.
    """
    import numpy as np

    weights = np.asarray(tokens, dtype=np.float64)
    gaps = (np.asarray(tuned, dtype=np.float64) - np.asarray(base, dtype=np.float64)) * weights
    draws = np.random.default_rng(seed).integers(0, len(weights), size=(samples, len(weights)))
    means = gaps[draws].sum(axis=1) / weights[draws].sum(axis=1)
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(gaps.sum() / weights.sum()), float(low), float(high)
