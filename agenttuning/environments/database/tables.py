"""What a table is, how a task carries its tables, and the fingerprint by which two states of a table are compared.

A fingerprint depends on the rows alone: not on their order, not on how a number is written, not on the engine. Small
tables stand in a task's payload as they are (`tables`), those of a whole database compressed (`packed`).
"""

import base64
import hashlib
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import orjson
from pydantic import BaseModel, ConfigDict

from agenttuning.trajectory import content_hash

Value = str | int | float
"""What a cell of a generated table holds. An engine may also return None and bytes."""
Cell = Value | None
"""What a cell of any table holds."""


class Table(BaseModel):
    """A table with its rows. `types` are MySQL's names: `text`, `int`, `bigint`, `double`."""

    model_config = ConfigDict(frozen=True)

    name: str
    columns: tuple[str, ...]
    types: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]

    def column(self, name: str) -> list[Value]:
        """Return the values of one column, in the order of the rows; nulls are left out."""
        at = self.columns.index(name)
        return [cell for row in self.rows if (cell := row[at]) is not None]


def fingerprint(rows: Iterable[Sequence[Any]]) -> str:
    """Return a hash of the rows as a multiset; `5` and `5.0` are the same number."""
    return content_hash(sorted([_cell(value) for value in row] for row in rows))


def agentbench_hash(rows: Iterable[Sequence[Any]]) -> str:
    """Return the `answer_md5` that AgentBench stores of a table.

    MySQL computes it: the hash of the rows' hashes, of which GROUP_CONCAT keeps 1,024 bytes.
    """
    joined = (",".join(str(cell) for cell in row if cell is not None) for row in rows)
    return _md5(",".join(sorted(_md5(row)[:5] for row in joined))[:1024])


def _md5(text: str) -> str:
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()


Hash = Callable[[Iterable[Sequence[Any]]], str]
HASHES: dict[str, Hash] = {"fingerprint": fingerprint, "agentbench": agentbench_hash}
"""Ways to compare two states of a table; a payload's `hash` names that of its `before` and `state`."""


def state_of(tables: Iterable[Table], by: Hash = fingerprint) -> dict[str, str | None]:
    """Return the fingerprint of every table by name: the state before anything was done."""
    return {table.name: by(table.rows) for table in tables}


def pack(tables: Iterable[Table]) -> str:
    """Compress tables for a task's payload, to about a fifth."""
    data = orjson.dumps([table.model_dump(mode="json") for table in tables])
    return base64.b85encode(zlib.compress(data, 9)).decode()


@lru_cache(maxsize=8)
def unpack(packed: str) -> tuple[Table, ...]:
    """Return what `pack` compressed."""
    return tuple(Table.model_validate(table) for table in orjson.loads(zlib.decompress(base64.b85decode(packed))))


def tables_of(payload: Mapping[str, Any]) -> tuple[Table, ...]:
    """Return the tables that a task's payload carries."""
    if "packed" in payload:
        return unpack(payload["packed"])
    return tuple(Table.model_validate(table) for table in payload["tables"])


def _cell(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bytes):
        return f"bytes {value.hex()}"
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return f"{type(value).__name__} {value}"
