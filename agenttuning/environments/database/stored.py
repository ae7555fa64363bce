"""Tables of existing SQLite files.

Only what both engines can hold is kept: columns as text, whole or decimal numbers, and their rows. Keys, indexes, views
and triggers are left behind. A blob becomes its hexadecimal text.
"""

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from agenttuning.environments.database.tables import Cell, Table
from agenttuning.errors import DataError

MAX_CELLS = 400_000
"""A database is carried by each of its tasks, so a large one is refused."""
_INT = 2**31


def read_sqlite(path: Path) -> tuple[Table, ...]:
    """Return the tables of an SQLite file, which is opened for reading alone.

    Raises:
        DataError: no such file, no SQLite database, no table in it, or one too large.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such database file; each database of the questions needs its SQLite file")
    try:
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as connection:
            return read_connection(connection, str(path))
    except sqlite3.Error as error:
        raise DataError(f"{path}: not readable as an SQLite database ({error}); fetch it again") from error


def read_connection(connection: sqlite3.Connection, where: str) -> tuple[Table, ...]:
    """Return the tables of an open SQLite database, in the order in which they were made.

    Raises:
        DataError: it has no table, or is too large.
    """
    connection.text_factory = lambda data: data.decode("utf-8", "replace")
    listed = "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%' ORDER BY rowid"
    tables: list[Table] = []
    cells = 0
    for (name,) in connection.execute(listed).fetchall():
        cursor = connection.execute(f'SELECT * FROM "{name.replace(chr(34), chr(34) * 2)}"')
        columns = [column[0] for column in cursor.description]
        rows: list[tuple[Cell, ...]] = []
        for row in cursor:
            rows.append(tuple(cell.hex() if isinstance(cell, bytes) else cell for cell in row))
            cells += len(columns)
            if cells > MAX_CELLS:
                raise DataError(
                    f"{where}: more than {MAX_CELLS} cells; a task carries its database, so use a part of it"
                )
        tables.append(typed(name, columns, rows))
    if not tables:
        raise DataError(f"{where}: the database has no table")
    return tuple(tables)


def typed(name: str, columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> Table:
    """Build a table whose columns have the narrowest type that holds their cells."""
    kinds = [_kind([row[at] for row in rows]) for at in range(len(columns))]
    written = [tuple(map(_as, row, kinds)) for row in rows]
    return Table(name=name, columns=tuple(columns), types=tuple(kinds), rows=tuple(written))


def _kind(cells: list[Cell]) -> str:
    """Return the type that holds every cell: declared types say little in SQLite."""
    found = [cell for cell in cells if cell is not None]
    if not found or any(isinstance(cell, str) for cell in found):
        return "text"
    if any(isinstance(cell, float) for cell in found):
        return "double"
    return "int" if all(isinstance(cell, int) and -_INT <= cell < _INT for cell in found) else "bigint"


def _as(cell: Cell, kind: str) -> Cell:
    return cell if cell is None or kind != "text" else str(cell)
