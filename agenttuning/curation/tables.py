"""Tables and line files that are written piece by piece, and appear whole or not at all."""

import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from agenttuning.errors import StorageError
from agenttuning.storage import Store

ROWS = 256
"""Rows of one row group: what a writer holds in memory."""

Row = TypeVar("Row")


@contextmanager
def scratch(store: Store, name: str) -> Iterator[Path]:
    """Give a local path to write; when the block ends well, it becomes the store's file `name`."""
    root = store.local_path()
    folder = Path(tempfile.mkdtemp()) if root is None else root
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f".tmp-{uuid.uuid4().hex}"
    try:
        yield path
        if root is None:
            store.write(name, path.read_bytes())
            return
        with path.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(path, root / name)
    except OSError as error:
        raise StorageError(
            f"{store.uri}/{name}: cannot be written ({error.strerror or error}); free space there or set run.root "
            "elsewhere, then run the same command again"
        ) from error
    finally:
        path.unlink(missing_ok=True)
        if root is None:
            shutil.rmtree(folder, ignore_errors=True)


class TableWriter:
    """Collects rows and writes them in groups of `ROWS`."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self._writer = pq.ParquetWriter(path, schema, compression="zstd")
        self._schema = schema
        self._rows: list[dict[str, Any]] = []

    def add(self, row: dict[str, Any]) -> None:
        """Add one row."""
        self._rows.append(row)
        if len(self._rows) >= ROWS:
            self._flush()

    def write(self, table: pa.Table) -> None:
        """Write a table as a row group of its own, after the rows added so far."""
        self._flush()
        if table.num_rows:
            self._writer.write_table(table)

    def close(self) -> None:
        """Write what is left."""
        self._flush()
        self._writer.close()

    def _flush(self) -> None:
        if self._rows:
            self._writer.write_table(pa.Table.from_pylist(self._rows, schema=self._schema))
            self._rows.clear()


@contextmanager
def parquet(store: Store, name: str, schema: pa.Schema) -> Iterator[TableWriter]:
    """Give a writer of the store's Parquet file `name`."""
    with scratch(store, name) as path:
        writer = TableWriter(path, schema)
        try:
            yield writer
        finally:
            writer.close()


@contextmanager
def lines(store: Store, name: str) -> Iterator[IO[bytes]]:
    """Give a file to write lines to, which becomes the store's file `name`."""
    with scratch(store, name) as path, path.open("wb") as file:
        yield file
