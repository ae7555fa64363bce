"""Where SQL runs: a small engine interface, and SQLite in memory behind it.

What an agent writes can change the tables of its own episode and nothing else: an authorizer refuses files,
extensions, virtual tables and PRAGMA; a statement is stopped at a time limit; values, pages and results have size
limits; one statement runs per call. SQLite looks at the clock only between the steps of its machine, so what makes one
step long is refused or kept small: `printf`, long values and patterns, views and WITH that multiply (`bounds`).

Text compares without regard to case, as MySQL's default collation does. The agent's MySQL runs as it is; a statement
that SQLite refuses is translated and tried once more (`mysql`). A MariaDB server behind the same interface is in
`mariadb`.
"""

import ast
import sqlite3
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from agenttuning.environments.database.bounds import MOST_COPIES, copies
from agenttuning.environments.database.dialect import ShowColumns, ShowTables, read_show
from agenttuning.environments.database.mysql import add_functions, translate
from agenttuning.environments.database.tables import Hash, Table, fingerprint

MAX_VALUE_BYTES = 65_536
"""Of a value that a statement makes; a row of the task's own tables may be longer."""
MAX_PATTERN_BYTES = 100
"""Of a LIKE or GLOB pattern: matching takes the product of both lengths."""
MAX_SQL_BYTES = 100_000
MAX_PAGES = 4096
"""Of 4 KiB: a database may grow to 16 MiB."""
PROGRESS_OPCODES = 100
"""Steps of SQLite's machine between two looks at the clock: a step takes up to 0.05 s within the limits above."""


@dataclass(frozen=True)
class Reply:
    """What a statement gave: the raw rows as text, or an error."""

    text: str
    error: bool = False
    truncated: bool = False


class Engine(Protocol):
    """A database of one episode."""

    def create(self, tables: Iterable[Table]) -> None:
        """Create and fill the tables."""
        ...

    def execute(self, sql: str) -> Reply:
        """Run one statement of the agent. A failing statement is a reply with `error=True`."""
        ...

    def state(self, tables: Sequence[Table], by: Hash = fingerprint) -> dict[str, str | None]:
        """Return the fingerprint of each table as it is now, None for one that lost a column or is gone."""
        ...

    def close(self) -> None:
        """Free the database. Safe to call twice."""
        ...


class SQLiteEngine:
    """An SQLite database in memory.

    Args:
        timeout_s: limit on one statement, in seconds of CPU time: waiting for other episodes of the process is free.
        max_chars: length at which a result's text is cut.
    """

    def __init__(self, timeout_s: float = 2.0, max_chars: int = 800) -> None:
        self.timeout_s = timeout_s
        self.max_chars = max_chars
        self._refused = ""
        self._trusted = True
        self._deadline = float("inf")
        # An episode's steps may be carried out by different threads, never by two at once.
        self._connection = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
        for pragma in (f"max_page_count = {MAX_PAGES}", "temp_store = MEMORY", "trusted_schema = OFF"):
            self._connection.execute(f"PRAGMA {pragma}")
        for limit, most in _LIMITS.items():
            self._connection.setlimit(limit, most)
        add_functions(self._connection)
        self._connection.set_authorizer(self._authorize)
        self._connection.set_progress_handler(lambda: time.thread_time() > self._deadline, PROGRESS_OPCODES)

    def create(self, tables: Iterable[Table]) -> None:
        """Create and fill the tables."""
        tables = tuple(tables)
        longest = max((_row_bytes(row) for table in tables for row in table.rows), default=0)
        self._connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, max(MAX_VALUE_BYTES, longest))
        for table in tables:
            columns = ", ".join(
                f"{_quoted(name)} {kind}{' COLLATE NOCASE' if kind == 'text' else ''}"
                for name, kind in zip(table.columns, table.types, strict=True)
            )
            self._connection.execute(f"CREATE TABLE {_quoted(table.name)} ({columns})")
            marks = ", ".join("?" * len(table.columns))
            self._connection.executemany(f"INSERT INTO {_quoted(table.name)} VALUES ({marks})", table.rows)

    def execute(self, sql: str) -> Reply:
        """Run one statement of the agent and return its rows, its count of changed rows, or its error."""
        request = read_show(sql)
        if request is not None:
            return self._show(request)
        self._refused = ""
        self._deadline = time.thread_time() + self.timeout_s
        self._trusted = False
        try:
            reply, refused = self._attempt(sql)
            if refused and not self._refused and (other := translate(sql)) is not None:
                again, _ = self._attempt(other)
                return reply if again.error else again
            return reply
        finally:
            self._trusted = True
            self._deadline = float("inf")

    def _attempt(self, sql: str) -> tuple[Reply, bool]:
        """Run a statement; return its reply, and whether SQLite refused it for its form or its names."""
        if self._copies(sql) > MOST_COPIES:
            many = f"views and WITH queries that name each other make more than {MOST_COPIES} queries; name them once"
            return Reply(f"Error: {many}", error=True), False
        cursor = self._connection.cursor()
        try:
            cursor.execute(sql)
            reply = rows_reply(cursor, self.max_chars) if cursor.description is not None else changed(cursor.rowcount)
            return reply, False
        except (sqlite3.Error, sqlite3.Warning, ValueError, OverflowError, MemoryError) as error:
            refused = type(error) is sqlite3.OperationalError and str(error) != "interrupted"
            return Reply(f"Error: {self._explain(error)}", error=True), refused
        finally:
            cursor.close()

    def state(self, tables: Sequence[Table], by: Hash = fingerprint) -> dict[str, str | None]:
        """Return the fingerprint of each table as it is now, None for one that lost a column or is gone.

        A transaction left open is rolled back first, as a server does when its client leaves. What the agent made
        in a table's place (a view) is not read: reading it would run the agent's text.
        """
        if self._connection.in_transaction:
            self._connection.rollback()
        self._deadline = time.thread_time() + self.timeout_s
        try:
            return {table.name: self._fingerprint(table, by) for table in tables}
        finally:
            self._deadline = float("inf")

    def close(self) -> None:
        """Free the database. Safe to call twice."""
        self._connection.close()

    def _fingerprint(self, table: Table, by: Hash) -> str | None:
        columns = ", ".join(f"[{name}]" if "]" not in name else _quoted(name) for name in table.columns)
        real = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ? COLLATE NOCASE"
        if self._connection.execute(real, (table.name,)).fetchone() is None:
            return None
        try:
            return by(self._connection.execute(f"SELECT {columns} FROM {_quoted(table.name)}"))
        except sqlite3.OperationalError:
            return None

    def _copies(self, sql: str) -> float:
        """Return a bound on how often the views, WITH queries and triggers of a statement are copied."""
        listed = "SELECT type, name, sql FROM {} WHERE type IN ('view', 'trigger')"
        self._trusted = True
        try:
            found = [self._connection.execute(listed.format(t)) for t in ("sqlite_master", "sqlite_temp_master")]
            made = [row for rows in found for row in rows]
        finally:
            self._trusted = False
        views = {name: text for kind, name, text in made if kind == "view"}
        return copies(sql, views, [text for kind, _, text in made if kind == "trigger"])

    def _show(self, request: ShowTables | ShowColumns) -> Reply:
        if isinstance(request, ShowTables):
            return rows_reply(
                self._connection.execute(
                    "SELECT name FROM sqlite_master WHERE type IN ('table', 'view') AND name NOT LIKE 'sqlite_%' "
                    "ORDER BY name"
                ),
                self.max_chars,
            )
        rows = self._connection.execute(f"PRAGMA table_info({_quoted(request.table)})").fetchall()
        if not rows:
            return Reply(f"Error: no such table: {request.table}", error=True)
        return rows_reply(((name, kind.lower()) for _, name, kind, *_ in rows), self.max_chars)

    def _explain(self, error: Exception) -> str:
        text = str(error)
        if self._refused and ("not authorized" in text or "prohibited" in text):
            return self._refused
        if text == "interrupted":
            return f"the statement was stopped after {self.timeout_s:g} seconds"
        if "one statement at a time" in text:
            return "one statement per action; send the next one in its own turn"
        if isinstance(error, OverflowError):
            return "a number is too large"
        if isinstance(error, MemoryError):
            return "the statement needs too much memory"
        return text

    def _authorize(self, code: int, first: str | None, second: str | None, *_: str | None) -> int:
        if self._trusted or code in _ALLOWED:
            return sqlite3.SQLITE_OK
        if code == sqlite3.SQLITE_FUNCTION and (second or "").casefold() not in _REFUSED_FUNCTIONS:
            return sqlite3.SQLITE_OK
        if code == sqlite3.SQLITE_PRAGMA:
            self._refused = "PRAGMA is not allowed; use SHOW TABLES and DESCRIBE"
        elif code == sqlite3.SQLITE_FUNCTION:
            self._refused = f"the function {second} is not allowed"
        else:
            self._refused = "files, other databases and extensions are not allowed"
        return sqlite3.SQLITE_DENY


_ALLOWED = frozenset(
    {
        *(sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_INSERT, sqlite3.SQLITE_UPDATE),
        *(sqlite3.SQLITE_DELETE, sqlite3.SQLITE_RECURSIVE, sqlite3.SQLITE_TRANSACTION, sqlite3.SQLITE_SAVEPOINT),
        *(sqlite3.SQLITE_ALTER_TABLE, sqlite3.SQLITE_REINDEX, sqlite3.SQLITE_ANALYZE),
        *(sqlite3.SQLITE_CREATE_TABLE, sqlite3.SQLITE_CREATE_TEMP_TABLE),
        *(sqlite3.SQLITE_CREATE_INDEX, sqlite3.SQLITE_CREATE_TEMP_INDEX),
        *(sqlite3.SQLITE_CREATE_VIEW, sqlite3.SQLITE_CREATE_TEMP_VIEW),
        *(sqlite3.SQLITE_CREATE_TRIGGER, sqlite3.SQLITE_CREATE_TEMP_TRIGGER),
        *(sqlite3.SQLITE_DROP_TABLE, sqlite3.SQLITE_DROP_TEMP_TABLE),
        *(sqlite3.SQLITE_DROP_INDEX, sqlite3.SQLITE_DROP_TEMP_INDEX),
        *(sqlite3.SQLITE_DROP_VIEW, sqlite3.SQLITE_DROP_TEMP_VIEW),
        *(sqlite3.SQLITE_DROP_TRIGGER, sqlite3.SQLITE_DROP_TEMP_TRIGGER),
    }
)
"""What SQLite may do for an agent's statement; functions are allowed but for those below."""
_REFUSED_FUNCTIONS = frozenset(
    {
        *("load_extension", "readfile", "writefile", "edit", "fts3_tokenizer"),
        # One call of these may take half a minute: a width of two thousand million, keys against keys.
        *("printf", "format", "json_patch"),
    }
)
_LIMITS = {
    sqlite3.SQLITE_LIMIT_LENGTH: MAX_VALUE_BYTES,
    sqlite3.SQLITE_LIMIT_LIKE_PATTERN_LENGTH: MAX_PATTERN_BYTES,
    sqlite3.SQLITE_LIMIT_SQL_LENGTH: MAX_SQL_BYTES,
    sqlite3.SQLITE_LIMIT_ATTACHED: 0,
}


def rows_reply(rows: Iterable[Sequence[Any]], max_chars: int) -> Reply:
    """Return rows as text, cut at `max_chars`; of what lies beyond the cut no more than a row is read."""
    parts: list[str] = []
    length = 2
    for row in rows:
        parts.append(repr(tuple(row)))
        length += len(parts[-1]) + 2
        if length - 2 > max_chars:
            text = "[" + ", ".join(parts)
            return Reply(f"{text[:max_chars]}... [cut at {max_chars} characters]", truncated=True)
    return Reply("[" + ", ".join(parts) + "]")


def changed(count: int) -> Reply:
    """Return what a statement without rows gives: how many rows it changed, where `count` is not negative."""
    return Reply("Query OK" if count < 0 else f"Query OK, {count} row{'' if count == 1 else 's'} affected")


def _row_bytes(row: Sequence[Any]) -> int:
    """Return a length that SQLite's record of a row does not exceed."""
    return sum(20 if not isinstance(cell, str | bytes) else 4 * len(cell) + 20 for cell in row) + 20


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def read_rows(text: str) -> list[tuple[Any, ...]] | None:
    """Return the rows of a raw reply, or None where the text is no list of rows (an error, a cut result)."""
    try:
        rows = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return None
    return rows if isinstance(rows, list) else None


def read_values(text: str) -> list[Any] | None:
    """Return the first column of a raw reply, or None where the text is no list of rows."""
    rows = read_rows(text)
    return None if rows is None else [row[0] for row in rows]
