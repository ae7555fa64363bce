"""The demonstrator of tasks with gold SQL: it runs the gold program step by step and answers with what it was shown.

Columns that the instruction does not list are looked up. A sub-query that can be asked alone is asked first, and its
result takes its place in the whole. Thoughts are written before the outcome, from the question, the schema that was
shown and the statement to come. In a share of the episodes a column is first misnamed, looked up and mended.
"""

import random
from collections.abc import Generator, Mapping, Sequence
from typing import Any

from agenttuning.environments.base import Expert, Move, Step
from agenttuning.environments.database import thoughts
from agenttuning.environments.database.engine import read_rows
from agenttuning.environments.database.grammar import answer, operation
from agenttuning.environments.database.queries import name_sql
from agenttuning.environments.database.sqltext import (
    column_nodes,
    in_words,
    inner_queries,
    literal_node,
    parsed,
    table_names,
    written,
)
from agenttuning.environments.database.tables import Table, tables_of

Exchange = Generator[Move, Step, Step]
DONE = ["done"]
OPENINGS = ("I need {said}.", "I look for {said}.", "Next I ask for {said}.", "What I need is {said}.")
WHOLE = ("With that I ask for {said}.", "Now I need {said}.", "So I look for {said}.")
PARTS = ("First I need {said}.", "I begin with {said}.", "Before the rest I ask for {said}.")
CHANGES = ("I make the change in {table}.", "I change {table} as asked.", "The change is one statement on {table}.")
MAX_SAID = 240
"""A statement whose words are longer is named by its tables alone."""


def play_gold(payload: Mapping[str, Any], rng: random.Random, mistake_rate: float) -> Expert:
    """Return the demonstrator of a task with `gold`. It ends early where a result is nothing it can answer with."""
    tables, gold = tables_of(payload), str(payload["gold"])
    slip = rng.random() < mistake_rate
    tree = parsed(gold)
    used = table_names(tree, tables) if tree is not None else []
    if not payload["listed"]:
        for name in used or [table.name for table in tables]:
            yield Move(thoughts.list_columns(name, rng), operation(f"DESCRIBE {name_sql(name)}"))
    if payload["answer"] is None:
        yield from _change(gold, tree, tables, slip, rng)
        return
    step = yield from _ask(gold, tree, tables, slip, rng)
    rows = read_rows(step.observation) or []
    values = [str(value) for row in rows for value in row]
    if values and not step.error:
        once = list(dict.fromkeys(values)) if len(rows[0]) == 1 else values
        yield Move(thoughts.conclude(list(once), rng), answer(once))


def _ask(gold: str, tree: Any, tables: Sequence[Table], slip: bool, rng: random.Random) -> Exchange:
    inner = inner_queries(tree)[0] if tree is not None and inner_queries(tree) else None
    if inner is not None:
        sql = written(inner.this)
        step = yield from _run(_said(PARTS, inner.this, rng), sql, inner.this, tables, slip, rng)
        rows = read_rows(step.observation) or []
        if len(rows) == 1 and len(rows[0]) == 1 and isinstance(rows[0][0], str | int):
            inner.replace(literal_node(rows[0][0]))
            thought = f"The result is {rows[0][0]}. {_said(WHOLE, tree, rng)}"
            return (yield from _run(thought, written(tree), tree, tables, False, rng))
        slip = False
    return (yield from _run(_said(OPENINGS, tree, rng), gold, tree, tables, slip, rng))


def _run(thought: str, sql: str, tree: Any, tables: Sequence[Table], slip: bool, rng: random.Random) -> Exchange:
    """Run a statement; with a slip, first under a column's name that the tables do not have."""
    wrong = _misnamed(tree, tables, rng) if slip and tree is not None else None
    if wrong is not None:
        statement, given, table = wrong
        step = yield Move(thought, operation(statement), loss=False)
        if step.error:
            yield Move(thoughts.no_column(given, table, rng), operation(f"DESCRIBE {name_sql(table)}"))
            thought = rng.choice(["Now I know the columns.", "The columns are clear now."]) + f" {thought}"
    return (yield Move(thought, operation(sql)))


def _misnamed(tree: Any, tables: Sequence[Table], rng: random.Random) -> tuple[str, str, str] | None:
    """Return the statement with one column misnamed, the wrong name, and the table of the right one."""
    wrong = tree.copy()
    known = {column.casefold() for table in tables for column in table.columns}
    used = set(table_names(tree, tables))
    nodes = [node for node in column_nodes(wrong) if node.name.casefold() in known]
    if not nodes:
        return None
    node = rng.choice(nodes)
    owner = next((t.name for t in tables if t.name in used and node.name in t.columns), None)
    name = f"{node.name}_value" if node.name.islower() else f"{node.name} value"
    if owner is None or name.casefold() in known:
        return None
    node.this.set("this", name)
    return written(wrong), name, owner


def _change(gold: str, tree: Any, tables: Sequence[Table], slip: bool, rng: random.Random) -> Expert:
    used = table_names(tree, tables) if tree is not None else []
    thought = rng.choice(CHANGES).format(table=used[0] if used else "the table")
    step = yield from _run(thought, gold, tree, tables, slip, rng)
    if step.error:
        return
    shown = step.observation.removeprefix("Query OK, ").rstrip(".")
    said = rng.choice(["The reply is: {shown}. I am done.", "It ran: {shown}. The change is made."])
    yield Move(said.format(shown=shown), answer(DONE))


def _said(forms: Sequence[str], tree: Any, rng: random.Random) -> str:
    said = in_words(tree) if tree is not None else "the rows that answer the question"
    if len(said) > MAX_SAID:
        said = said[: said.index(" where ")] if " where " in said[:MAX_SAID] else "what the question asks for"
    return rng.choice(list(forms)).format(said=said)
