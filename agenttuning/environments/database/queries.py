"""Structured queries and edits: their SQL, and what they give by plain Python.

Tasks are drawn as these structures, never as SQL text, so that a result can be computed twice: by the engine from
the SQL, and here from the rows. The generator keeps a task only where both agree.
"""

import operator
import re
from collections.abc import Callable, Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from agenttuning.environments.database.tables import Cell, Table, Value

Function = Literal["COUNT", "SUM", "AVG", "MIN", "MAX"]
_COMPARE: dict[str, Callable[[Any, Any], bool]] = {"=": operator.eq, ">": operator.gt, "<": operator.lt}


class Structure(BaseModel):
    """Base of the structures here: immutable, JSON in and out."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Condition(Structure):
    """`column operator value`."""

    column: str
    operator: Literal["=", ">", "<"]
    value: Value


class Query(Structure):
    """One SELECT of one column (or aggregate) of one table. With `order`, only the first row."""

    table: str
    column: str = "*"
    function: Function | None = None
    where: tuple[Condition, ...] = ()
    order: str | None = None
    descending: bool = True


class Edit(Structure):
    """One UPDATE, INSERT or DELETE. `values` are the new values; an INSERT names every column."""

    kind: Literal["update", "insert", "delete"]
    table: str
    values: dict[str, Value] = {}
    where: tuple[Condition, ...] = ()


_PLAIN = re.compile(r"[a-z_][a-z0-9_]*")
_RESERVED_WORDS = """
add all and as asc between by case change check column condition create cross database default delete desc
describe distinct div double drop else exists explain false for from fulltext function group groups grouping
having if in index inner insert int interval into is join key keys kill lead left like limit lines load lock
long match mod natural not null of on option or order out outer over partition primary range rank read
references release rename repeat replace require return revoke right row rows schema select separator set show
smallint sql starting system table then to trigger true union unique unlock update usage use using values when
where while window with write xor
"""
_RESERVED = frozenset(_RESERVED_WORDS.split())
"""Words of MySQL and of SQLite that cannot name a column without quotes."""


def name_sql(name: str) -> str:
    """Return a table's or column's name as SQL writes it: in back-ticks where it is no plain lower-case word."""
    if _PLAIN.fullmatch(name) and name not in _RESERVED:
        return name
    return "`" + name.replace("`", "``") + "`"


def literal(value: Value, quoted: bool = True) -> str:
    """Return a value as SQL writes it; `quoted=False` leaves text bare, as a slip does."""
    if isinstance(value, str):
        return "'" + value.replace("'", "''") + "'" if quoted else value
    return repr(value)


def query_sql(query: Query, quoted: bool = True) -> str:
    """Return the query as SQL."""
    column = "*" if query.column == "*" else name_sql(query.column)
    target = column if query.function is None else f"{query.function}({column})"
    sql = f"SELECT {target} FROM {name_sql(query.table)}{_where_sql(query.where, quoted)}"
    if query.order is not None:
        sql += f" ORDER BY {name_sql(query.order)} {'DESC' if query.descending else 'ASC'} LIMIT 1"
    return sql


def edit_sql(edit: Edit, quoted: bool = True) -> str:
    """Return the edit as SQL."""
    table = name_sql(edit.table)
    if edit.kind == "insert":
        values = ", ".join(literal(value, quoted) for value in edit.values.values())
        return f"INSERT INTO {table} ({', '.join(map(name_sql, edit.values))}) VALUES ({values})"
    if edit.kind == "update":
        changes = ", ".join(f"{name_sql(column)} = {literal(value, quoted)}" for column, value in edit.values.items())
        return f"UPDATE {table} SET {changes}{_where_sql(edit.where, quoted)}"
    return f"DELETE FROM {table}{_where_sql(edit.where, quoted)}"


def evaluate(query: Query, table: Table) -> list[Value]:
    """Return what the query gives on `table`, without SQL. SUM, AVG, MIN and MAX need at least one row."""
    kept = [row for row in table.rows if _matches(query.where, table, row)]
    if query.function == "COUNT":
        return [len(kept)]
    values: list[Any] = [row[table.columns.index(query.column)] for row in kept]
    if query.order is not None:
        at = table.columns.index(query.order)
        return [value for _, value in sorted(((row[at], value) for row, value in zip(kept, values, strict=True)))][
            -1 if query.descending else 0 :
        ][:1]
    match query.function:
        case None:
            return values
        case "SUM":
            return [sum(values)]
        case "AVG":
            return [sum(values) / len(values)]
        case "MIN":
            return [min(values)]
        case _:
            return [max(values)]


def apply(edit: Edit, table: Table) -> Table:
    """Return `table` after the edit, without SQL."""
    if edit.kind == "insert":
        rows = (*table.rows, tuple(edit.values[column] for column in table.columns))
    elif edit.kind == "delete":
        rows = tuple(row for row in table.rows if not _matches(edit.where, table, row))
    else:
        rows = tuple(_changed(edit.values, table, row, _matches(edit.where, table, row)) for row in table.rows)
    return table.model_copy(update={"rows": rows})


def renamed(query: Query, names: Mapping[str, str]) -> Query:
    """Return the query with table and columns called by other names; names not in the mapping stay."""

    def name(old: str) -> str:
        return names.get(old, old)

    return query.model_copy(
        update={
            "table": name(query.table),
            "column": name(query.column),
            "order": None if query.order is None else name(query.order),
            "where": tuple(c.model_copy(update={"column": name(c.column)}) for c in query.where),
        }
    )


def _where_sql(where: tuple[Condition, ...], quoted: bool) -> str:
    if not where:
        return ""
    return " WHERE " + " AND ".join(f"{name_sql(c.column)} {c.operator} {literal(c.value, quoted)}" for c in where)


def _matches(where: tuple[Condition, ...], table: Table, row: tuple[Cell, ...]) -> bool:
    return all(_COMPARE[c.operator](row[table.columns.index(c.column)], c.value) for c in where)


def _changed(values: Mapping[str, Value], table: Table, row: tuple[Cell, ...], matches: bool) -> tuple[Cell, ...]:
    if not matches:
        return row
    return tuple(values.get(column, value) for column, value in zip(table.columns, row, strict=True))


Knowledge = Literal["columns", "table", "nothing", "hearsay"]
"""What a question says of the tables: their columns, only the table's name, nothing, or names that may be wrong."""


class Plan(Structure):
    """How a task is solved: the gold query or edit, and what the demonstrator has to find out before it.

    `first` gives the value of the first condition of `query`. `check` follows an edit. `names` are the wrong names
    that the question uses, by the true one. `aliases` are words that a person might confuse with a column's name.
    """

    knowledge: Knowledge
    query: Query | None = None
    first: Query | None = None
    edit: Edit | None = None
    check: Query | None = None
    names: dict[str, str] = {}
    aliases: dict[str, str] = {}

    @property
    def table(self) -> str:
        """The table that the task begins with."""
        target = self.first or self.query or self.edit
        assert target is not None
        return target.table
