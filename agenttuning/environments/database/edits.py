"""INSERT, UPDATE and DELETE tasks drawn from the tables of WikiTableQuestions, with their gold statements.

A table serves where it is small and one of its columns names its rows. The splits' tables are those of the published
splits: no table of `test` stands in `train`. Words and statements come from the same structures as generated tasks.
"""

import random
import re
from collections.abc import Iterator, Sequence
from typing import Any

from agenttuning.environments.database.queries import Condition, Edit, Plan, Query, apply
from agenttuning.environments.database.tables import Table, state_of
from agenttuning.trajectory import Task

FEWEST_ROWS, MOST_ROWS, MOST_COLUMNS = 4, 40, 7
MOST_CHARS = 40
_GOOD = re.compile(r"[^\s\\\"'`%{}](?:[^\n\r\t\\\"'`%{}]*[^\s\\\"'`%{}])?")
"""A cell that a sentence and a statement can hold as it is."""
KINDS = ("insert", "update", "delete")
WORDS = {
    "insert": (
        "Add a row to the table with {values}.",
        "Insert a new row: {values}.",
        "The table lacks a row with {values}. Put it in.",
    ),
    "update": (
        "In the row whose {key} is {name}, set {column} to {value}.",
        "Change {column} to {value} where {key} is {name}.",
        "The {column} of the row with {key} {name} should be {value}. Correct it.",
    ),
    "delete": (
        "Delete the row whose {key} is {name}.",
        "Remove the row with {key} {name} from the table.",
        "The row with {key} {name} does not belong here. Take it out.",
    ),
}


def edit_tasks(environment: str, split: str, tables: Sequence[Table], count: int, seed: int) -> Iterator[Task]:
    """Yield up to `count` tasks, the three kinds in turn, each table once before any comes again.

    Args:
        environment: the registered name that the tasks carry.
        split: the split that the tables belong to.
        tables: what to draw from; those that do not serve are passed over.
        count: how many.
        seed: decides the tasks.
    """
    rng = random.Random(f"edits/{split}/{seed}")
    serving = [(table, key) for table in tables if (key := _key(table)) is not None]
    seen: set[str] = set()
    made = 0
    for _ in range(20):
        rng.shuffle(serving)
        for table, key in serving:
            if made == count:
                return
            task = _draw(environment, split, table, key, KINDS[made % len(KINDS)], rng)
            if task is not None and task.id not in seen:
                seen.add(task.id)
                made += 1
                yield task


def _key(table: Table) -> str | None:
    """Return the first column that names the rows, or None where the table does not serve."""
    if not FEWEST_ROWS <= len(table.rows) <= MOST_ROWS or not 2 <= len(table.columns) <= MOST_COLUMNS:
        return None
    if not all(_good(column) for column in table.columns):
        return None
    for at, column in enumerate(table.columns):
        cells = [row[at] for row in table.rows]
        if all(map(_good, cells)) and len({str(cell).casefold() for cell in cells}) == len(cells):
            return column
    return None


def _good(cell: Any) -> bool:
    return isinstance(cell, str) and len(cell) <= MOST_CHARS and cell.isascii() and _GOOD.fullmatch(cell) is not None


def _draw(environment: str, split: str, table: Table, key: str, kind: str, rng: random.Random) -> Task | None:
    at = table.columns.index(key)
    row = rng.choice(table.rows)
    name = str(row[at])
    where = (Condition(column=key, operator="=", value=name),)
    words: dict[str, Any] = {"key": key, "name": name}
    gone = Query(table=table.name, function="COUNT", where=where)
    if kind == "insert":
        if not all(map(_good, row)):
            return None
        values = {column: str(cell) for column, cell in zip(table.columns, row, strict=True)}
        words["values"] = ", ".join(f"{column} {cell}" for column, cell in values.items())
        table = table.model_copy(update={"rows": tuple(other for other in table.rows if other is not row)})
        edit, check = Edit(kind="insert", table=table.name, values=values), gone
    elif kind == "update":
        column = rng.choice([column for column in table.columns if column != key])
        old = row[table.columns.index(column)]
        others = sorted({str(cell) for cell in table.column(column) if _good(cell)} - {old})
        if not others:
            return None
        words |= {"column": column, "value": rng.choice(others)}
        edit = Edit(kind="update", table=table.name, values={column: words["value"]}, where=where)
        check = Query(table=table.name, column=column, where=where)
    else:
        edit, check = Edit(kind="delete", table=table.name, where=where), gone
    before, after = state_of([table]), state_of([apply(edit, table)])
    if before == after:
        return None
    columns = ", ".join(f"`{column}`" for column in table.columns)
    said = rng.choice(WORDS[kind]).format(**words)
    return Task(
        environment=environment,
        split=split,
        instruction=f"{said}\nThe table {table.name} has the columns {columns}.",
        payload={
            "tables": [table.model_dump(mode="json")],
            "answer": None,
            "before": before,
            "state": after,
            "plan": Plan(knowledge="columns", edit=edit, check=check).model_dump(mode="json"),
        },
        family=kind,
        origin="derived",
    )
