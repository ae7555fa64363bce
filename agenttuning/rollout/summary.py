"""What a rollout came to, computed from what is stored: counts, rewards, tokens, cost, pass@k."""

from dataclasses import asdict, dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from agenttuning.rollout.attempts import mean_pass_at_k

TOKENS = ("prompt_tokens", "completion_tokens")
KEPT_FAILURES = 5
"""How many different failure messages a summary keeps."""


@dataclass
class RolloutSummary:
    """What one call of `play_tasks` did, and what is stored after it."""

    total: int
    """Attempts asked for."""
    skipped: int
    """Attempts that were stored before."""
    played: int = 0
    """Attempts played and stored."""
    unfinished: int = 0
    """Attempts given back after infrastructure failures; the next call plays them."""
    unneeded: int = 0
    """Attempts not played because their environment's quota was met."""
    outcomes: dict[str, dict[str, int]] = field(default_factory=dict)
    """Count of the played by environment and outcome."""
    rewards: dict[str, float] = field(default_factory=dict)
    """Mean reward of the played by environment."""
    kept: dict[str, int] = field(default_factory=dict)
    """Stored attempts with at least the environment's `reward_threshold`."""
    tokens: dict[str, int] = field(default_factory=dict)
    """Prompt and completion tokens of all stored attempts, by environment."""
    tokens_per_kept: dict[str, float] = field(default_factory=dict)
    """The same for each kept one."""
    cost: dict[str, float] = field(default_factory=dict)
    """Cost of all stored attempts by environment, where prices are known."""
    cost_per_kept: dict[str, float] = field(default_factory=dict)
    spent: float = 0.0
    """Money that all calls together have spent or may have, with episodes that were cut off; 0 without prices."""
    pass_at: dict[str, dict[str, float]] = field(default_factory=dict)
    """Unbiased pass@k by environment and k, over all stored attempts, where there are several a task."""
    best: dict[str, float] = field(default_factory=dict)
    """Mean reward of each task's best attempt, where there are several."""
    retried: dict[str, dict[str, int]] = field(default_factory=dict)
    """Infrastructure failures that were tried again, by environment and kind, over all calls."""
    steps: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    episode_seconds: float = 0.0
    """Sum of the episodes' wall times."""
    seconds: float = 0.0
    """Wall time of the call."""
    failures: list[str] = field(default_factory=list)
    """Some reasons of the unfinished."""

    def as_dict(self) -> dict[str, Any]:
        """Return the summary as plain JSON values."""
        return asdict(self)

    def text(self) -> str:
        """Return what is stored, and what it took, in a sentence for people."""
        stored = self.total - self.unneeded - self.unfinished
        parts = [f"{stored} of {self.total} attempts stored, {sum(self.kept.values())} with their reward"]
        if self.unneeded:
            parts.append(f"{self.unneeded} unneeded")
        if self.pass_at:
            most = {name: list(chances.items())[-1] for name, chances in self.pass_at.items()}
            parts.append(", ".join(f"pass@{k} of {name} {chance:.2f}" for name, (k, chance) in most.items()))
        failed = [
            f"{name} {count} {kind}" for name, kinds in self.retried.items() for kind, count in sorted(kinds.items())
        ]
        parts.append(f"tried again after {', '.join(failed)}" if failed else "no infrastructure failures")
        return "; ".join(parts)


def add_stored(summary: RolloutSummary, stored: pa.Table, before: pa.Array, thresholds: dict[str, float]) -> None:
    """Fill a summary from what is stored now.

    Args:
        summary: what to fill.
        stored: table of `ENTRY_SCHEMA` of the attempts that were asked for, each once.
        before: ids that were stored before the call.
        thresholds: reward from which on an episode is kept, by environment.
    """
    for name in sorted(stored.column("environment").unique().to_pylist()):
        mine = stored.filter(pc.equal(stored.column("environment"), name))
        good = pc.greater_equal(mine.column("reward"), thresholds.get(name, 1.0))
        mine = mine.append_column("kept", good.cast(pa.int64()))
        summary.kept[name] = pc.sum(mine.column("kept")).as_py()
        _add_costs(summary, name, mine)
        _add_fresh(summary, name, mine.filter(pc.invert(pc.is_in(mine.column("id"), before))))
        tasks = mine.group_by("task").aggregate([("kept", "count"), ("kept", "sum"), ("reward", "max")])
        counts = tasks.column("kept_count").to_pylist()
        if max(counts) > 1:
            chances = mean_pass_at_k(zip(counts, tasks.column("kept_sum").to_pylist(), strict=True))
            summary.pass_at[name] = {str(k): round(p, 4) for k, p in chances.items()}
            summary.best[name] = round(pc.mean(tasks.column("reward_max")).as_py(), 4)


def _add_costs(summary: RolloutSummary, name: str, stored: pa.Table) -> None:
    kept, cost = summary.kept[name], pc.sum(stored.column("cost")).as_py()
    summary.tokens[name] = sum(pc.sum(stored.column(c)).as_py() for c in TOKENS)
    if kept:
        summary.tokens_per_kept[name] = round(summary.tokens[name] / kept, 1)
    if cost:
        summary.cost[name] = round(cost, 6)
        if kept:
            summary.cost_per_kept[name] = round(cost / kept, 6)


def _add_fresh(summary: RolloutSummary, name: str, fresh: pa.Table) -> None:
    if not fresh.num_rows:
        return
    total = {c: pc.sum(fresh.column(c)).as_py() for c in ("steps", "seconds", *TOKENS)}
    summary.outcomes[name] = {c["values"]: c["counts"] for c in fresh.column("outcome").value_counts().to_pylist()}
    summary.rewards[name] = pc.mean(fresh.column("reward")).as_py()
    summary.played += fresh.num_rows
    summary.steps += total["steps"]
    summary.prompt_tokens += total["prompt_tokens"]
    summary.completion_tokens += total["completion_tokens"]
    summary.episode_seconds += total["seconds"]
