"""MySQL's dialect on SQLite: functions that SQLite lacks, and a translation of statements that it refuses.

A statement runs as it was written. Only where SQLite refuses it, `translate` writes it anew with sqlglot, and the
engine tries once more. What stays different: a text column compared with a number compares as text (write
`CAST(column AS SIGNED)`), `/` between whole numbers gives a whole number, and there is no REGEXP, since a pattern
cannot be stopped at the time limit.
"""

import logging
import re
import sqlite3
from collections.abc import Callable
from datetime import datetime
from functools import cache
from typing import Any

MAX_TRANSLATED = 8000
"""Longer statements are not translated: parsing takes about 0.1 ms for each 20 characters."""
MAX_DATE = 100
"""Characters of a date and of its format: the format becomes a pattern."""
_DATE = re.compile(r"(\d{4})-(\d{1,2})-(\d{1,2})\b")


def add_functions(connection: sqlite3.Connection) -> None:
    """Give a connection the functions of MySQL that SQLite lacks, and those of SQLite that could take long."""
    for name, (arity, function) in _FUNCTIONS.items():
        connection.create_function(name, arity, function, deterministic=True)


def translate(sql: str) -> str | None:
    """Return one MySQL statement in SQLite's dialect, or None where that is not possible or changes nothing."""
    if len(sql) > MAX_TRANSLATED:
        return None
    glot, dialect = _sqlglot()
    try:
        trees = glot.parse(sql, read="mysql")
        if len(trees) != 1 or trees[0] is None or isinstance(trees[0], glot.exp.Command):
            return None
        written: str = trees[0].sql(dialect=dialect)
    except (glot.errors.SqlglotError, RecursionError, ValueError):
        return None
    return written if written and written != sql else None


@cache
def _sqlglot() -> tuple[Any, Any]:
    """Return sqlglot, and its SQLite dialect without the words that SQLite does not know as functions."""
    import sqlglot
    from sqlglot import exp
    from sqlglot.dialects.sqlite import SQLite

    logging.getLogger("sqlglot").setLevel(logging.CRITICAL)

    class Dialect(SQLite):
        """SQLite with LEFT, RIGHT, YEAR and TRUNCATE written in what it has.

        Names are written in back-ticks: SQLite takes an unknown name in double quotes for a text.
        """

        class Tokenizer(SQLite.Tokenizer):
            """The first pair is what names are written in."""

            IDENTIFIERS = ["`", '"', ("[", "]")]  # noqa: RUF012

        class Generator(SQLite.Generator):  # type: ignore[misc, valid-type]
            """The transforms."""

            TRANSFORMS = {  # noqa: RUF012 (the name and the form are sqlglot's)
                **SQLite.Generator.TRANSFORMS,
                exp.Left: lambda self, e: self.func("SUBSTR", e.this, exp.Literal.number(1), e.expression),
                exp.Right: lambda self, e: self.func("SUBSTR", e.this, exp.Neg(this=e.expression)),
                exp.Year: lambda self, e: self.func("YEAR", e.this),
                exp.StrToDate: lambda self, e: self.func("STRPTIME_DATE", e.this, e.args.get("format")),
                exp.TruncateTable: lambda self, e: f"DELETE FROM {self.expressions(e, flat=True)}",
            }

    return sqlglot, Dialect


def _concat(*values: Any) -> str | None:
    return None if any(value is None for value in values) else "".join(map(str, values))


def _concat_ws(separator: Any, *values: Any) -> str | None:
    return None if separator is None else str(separator).join(str(value) for value in values if value is not None)


def _part(number: int) -> Callable[[Any], int | None]:
    def part(date: Any) -> int | None:
        found = _DATE.match(str(date))
        return int(found[number]) if found else None

    return part


def _substring_index(text: Any, separator: Any, count: Any) -> str | None:
    if text is None or not separator or not isinstance(count, int):
        return None
    parts = str(text).split(str(separator))
    return str(separator).join(parts[:count] if count >= 0 else parts[count:])


def _find_in_set(text: Any, listed: Any) -> int | None:
    if text is None or listed is None:
        return None
    words = [word.casefold() for word in str(listed).split(",")]
    return words.index(str(text).casefold()) + 1 if str(text).casefold() in words else 0


def _strptime_date(text: Any, form: Any) -> str | None:
    if len(str(text)) > MAX_DATE or len(str(form)) > MAX_DATE:
        return None
    try:
        found = datetime.strptime(str(text), str(form))  # noqa: DTZ007 (SQL dates have no zone)
    except ValueError:
        return None
    return found.date().isoformat() if "%H" not in str(form) else found.isoformat(" ")


def _trimmed(strip: Callable[[str, str], str]) -> Callable[[Any, Any], str | None]:
    """Return SQLite's TRIM of a set of characters, in a time that does not grow with the set."""

    def trim(text: Any, characters: Any) -> str | None:
        return None if text is None or characters is None else strip(str(text), "".join(set(str(characters))))

    return trim


_FUNCTIONS: dict[str, tuple[int, Callable[..., Any]]] = {
    "concat": (-1, _concat),
    "concat_ws": (-1, _concat_ws),
    "year": (1, _part(1)),
    "month": (1, _part(2)),
    "day": (1, _part(3)),
    "substring_index": (3, _substring_index),
    "find_in_set": (2, _find_in_set),
    "mid": (3, lambda text, start, length: None if text is None else str(text)[start - 1 :][:length]),
    "strptime_date": (2, _strptime_date),
    "trim": (2, _trimmed(str.strip)),
    "ltrim": (2, _trimmed(str.lstrip)),
    "rtrim": (2, _trimmed(str.rstrip)),
}
