"""Settle what needs all trajectories: duplicates, near duplicates, quotas; on signatures and counts, not on texts."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa

from agenttuning.curation.contamination import EvaluationIndex, Tally
from agenttuning.curation.minhash import near_duplicates
from agenttuning.curation.quota import missing, over_quota
from agenttuning.curation.report import CurationReport, Verdict, summarise
from agenttuning.curation.rules import DUPLICATE, NEAR_DUPLICATE, NEAR_TASK, QUOTA
from agenttuning.curation.runs import TASK, TEXT, Line, read_signatures, read_verdicts
from agenttuning.recipe import Recipe

BATCH = 2048


class Settled:
    """The verdicts of all trajectories in the order of their ids, and what was decided since."""

    def __init__(self, table: pa.Table) -> None:
        self.table = table
        self._late: dict[int, tuple[str, str]] = {}
        """Rule and reason by row, of what was dropped here."""

    def drop(self, row: int, rule: str, reason: str) -> None:
        """Drop one row that the rules had kept."""
        self._late[row] = (rule, reason)

    def standing(self) -> np.ndarray[Any, np.dtype[np.intp]]:
        """Return the rows that are kept so far."""
        kept = self.table["rule"].is_null().to_numpy()
        kept = kept.copy()
        kept[list(self._late)] = False
        return np.flatnonzero(kept)

    def rule(self, row: int) -> str | None:
        """Return the rule that dropped a row; None where it is kept."""
        if row in self._late:
            return self._late[row][0]
        value: str | None = self.table["rule"][row].as_py()
        return value

    def task(self, row: int) -> str:
        """Return the id of a row's task."""
        return str(self.table["task"][row].as_py())

    def with_lines(self, lines: Iterable[Line]) -> Iterator[tuple[int, bytes]]:
        """Yield each line with its row; both are in the order of the ids."""
        row, ids = -1, _values(self.table["id"])
        current: str | None = None
        for name, _, line in lines:
            while current != name:
                current, row = next(ids), row + 1
            yield row, line

    def rows(self, columns: list[str]) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yield each row's number and the values of some columns, with the rule and reason as they stand."""
        number = 0
        for batch in self.table.select(columns).to_batches(max_chunksize=BATCH):
            for row in batch.to_pylist():
                if number in self._late:
                    row["rule"], row["reason"] = self._late[number]
                yield number, row
                number += 1

    def dropped_rows(self) -> Iterator[dict[str, Any]]:
        """Yield what `dropped.parquet` holds."""
        columns = ["id", "environment", "family", "rule", "reason", "reward", "outcome"]
        yield from (row for _, row in self.rows(columns) if row["rule"] is not None)


def _values(column: pa.ChunkedArray) -> Iterator[str]:
    for chunk in column.chunks:
        for start in range(0, len(chunk), BATCH):
            yield from chunk.slice(start, BATCH).to_pylist()


def settle(directory: Path, recipe: Recipe, names: tuple[str, ...]) -> Settled:
    """Apply the rules that compare trajectories, in the recipe's order, and the quotas last.

    Args:
        directory: local directory of the runs.
        recipe: with the thresholds and quotas.
        names: of the rules.
    """
    table, places = read_verdicts(directory)
    settled = Settled(table)

    def near(rule: str, kind: str, threshold: float, words: str) -> None:
        rows = settled.standing()
        found = near_duplicates(read_signatures(directory, kind, places[rows]), threshold)
        for place, (other, likeness) in found.items():
            holder = settled.table["id"][int(rows[other])].as_py()
            settled.drop(int(rows[place]), rule, f"{words} {holder} ({likeness:.2f})")

    for name in names:
        if name == DUPLICATE:
            _exact(settled)
        elif name == NEAR_DUPLICATE:
            near(name, TEXT, recipe.curation.near_duplicate, "like")
        elif name == NEAR_TASK:
            near(name, TASK, recipe.curation.near_task, "its task is like that of")
    quota = recipe.curation.quota
    if quota:
        kept = settled.table.select(["id", "environment", "family", "fifth"]).take(pa.array(settled.standing()))
        over = over_quota(zip(*(kept[column].to_pylist() for column in kept.column_names), strict=True), quota)
        for row in settled.standing():
            if (name := settled.table["id"][int(row)].as_py()) in over:
                environment = settled.table["environment"][int(row)].as_py()
                settled.drop(int(row), QUOTA, f"{environment} has its {quota[environment]}")
    return settled


def _exact(settled: Settled) -> None:
    rows = settled.standing()
    digests = settled.table["digest"].take(pa.array(rows)).to_numpy(zero_copy_only=False)
    _, firsts, inverse = np.unique(digests.astype("S"), return_index=True, return_inverse=True)
    for place in np.flatnonzero(firsts[inverse] != np.arange(len(rows))):
        holder = settled.table["id"][int(rows[firsts[inverse[place]]])].as_py()
        settled.drop(int(rows[place]), DUPLICATE, f"same task and same turns as {holder}")


def report_on(
    settled: Settled, names: tuple[str, ...], recipe: Recipe, kept_as: str, pairs: int, index: EvaluationIndex | None
) -> CurationReport:
    """Return the report on what was settled."""
    quota = recipe.curation.quota
    tally = Tally(index) if index is not None else None
    more: dict[str, Any] = {"pairs": pairs}
    report = summarise(_verdicts(settled, tally), (*names, *((QUOTA,) if quota else ())), kept_as, **more)
    counts = {name: group.kept for name, group in report.environments.items()}
    found = {"shortage": missing(counts, quota), "contamination": tally.rates() if tally is not None else {}}
    return report.model_copy(update=found)


def _verdicts(settled: Settled, tally: Tally | None) -> Iterator[Verdict]:
    words = ["environment", "family", "task", "outcome", "rule", "reason", "origin", "licence", "terms"]
    for _, row in settled.rows([*words, "turns", "fifth", "mends", "masked", "spans"]):
        del row["reason"]
        spans = row.pop("spans")
        if spans and tally is not None and row["rule"] is None:
            tally.add(orjson.loads(spans))
        row["mends"], row["masked"] = orjson.loads(row["mends"] or "{}"), orjson.loads(row["masked"] or "{}")
        yield Verdict(**row)
