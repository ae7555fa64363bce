"""What the demonstrator says before it acts: one or two short sentences that name the table, columns and values.

Each function words one kind of step, in a few variants. A thought cites the question and what was observed, never
what only the task's payload says.
"""

import random

from agenttuning.environments.database.queries import Condition, Edit, Query
from agenttuning.environments.database.tables import Value

_FUNCTIONS = {"SUM": "total", "AVG": "average", "MIN": "lowest", "MAX": "highest"}


def need(query: Query, rng: random.Random) -> str:
    """Before a query."""
    if query.function == "COUNT":
        return f"I count the rows of {query.table}{_where(query.where)}."
    opening = rng.choice(["I need", "I look for"])
    return f"{opening} the {_target(query)} from {query.table}{_where(query.where)}{_means(query)}."


def change(edit: Edit, rng: random.Random) -> str:
    """Before an edit."""
    where = _where(edit.where)
    if edit.kind == "insert":
        return f"{rng.choice(['I insert', 'I add'])} a row into {edit.table} with a value for each column."
    if edit.kind == "delete":
        return f"{rng.choice(['I delete', 'I remove'])} the rows of {edit.table}{where}."
    values = " and ".join(f"the {column} to {value}" for column, value in edit.values.items())
    return f"{rng.choice(['I change', 'I set'])} {values} in {edit.table}{where}."


def verify(check: Query, rng: random.Random) -> str:
    """Before the query that checks an edit."""
    opening = rng.choice(["The statement ran. Now", "Now"])
    if check.function == "COUNT":
        return f"{opening} I count the rows of {check.table}{_where(check.where)}."
    return f"{opening} I check the {check.column} in {check.table}{_where(check.where)}."


def changed(edit: Edit, values: list[Value], rng: random.Random) -> str:
    """Before the answer to a change, from what the check gave."""
    shown = ", ".join(map(str, values))
    if edit.kind == "update":
        return rng.choice([f"It is {shown} now, so the change is made.", f"The value is {shown} now. I am done."])
    state = "gone" if edit.kind == "delete" else "there"
    return rng.choice([f"The count is {shown}, so it is {state}.", f"The count is {shown} now. I am done."])


def conclude(values: list[Value], rng: random.Random) -> str:
    """Before the answer to a question."""
    if len(values) > 1:
        shown = ", ".join(map(str, values))
        return rng.choice(
            [f"The results are {shown}. I answer all of them.", f"The query gives {shown}. I answer all."]
        )
    return rng.choice(
        [f"The result is {values[0]}, so I answer {values[0]}.", f"The query gives {values[0]}. That is the answer."]
    )


def list_tables(rng: random.Random) -> str:
    """Before SHOW TABLES, with no table known."""
    return rng.choice(["The tables are not known, so I list them.", "The tables are not known. First I list them."])


def list_columns(table: str, rng: random.Random) -> str:
    """Before DESCRIBE, with no column known."""
    return rng.choice(
        [
            f"The columns of {table} are not known, so I look at them.",
            f"The columns of {table} are not known. First I look at them.",
        ]
    )


def follow(first: Query, other: str, rng: random.Random) -> str:
    """Before the first of two queries."""
    need = f"First I need the {_target(first)} from {first.table}{_where(first.where)}"
    return rng.choice([f"{need}.", f"{need}, then I look into {other}."])


def found(column: str, value: Value, then: str) -> str:
    """Before the second of two queries."""
    return f"The {column} is {value}. {then}"


def no_column(column: str, table: str, rng: random.Random) -> str:
    """After an error about an unknown column, before DESCRIBE."""
    return rng.choice(
        [
            f"There is no column {column}, so I look at the columns of {table}.",
            f"There is no column {column} in {table}. I look at its columns.",
        ]
    )


def no_table(table: str, rng: random.Random) -> str:
    """After an error about an unknown table, before SHOW TABLES."""
    return rng.choice(
        [f"There is no table {table}, so I list the tables.", f"There is no table {table}. I list the tables."]
    )


def instead(true: str, wrong: str, rng: random.Random) -> str:
    """Before the query with the name that the database uses."""
    return rng.choice([f"The name is {true}, not {wrong}. I use {true}.", f"I use {true} in place of {wrong}."])


def quotes(values: list[str], rng: random.Random) -> str:
    """After text was written without quotes."""
    shown = " and ".join(f"'{value}'" for value in values)
    return rng.choice([f"Text needs quotes, so I write {shown}.", f"The text had no quotes. I write {shown}."])


def missing(condition: Condition, rng: random.Random) -> str:
    """After a result with too many rows."""
    left = _conditions((condition,))
    return rng.choice(
        [f"There are several rows: I left out that {left}.", f"This is more than one. I also need that {left}."]
    )


def not_here(table: str, true: str) -> str:
    """After looking at the columns of a table that does not serve the question."""
    return f"The table {table} does not help here. I look at the columns of {true}."


def _target(query: Query) -> str:
    if query.function is not None:
        return f"{_FUNCTIONS[query.function]} {query.column}"
    if query.order is not None:
        return f"{query.column} with the {'highest' if query.descending else 'lowest'} {query.order}"
    return query.column


def _means(query: Query) -> str:
    if query.function is not None:
        return f", so I use {query.function}"
    if query.order is not None:
        return f", so I order by {query.order} {'DESC' if query.descending else 'ASC'}"
    return ""


def _where(where: tuple[Condition, ...]) -> str:
    return f" where {_conditions(where)}" if where else ""


def _conditions(where: tuple[Condition, ...]) -> str:
    words = {"=": "is", ">": "is above", "<": "is below"}
    return " and ".join(f"{c.column} {words[c.operator]} {c.value}" for c in where)
