"""Tables of a PostgreSQL script, as defog publishes its databases: CREATE TABLE, and INSERT with values.

The script is read, never run. Rows there are written relative to the day (`CURRENT_DATE - INTERVAL '8 days'`); here
that day is always `TODAY`, so that a task is the same whenever it is made.
"""

import calendar
from datetime import date, datetime, timedelta
from typing import Any

from agenttuning.environments.database.stored import typed
from agenttuning.environments.database.tables import Cell, Table
from agenttuning.errors import DataError

TODAY = datetime(2024, 6, 15, 12)  # noqa: DTZ001 (SQL dates have no zone)
_UNITS = {"WEEK": 604_800, "DAY": 86_400, "HOUR": 3600, "MIN": 60, "MINUTE": 60}


def read_postgres(script: str, where: str) -> tuple[Table, ...]:
    """Return the tables that a script makes.

    Args:
        script: its text.
        where: what to call it in an error.

    Raises:
        DataError: the script is not of the published form.
    """
    import sqlglot
    from sqlglot import exp

    columns: dict[str, list[str]] = {}
    rows: dict[str, list[list[Cell]]] = {}
    try:
        for tree in sqlglot.parse(script, read="postgres"):
            if isinstance(tree, exp.Create) and tree.kind == "TABLE":
                name = tree.this.this.name
                columns[name] = [column.name for column in tree.this.expressions if isinstance(column, exp.ColumnDef)]
                rows[name] = []
            elif isinstance(tree, exp.Insert):
                name, given = _target(tree)
                header = [column.casefold() for column in columns[name]]
                places = [header.index(column.casefold()) for column in given] if given else list(range(len(header)))
                for values in tree.expression.expressions:
                    row: list[Cell] = [None] * len(header)
                    for place, value in zip(places, values.expressions, strict=True):
                        row[place] = _cell(_value(value))
                    rows[name].append(row)
    except (sqlglot.errors.SqlglotError, KeyError, ValueError, AttributeError) as error:
        raise DataError(f"{where}: not a script of CREATE TABLE and INSERT as published ({error!r})") from error
    if not columns:
        raise DataError(f"{where}: the script makes no table")
    return tuple(typed(name, columns[name], rows[name]) for name in columns)


def _target(insert: Any) -> tuple[str, list[str]]:
    """Return the table of an INSERT, and its listed columns where there are any."""
    if type(insert.this).__name__ == "Schema":
        return insert.this.this.name, [column.name for column in insert.this.expressions]
    return insert.this.name, []


def _value(node: Any) -> Any:
    """Return what a value's expression stands for.

    Raises:
        ValueError: an expression that published scripts do not use.
    """
    match type(node).__name__:
        case "Literal":
            return node.this if node.is_string else float(node.this) if "." in node.this else int(node.this)
        case "Null":
            return None
        case "Boolean":
            return int(node.this)
        case "Neg":
            return -_value(node.this)
        case "CurrentDate":
            return TODAY.date()
        case "CurrentTimestamp":
            return TODAY
        case "Interval":
            return _interval(str(node.this.name), str(node.args["unit"]))
        case "Add" | "Sub" | "Mul":
            return _computed(type(node).__name__, _value(node.this), _value(node.expression))
        case "TimestampTrunc":
            return _truncated(_value(node.this), str(node.args["unit"]))
        case "Extract":
            found = _value(node.expression)
            return found.year if str(node.this) == "YEAR" else calendar.timegm(found.timetuple())
        case "TimeToStr":
            return _value(node.this).strftime(_written(node))
        case other:
            raise ValueError(f"an expression {other}: {node.sql():.80}")


def _written(node: Any) -> str:
    """Return the strftime form of a TO_CHAR; sqlglot has read it in part."""
    form = node.args["format"].name
    return "%B" if form.strip().casefold() in ("month", "%b", "%-b", "tmmonth") else "%Y%m%d %H:%M:%S"


def _interval(text: str, unit: str) -> tuple[int, timedelta]:
    """Return an interval as months and time."""
    number, unit = int(text), unit.upper().rstrip("S")
    if unit in ("YEAR", "MONTH"):
        return number * (12 if unit == "YEAR" else 1), timedelta()
    return 0, timedelta(seconds=_UNITS[unit] * number)


def _computed(name: str, left: Any, right: Any) -> Any:
    if isinstance(right, tuple):
        sign = -1 if name == "Sub" else 1
        months, time = right
        count = left.year * 12 + left.month - 1 + sign * months
        year, month = divmod(count, 12)
        day = min(left.day, calendar.monthrange(year, month + 1)[1])
        moved = left.replace(year=year, month=month + 1, day=day)
        moment = moved if isinstance(moved, datetime) else datetime(moved.year, moved.month, moved.day)  # noqa: DTZ001
        return moment + sign * time
    return left * right if name == "Mul" else left - right if name == "Sub" else left + right


def _truncated(moment: Any, unit: str) -> datetime:
    day = datetime(moment.year, moment.month, 1 if unit.upper() == "MONTH" else moment.day)  # noqa: DTZ001
    return day - timedelta(days=day.weekday()) if unit.upper() == "WEEK" else day


def _cell(value: Any) -> Cell:
    if isinstance(value, datetime):
        midnight = (value.hour, value.minute, value.second) == (0, 0, 0)
        return value.date().isoformat() if midnight else value.isoformat(" ")
    return value.isoformat() if isinstance(value, date) else value
