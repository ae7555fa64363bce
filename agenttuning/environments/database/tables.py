"""What a table is, and the fingerprint by which two states of a table are compared.

A fingerprint depends on the rows alone: not on their order, not on how a number is written, not on the engine.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict

from agenttuning.trajectory import content_hash

Value = str | int | float
"""What a cell of a generated table holds. An engine may also return None and bytes."""


class Table(BaseModel):
    """A table with its rows. `types` are MySQL's names: `text`, `int`, `double`."""

    model_config = ConfigDict(frozen=True)

    name: str
    columns: tuple[str, ...]
    types: tuple[str, ...]
    rows: tuple[tuple[Value, ...], ...]

    def column(self, name: str) -> list[Value]:
        """Return the values of one column, in the order of the rows."""
        at = self.columns.index(name)
        return [row[at] for row in self.rows]


def fingerprint(rows: Iterable[Sequence[Any]]) -> str:
    """Return a hash of the rows as a multiset; `5` and `5.0` are the same number."""
    return content_hash(sorted([_cell(value) for value in row] for row in rows))


def state_of(tables: Iterable[Table]) -> dict[str, str | None]:
    """Return the fingerprint of every table by name: the state before anything was done."""
    return {table.name: fingerprint(table.rows) for table in tables}


def _cell(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bytes):
        return f"bytes {value.hex()}"
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return f"{type(value).__name__} {value}"
