"""How a rollout goes, by environment: what is done and kept, how fast, what it cost, and how long still.

`Ledger` adds up what the actors tell; `Tally` is its state for one environment. Pure: the caller gives the time.
"""

from collections import Counter, deque
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from agenttuning.progress import duration
from agenttuning.storage.index import Entry

WINDOW_SECONDS = 60.0
"""Speeds are those of the last minute."""
ALL = "all"
"""Stands for no one environment: whose failures are those of requests and of actors."""


@dataclass(frozen=True)
class Tally:
    """Progress of one environment."""

    total: int
    done: int
    """Attempts that are stored."""
    played: int = 0
    """Of them, by this call."""
    reward: float = 0.0
    """Mean reward of the played; 0 where none is."""
    kept: int = 0
    """Of the stored, those with at least the environment's `reward_threshold`."""
    quota: int | None = None
    """Kept episodes that are enough; None: all are played."""
    failures: dict[str, int] = field(default_factory=dict)
    """Infrastructure failures of all calls by kind: each was tried again."""
    episodes_per_second: float = 0.0
    tokens_per_second: float = 0.0
    """Prompt and completion tokens of finished episodes."""
    tokens: int = 0
    cost: float = 0.0
    """Of the played, in the currency of the recipe's prices; 0 where none are known."""
    seconds_left: float | None = None
    """Estimate; None before there is a speed."""

    @property
    def success(self) -> float:
        """Share of the stored that is kept."""
        return self.kept / self.done if self.done else 0.0

    @property
    def full(self) -> bool:
        """Whether its quota is met."""
        return self.quota is not None and self.kept >= self.quota

    def as_dict(self) -> dict[str, Any]:
        """Return the tally as plain JSON values."""
        return {**asdict(self), "success": round(self.success, 4)}

    def __str__(self) -> str:
        """Return `12/100, kept 10 (83 %), 1.2/s, 350 tokens/s, 1m20s left, 2 environment lost`."""
        parts = [f"{self.done}/{self.total}"] if self.total else []
        if self.done:
            wanted = f"/{self.quota}" if self.quota is not None else ""
            parts.append(f"kept {self.kept}{wanted} ({100 * self.success:.0f} %)")
        if self.episodes_per_second:
            parts.append(f"{self.episodes_per_second:.1f}/s")
        if self.tokens_per_second:
            parts.append(f"{self.tokens_per_second:.0f} tokens/s")
        if self.cost:
            parts.append(f"cost {self.cost:.2f}")
        if self.seconds_left and not self.full:
            parts.append(f"{duration(self.seconds_left)} left")
        parts += [f"{count} {kind}" for kind, count in sorted(self.failures.items())]
        return ", ".join(parts)


class Ledger:
    """Adds up entries by environment.

    Args:
        totals: attempts asked for, by environment.
        thresholds: reward from which on an episode is kept, by environment.
        quota: kept episodes that are enough, by environment.
    """

    def __init__(self, totals: Mapping[str, int], thresholds: Mapping[str, float], quota: Mapping[str, int]) -> None:
        self._totals = dict(totals)
        self.thresholds = thresholds
        self.quota = quota
        self._counts: dict[str, Counter[str]] = {name: Counter() for name in totals}
        self._sums: dict[str, list[float]] = {name: [0.0, 0.0] for name in totals}
        self._past: Counter[tuple[str, str]] = Counter()
        self._failures: Counter[tuple[str, str]] = Counter()
        self._recent: deque[tuple[float, str, int, int]] = deque()
        self._started: float | None = None

    def found(self, done: Mapping[str, int], kept: Mapping[str, int]) -> None:
        """Add what was stored before this call, by environment."""
        for name, counts in self._counts.items():
            counts.update(done=done.get(name, 0), kept=kept.get(name, 0))

    def failed_before(self, failures: Mapping[str, Mapping[str, int]]) -> None:
        """Set the infrastructure failures of earlier calls, as `failures` returned them."""
        for name, kinds in failures.items():
            self._past.update({("" if name == ALL else name, kind): count for kind, count in kinds.items()})
        self._failures = Counter(self._past)

    def played(self, entries: Iterable[Entry], now: float) -> None:
        """Add what this call stored, at `now` seconds of a monotonic clock."""
        if self._started is None:
            self._started = now
        batch: dict[str, list[int]] = {}
        for entry in entries:
            if entry.environment not in self._counts:
                continue
            self._count(entry)
            tokens = entry.prompt_tokens + entry.completion_tokens
            self._counts[entry.environment].update(played=1, tokens=tokens)
            sums = self._sums[entry.environment]
            sums[0] += entry.reward
            sums[1] += entry.cost
            some = batch.setdefault(entry.environment, [0, 0])
            some[0] += 1
            some[1] += tokens
        self._recent.extend((now, name, episodes, tokens) for name, (episodes, tokens) in batch.items())
        while self._recent and self._recent[0][0] < now - WINDOW_SECONDS:
            self._recent.popleft()

    def failed(self, failures: Mapping[tuple[str, str], int]) -> None:
        """Set the infrastructure failures of this call so far, by environment and kind."""
        self._failures = self._past + Counter(failures)

    def failures(self) -> dict[str, dict[str, int]]:
        """Return the infrastructure failures of all calls by environment and kind; those of none under `ALL`."""
        found: dict[str, dict[str, int]] = {}
        for (environment, kind), count in sorted(self._failures.items()):
            found.setdefault(environment or ALL, {})[kind] = count
        return found

    def kept(self) -> dict[str, int]:
        """Return the kept by environment."""
        return {name: counts["kept"] for name, counts in self._counts.items()}

    def tallies(self, now: float) -> dict[str, Tally]:
        """Return how every environment stands at `now` seconds of the same clock; under `ALL` failures of none."""
        tallies = {name: self._tally(name, now) for name in self._totals}
        if (failures := self.failures().get(ALL)) is not None:
            tallies[ALL] = Tally(total=0, done=0, failures=failures)
        return tallies

    def _count(self, entry: Entry) -> None:
        counts = self._counts.get(entry.environment)
        if counts is not None:
            counts.update(done=1, kept=entry.reward >= self.thresholds.get(entry.environment, 1.0))

    def _tally(self, name: str, now: float) -> Tally:
        counts, total = self._counts[name], self._totals[name]
        window = min(WINDOW_SECONDS, max(1.0, now - (self._started if self._started is not None else now)))
        recent = [(episodes, tokens) for _, who, episodes, tokens in self._recent if who == name]
        speed = sum(episodes for episodes, _ in recent) / window
        left = max(0, total - counts["done"])
        return Tally(
            total=total,
            done=counts["done"],
            played=counts["played"],
            reward=self._sums[name][0] / counts["played"] if counts["played"] else 0.0,
            kept=counts["kept"],
            quota=self.quota.get(name),
            failures={kind: n for (who, kind), n in self._failures.items() if who == name},
            episodes_per_second=round(speed, 3),
            tokens_per_second=round(sum(tokens for _, tokens in recent) / window, 1),
            tokens=counts["tokens"],
            cost=round(self._sums[name][1], 6),
            seconds_left=round(left / speed, 1) if speed else None,
        )
