"""How many requests may be in flight: additive increase, multiplicative decrease. A pure state machine.

Results are judged in rounds of as many as are allowed in flight (and no fewer than `LEAST_RESULTS`). At the end of a
round the limit

- falls by the share of requests that were refused as too many (429, 503, 529, "overloaded", time-outs), where that
  share is above `TOLERATED_SHARE`: an endpoint that fails at random is no endpoint that is asked too much;
- falls a little where answers have become `SLOW` times as slow as they were at best: requests queue there;
- rises by one where it was the limit that held requests back; doubles until the first sign of strain.

Failures of requests that were sent before the last fall say nothing new and do not count twice. Where several
processes share an endpoint, each counts what the others saw (`hear`) in its own share, and keeps its own limit.
"""

from collections.abc import Sequence
from statistics import median

START = 32
"""Limit to begin with; slow answers alone never push it lower."""
LEAST_RESULTS = 20
"""A round is no shorter."""
TOLERATED_SHARE = 0.1
"""Share of refused requests that is taken for bad luck."""
DEEPEST_CUT = 0.5
HOLD = 3.0
"""At so many times the best latency the limit rises no more; a batching engine is well used there."""
SLOW = 4.0
"""At so many times it falls."""
SLOW_CUT = 0.8
RECENT = 20
"""`Concurrency.strain` is taken over about so many results, or as many as may be in flight: refusals come in bursts."""
DRIFT = 1.01
"""The best latency is forgotten at this rate per round: prompts grow, engines change."""


class Concurrency:
    """The limit of one process.

    Args:
        least: it never falls below.
        most: it never rises above; equal to `least`, it is fixed.
        start: where it begins.
    """

    def __init__(self, least: int = 1, most: int = 4096, start: int = START) -> None:
        self._least, self._most = least, most
        self._start = self._limit = float(min(max(start, least), most))
        self._ramping = True
        self._fallen_at = float("-inf")
        self._best: float | None = None
        self.usual: float = 0.0
        """Median latency of the last round in seconds; 0 before the first."""
        self.strain: float | None = None
        """Share of the recent results that were strained, with those that the limit was cut for; None before any."""
        self._new_round()

    @property
    def limit(self) -> int:
        """Requests that may be in flight."""
        return int(self._limit)

    def fix(self, limit: int) -> None:
        """Make the limit a constant, 0 where all places are with others."""
        self._least = self._most = limit
        self._start = self._limit = float(self._most)

    def record(self, now: float, sent_at: float, *, strained: bool, full: bool) -> None:
        """Count the end of one request.

        Args:
            now: this moment, in seconds of a monotonic clock.
            sent_at: when the request was sent.
            strained: it was refused as too many, or timed out.
            full: all slots were taken.
        """
        before = strained if self.strain is None else self.strain
        self.strain = before + 2 / max(RECENT, self.limit) * (strained - before)
        if strained and sent_at < self._fallen_at:
            return
        self._results += 1
        self._strained += strained
        self._full += full
        if not strained:
            self._seconds.append(now - sent_at)
        if self._results >= self.limit and self._results + self._heard >= LEAST_RESULTS:
            self._end_round(now)

    def hear(self, results: int, strained: int) -> None:
        """Take in what other processes saw of the same endpoint."""
        self._heard += results
        self._heard_strained += strained

    def _new_round(self) -> None:
        self._results = self._strained = self._full = self._heard = self._heard_strained = 0
        self._seconds: list[float] = []

    def _end_round(self, now: float) -> None:
        share = (self._strained + self._heard_strained) / (self._results + self._heard)
        ratio = self._latency_ratio(self._seconds)
        if share > TOLERATED_SHARE:
            self._fall(now, max(float(self._least), self._limit * max(DEEPEST_CUT, 1 - share)))
        elif ratio > SLOW and self._limit > self._start:
            self._fall(now, max(self._start, self._limit * SLOW_CUT))
        elif ratio > HOLD:
            self._ramping = False
        elif 2 * self._full >= self._results:
            self._limit = min(float(self._most), 2 * self._limit if self._ramping else self._limit + 1)
        self._new_round()

    def _fall(self, now: float, limit: float) -> None:
        self._limit = limit
        self._ramping = False
        self._fallen_at = now

    def _latency_ratio(self, seconds: Sequence[float]) -> float:
        if not seconds:
            return 1.0
        self.usual = median(seconds)
        self._best = self.usual if self._best is None else min(self.usual, self._best * DRIFT)
        return self.usual / self._best if self._best > 0 else 1.0
