"""The few MySQL statements that describe a schema, for engines that do not speak them.

`SHOW TABLES`, `DESCRIBE t` (`DESC t`, `EXPLAIN t`) and `SHOW COLUMNS FROM t` (`FIELDS`, `IN`) are read here and
answered by the engine from its own schema. Rows are as MySQL names them, cut to the two columns that matter to
an agent: Field and Type.
"""

import re
from dataclasses import dataclass

_NAME = r"(`[^`]+`|\"[^\"]+\"|'[^']+'|[^\s`\"';]+)"
_SHOW_TABLES = re.compile(r"show\s+(?:full\s+)?tables", re.IGNORECASE)
_DESCRIBE = re.compile(rf"(?:describe|desc|explain)\s+{_NAME}", re.IGNORECASE)
_SHOW_COLUMNS = re.compile(rf"show\s+(?:full\s+)?(?:columns|fields)\s+(?:from|in)\s+{_NAME}", re.IGNORECASE)


@dataclass(frozen=True)
class ShowTables:
    """A request for the names of all tables."""


@dataclass(frozen=True)
class ShowColumns:
    """A request for the columns of `table`."""

    table: str


def read_show(sql: str) -> ShowTables | ShowColumns | None:
    """Return the request in a statement that describes the schema, or None where it is ordinary SQL."""
    statement = sql.strip().rstrip(";").strip()
    if _SHOW_TABLES.fullmatch(statement):
        return ShowTables()
    found = _DESCRIBE.fullmatch(statement) or _SHOW_COLUMNS.fullmatch(statement)
    if found is None:
        return None
    name = found.group(1)
    return ShowColumns(name[1:-1] if name[0] in "`\"'" else name)
