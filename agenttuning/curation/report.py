"""What curation kept and dropped, in the form of the paper's Table 1 with a column per rule."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict


@dataclass(frozen=True)
class Verdict:
    """One trajectory's fate and what the report counts of it."""

    environment: str
    family: str
    task: str
    outcome: str
    turns: int
    """Trained turns: the paper counts those as a trajectory's turns."""
    rule: str | None
    """The rule that dropped it; None where it is kept."""


class GroupReport(BaseModel):
    """Counts of one environment, one family, or all."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tasks: int
    """Different tasks that were played."""
    collected: int
    """Trajectories (attempts) that were judged."""
    kept: int
    ratio: float
    """`kept / collected`; 0 where nothing was collected."""
    mean_turns: float
    """Mean trained turns of a kept trajectory; 0 where none is kept."""
    dropped: dict[str, int]
    """Drops by rule."""
    outcomes: dict[str, int]
    """How the collected episodes ended."""


class CurationReport(BaseModel):
    """The report of one curation: in all, by environment, and by environment and family."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rules: tuple[str, ...]
    """The rules in the order they were asked, then `duplicate`."""
    total: GroupReport
    environments: dict[str, GroupReport]
    families: dict[str, dict[str, GroupReport]]
    """By environment, then family."""
    kept_as: str
    """Name of the JSON Lines file of the kept ones: `agentinstruct.jsonl`, or `messages.jsonl` for tools."""

    @property
    def collected(self) -> int:
        """Trajectories that were judged, in all."""
        return self.total.collected

    @property
    def kept(self) -> int:
        """Trajectories that were kept, in all."""
        return self.total.kept

    def table(self) -> list[list[Any]]:
        """Return the header, one row per environment, and the row `total`: Table 1 with a column of drops per rule."""
        header = ["environment", "tasks", "collected", "kept", "ratio", "mean_turns"]
        rows: list[list[Any]] = [[*header, *(f"dropped_{rule}" for rule in self.rules)]]
        for name, group in [*self.environments.items(), ("total", self.total)]:
            numbers = [group.tasks, group.collected, group.kept, round(group.ratio, 4), round(group.mean_turns, 2)]
            rows.append([name, *numbers, *(group.dropped.get(rule, 0) for rule in self.rules)])
        return rows


def summarise(verdicts: Iterable[Verdict], rules: tuple[str, ...], kept_as: str) -> CurationReport:
    """Count verdicts into a report; environments and families stand in alphabetical order."""
    everything = list(verdicts)
    environments = sorted({v.environment for v in everything})
    by_environment = {name: [v for v in everything if v.environment == name] for name in environments}
    return CurationReport(
        rules=rules,
        total=_group(everything, rules),
        environments={name: _group(group, rules) for name, group in by_environment.items()},
        families={
            name: {
                family: _group([v for v in group if v.family == family], rules)
                for family in sorted({v.family for v in group})
            }
            for name, group in by_environment.items()
        },
        kept_as=kept_as,
    )


def _group(verdicts: list[Verdict], rules: tuple[str, ...]) -> GroupReport:
    kept = [v for v in verdicts if v.rule is None]
    drops = Counter(v.rule for v in verdicts if v.rule is not None)
    return GroupReport(
        tasks=len({v.task for v in verdicts}),
        collected=len(verdicts),
        kept=len(kept),
        ratio=len(kept) / len(verdicts) if verdicts else 0.0,
        mean_turns=sum(v.turns for v in kept) / len(kept) if kept else 0.0,
        dropped={rule: drops[rule] for rule in rules},
        outcomes=dict(sorted(Counter(v.outcome for v in verdicts).items())),
    )
