"""What curation kept and dropped: the paper's Table 1 for this run, and the drops of every rule."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from agenttuning.curation.rules import CONTAMINATION
from agenttuning.environments.difficulty import FIFTHS

UNKNOWN = "unknown"
"""In place of a range, where a task's difficulty is not known."""


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
    origin: str = "generated"
    """Where its task came from."""
    licence: str = "not stated"
    terms: str = "not stated"
    mends: Mapping[str, str] = field(default_factory=dict)
    """`cut` or `mask`, by rule."""
    masked: Mapping[str, int] = field(default_factory=dict)
    """Different values scrubbed, by kind."""
    fifth: int | None = None
    """Range of its task's difficulty, from 0; None where it is not known."""


class GroupReport(BaseModel):
    """Counts of one environment, one family, one origin, or all."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tasks: int
    """Different tasks that were played."""
    tasks_kept: int = 0
    """Different tasks of which a trajectory is kept."""
    collected: int
    """Trajectories (attempts) that were judged."""
    kept: int
    """Trajectories that are kept: as many as `tasks_kept` where each task is played once."""
    ratio: float
    """`kept / collected`; 0 where nothing was collected."""
    mean_turns: float
    """Mean trained turns of a kept trajectory; 0 where none is kept."""
    dropped: dict[str, int]
    """Drops by rule."""
    outcomes: dict[str, int]
    """How the collected episodes ended."""
    cut: dict[str, int] = Field(default_factory=dict)
    """Trajectories that were cut before a bad turn, by rule."""
    masked: dict[str, int] = Field(default_factory=dict)
    """Trajectories whose bad turns were masked, by rule."""
    difficulty: dict[str, dict[str, int]] = Field(default_factory=dict)
    """`kept` and `dropped` by fifth of difficulty: `0.0-0.2` to `0.8-1.0`, and `unknown`."""


class CurationReport(BaseModel):
    """The report of one curation: in all, by environment, and by environment and family or origin."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rules: tuple[str, ...]
    """The rules in the order they were asked, then `quota` where there is one."""
    total: GroupReport
    environments: dict[str, GroupReport]
    families: dict[str, dict[str, GroupReport]]
    """By environment, then family."""
    origins: dict[str, dict[str, GroupReport]] = Field(default_factory=dict)
    """By environment, then origin of the task, as the paper's Table 1 has it."""
    kept_as: str
    """Name of the JSON Lines file that holds all kept ones: `agentinstruct.jsonl`, or `messages.jsonl` for tools."""
    scrubbed: dict[str, int] = Field(default_factory=dict)
    """Kept trajectories with masked secrets or personal data, by kind."""
    licences: dict[str, int] = Field(default_factory=dict)
    """Kept trajectories by licence."""
    teacher_terms: dict[str, int] = Field(default_factory=dict)
    """Kept trajectories by the teacher's terms."""
    contamination: dict[str, dict[str, float]] = Field(default_factory=dict)
    """By evaluation split: `samples`, mean `rate`, shares of samples `over_20` and `over_80` percent, by the kept."""
    shortage: dict[str, int] = Field(default_factory=dict)
    """Trajectories that a quota still lacks, by environment."""
    pairs: int = 0
    """Rows of `pairs.parquet`."""

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

    def table_1(self) -> list[list[str]]:
        """Return the paper's Table 1: instructions, kept trajectories, mean turns, and the ratio.

        The paper plays each instruction once and divides its kept trajectories by its instructions. Where a task has
        several attempts, that is the share of instructions of which a trajectory is kept, never more than all.
        """
        rows = [["task", "inst. from", "inst.", "inst. kept", "traj. kept", "turns", "ratio"]]
        for name, origins in self.origins.items():
            rows += [_table_1_row(name, origin, group) for origin, group in origins.items()]
        return [*rows, _table_1_row("total", "", self.total)]

    def text(self) -> str:
        """Return the report for a terminal: Table 1, and what each rule did."""
        parts = [_aligned(self.table_1(), words=2)]
        drops = [["rule", *self.environments, "total"]]
        groups = [*self.environments.values(), self.total]
        for rule in self.rules:
            counts = [group.dropped.get(rule, 0) for group in groups]
            drops += [[rule, *map(str, counts)]] if counts[-1] else []
            for what in ("cut", "masked"):
                mended = [getattr(group, what).get(rule, 0) for group in groups]
                drops += [[f"{rule} ({what})", *map(str, mended)]] if mended[-1] else []
        idle = [rule for rule in self.rules if not self.total.dropped.get(rule)]
        parts.append(_aligned(drops, words=1) if len(drops) > 1 else "no rule dropped anything")
        if len(drops) > 1 and idle:
            parts.append("dropped nothing: " + ", ".join(idle))
        if self.total.difficulty.keys() - {UNKNOWN}:
            parts.append(self._difficulties())
        if CONTAMINATION in self.rules:
            parts.append(self._compared())
        for split, told in self.contamination.items():
            parts.append(
                f"contamination of {split}: {told['rate']:.2%} of the tokens of {told['samples']:.0f} samples; "
                f"{told['over_20']:.1%} of the samples at 20% or more"
            )
        if self.scrubbed:
            parts.append("scrubbed: " + ", ".join(f"{k} in {n} trajectories" for k, n in self.scrubbed.items()))
        if self.shortage:
            parts.append("quota: still missing " + ", ".join(f"{n} of {e}" for e, n in self.shortage.items()))
        if self.pairs:
            parts.append(f"pairs of success and failure: {self.pairs}")
        return "\n".join(parts)

    def _difficulties(self) -> str:
        rows = [["difficulty", *(f"{name} kept" for name in self.environments), "total kept"]]
        for name in self.total.difficulty:
            told = [
                g.difficulty.get(name, {"kept": 0, "dropped": 0}) for g in (*self.environments.values(), self.total)
            ]
            rows.append([name, *(f"{t['kept']} of {t['kept'] + t['dropped']}" for t in told)])
        return _aligned(rows, words=1)

    def _compared(self) -> str:
        if not self.contamination:
            return (
                f"{CONTAMINATION}: compared with no evaluation split; set curation.own_tests, or name some in "
                "curation.evaluation_sets"
            )
        samples = sum(told["samples"] for told in self.contamination.values())
        return f"{CONTAMINATION}: compared with {len(self.contamination)} evaluation splits of {samples:.0f} samples"


def _range_name(fifth: int | None) -> str:
    return UNKNOWN if fifth is None else f"{fifth / FIFTHS:.1f}-{(fifth + 1) / FIFTHS:.1f}"


def _table_1_row(name: str, origin: str, group: GroupReport) -> list[str]:
    ratio = group.tasks_kept / group.tasks if group.tasks else 0.0
    counts = [f"{count:,}" for count in (group.tasks, group.tasks_kept, group.kept)]
    return [name, origin, *counts, f"{group.mean_turns:.2f}", f"{ratio:.2%}"]


def _aligned(rows: list[list[str]], words: int) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(
            c.ljust(w) if place < words else c.rjust(w) for place, (c, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ).rstrip()


class _Group:
    """Counts of one group, as verdicts come."""

    def __init__(self) -> None:
        self.tasks: set[int] = set()
        self.tasks_kept: set[int] = set()
        self.collected = self.kept = self.turns = 0
        self.dropped: Counter[str] = Counter()
        self.outcomes: Counter[str] = Counter()
        self.mends: Counter[tuple[str, str]] = Counter()
        self.fifths: Counter[tuple[str, str]] = Counter()

    def add(self, v: Verdict) -> None:
        task = hash(v.task)
        self.tasks.add(task)
        self.collected += 1
        self.outcomes[v.outcome] += 1
        self.fifths[_range_name(v.fifth), "kept" if v.rule is None else "dropped"] += 1
        if v.rule is None:
            self.tasks_kept.add(task)
            self.kept += 1
            self.turns += v.turns
            self.mends.update((how, rule) for rule, how in v.mends.items())
        else:
            self.dropped[v.rule] += 1

    def report(self, rules: tuple[str, ...]) -> GroupReport:
        return GroupReport(
            tasks=len(self.tasks),
            tasks_kept=len(self.tasks_kept),
            collected=self.collected,
            kept=self.kept,
            ratio=self.kept / self.collected if self.collected else 0.0,
            mean_turns=self.turns / self.kept if self.kept else 0.0,
            dropped={rule: self.dropped[rule] for rule in rules},
            outcomes=dict(sorted(self.outcomes.items())),
            cut={rule: n for (how, rule), n in sorted(self.mends.items()) if how == "cut"},
            masked={rule: n for (how, rule), n in sorted(self.mends.items()) if how == "mask"},
            difficulty={
                name: {what: self.fifths[name, what] for what in ("kept", "dropped")}
                for name in sorted({name for name, _ in self.fifths})
            },
        )


def summarise(verdicts: Iterable[Verdict], rules: tuple[str, ...], kept_as: str, **more: Any) -> CurationReport:
    """Count verdicts into a report; environments, families and origins stand in alphabetical order.

    Args:
        verdicts: of every trajectory; read once.
        rules: in the order they were asked.
        kept_as: name of the file of the kept ones.
        more: further fields of the report.
    """
    total = _Group()
    families: dict[tuple[str, str], _Group] = {}
    origins: dict[tuple[str, str], _Group] = {}
    environments: dict[str, _Group] = {}
    counts: dict[str, Counter[str]] = {name: Counter() for name in ("scrubbed", "licences", "teacher_terms")}
    for v in verdicts:
        groups = (
            total,
            environments.setdefault(v.environment, _Group()),
            families.setdefault((v.environment, v.family), _Group()),
            origins.setdefault((v.environment, v.origin), _Group()),
        )
        for group in groups:
            group.add(v)
        if v.rule is None:
            counts["scrubbed"].update(v.masked.keys())
            counts["licences"][v.licence] += 1
            counts["teacher_terms"][v.terms] += 1
    names = sorted(environments)
    return CurationReport(
        rules=rules,
        total=total.report(rules),
        environments={name: environments[name].report(rules) for name in names},
        families={n: {f: families[e, f].report(rules) for e, f in sorted(families) if e == n} for n in names},
        origins={n: {o: origins[e, o].report(rules) for e, o in sorted(origins) if e == n} for n in names},
        kept_as=kept_as,
        **{name: dict(sorted(counter.items())) for name, counter in counts.items()},
        **more,
    )
