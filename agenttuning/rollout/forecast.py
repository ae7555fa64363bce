"""What the rest of a rollout will take, judged by the episodes that are stored. Pure functions.

An episode still to play is taken to be like the mean of its environment. Where a quota ends an environment early, so
many episodes are expected as its share of kept ones asks for; the share is estimated with one success and one failure
more than were seen, so that a pilot without a success expects much rather than for ever.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from agenttuning.progress import duration
from agenttuning.recipe import PolicySpec


@dataclass(frozen=True)
class Forecast:
    """What one environment still takes."""

    environment: str
    played: int
    """Stored episodes that this is judged by."""
    kept: int
    """Of them, those with at least the environment's reward threshold."""
    episodes: int
    """Expected to be played still."""
    tokens: float
    """Prompt and completion tokens."""
    requests: float
    cost: float
    """In the currency of the recipe's prices; 0 without prices."""
    seconds: float
    """Sum of the episodes' wall times."""

    def __str__(self) -> str:
        """Return `os: 90 episodes more (8 of 10 kept so far), 120,000 tokens, cost 1.20`."""
        text = f"{self.environment}: {self.episodes} episodes more ({self.kept} of {self.played} kept so far)"
        if self.tokens:
            text += f", {self.tokens:,.0f} tokens"
        return text + (f", cost {self.cost:.2f}" if self.cost else "")


def forecast(
    stored: pa.Table, totals: Mapping[str, int], thresholds: Mapping[str, float], quota: Mapping[str, int]
) -> list[Forecast]:
    """Return what each environment with stored episodes still takes.

    Args:
        stored: table of `agenttuning.storage.index.ENTRY_SCHEMA`.
        totals: attempts wanted by environment, the stored ones included.
        thresholds: reward from which on an episode is kept, by environment.
        quota: kept episodes that are enough, by environment.
    """
    found = []
    for name, total in totals.items():
        mine = stored.filter(pc.equal(stored.column("environment"), name))
        played = mine.num_rows
        if not played:
            continue
        kept = pc.sum(pc.greater_equal(mine.column("reward"), thresholds.get(name, 1.0))).as_py()
        episodes = max(0, total - played)
        if name in quota:
            share = (kept + 1) / (played + 2)
            episodes = min(episodes, math.ceil(max(0, quota[name] - kept) / share))
        each = {c: pc.mean(mine.column(c)).as_py() for c in ("steps", "cost", "seconds")}
        tokens = sum(pc.mean(mine.column(c)).as_py() for c in ("prompt_tokens", "completion_tokens"))
        found.append(
            Forecast(
                environment=name,
                played=played,
                kept=kept,
                episodes=episodes,
                tokens=episodes * tokens,
                requests=episodes * each["steps"],
                cost=episodes * each["cost"],
                seconds=episodes * each["seconds"],
            )
        )
    return found


def seconds_left(parts: Iterable[Forecast], at_once: int, policy: PolicySpec) -> float:
    """Return about how long it all takes, with `at_once` episodes at once and within the policy's limits a minute."""
    rest = list(parts)
    times = [sum(part.seconds for part in rest) / at_once]
    if policy.budget.requests_per_minute is not None:
        times.append(60.0 * sum(part.requests for part in rest) / policy.budget.requests_per_minute)
    if policy.budget.tokens_per_minute is not None:
        times.append(60.0 * sum(part.tokens for part in rest) / policy.budget.tokens_per_minute)
    return max(times)


def forecast_text(parts: Iterable[Forecast], spent: float, at_once: int, policy: PolicySpec) -> str:
    """Return the forecast for people: a line for each environment, one for all, and a warning where money runs out.

    Args:
        parts: what `forecast` returned.
        spent: cost of what is stored.
        at_once: episodes at once.
        policy: who plays.
    """
    rest = list(parts)
    cost = sum(part.cost for part in rest)
    said = (
        f"in all {sum(part.episodes for part in rest)} episodes, about {duration(seconds_left(rest, at_once, policy))}"
    )
    if cost:
        said += f", cost {cost:.2f} beside the {spent:.2f} so far"
    lines = [*(f"  {part}" for part in rest), f"  {said}"]
    money = policy.budget.money
    if money is not None and spent + cost > money:
        lines.append(f"  policy.budget.money={money:g} will end it before: raise it, or ask for fewer tasks")
    return "\n".join(lines)
