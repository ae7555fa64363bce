"""`Store`: named files below a path or an object-store URI, written atomically.

A local write goes to a temporary file, is synced and renamed, and then its directory is synced; an object store's PUT
is atomic by itself. So a reader sees a whole file or none, and nothing is ever appended to. Object stores go through
`pyarrow.fs` (`s3://bucket/prefix`, `gs://...`, `abfs://...`); a query such as
`?endpoint_override=localhost:9000&scheme=http` is kept. Credentials come from the environment, never from a recipe.
"""

import contextlib
import errno
import io
import os
import shutil
import uuid
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from agenttuning.errors import ConfigurationError, DataError, StorageError

PIECE_BYTES = 16 << 20
"""Of a large file that is copied: held in memory at once."""


class Store:
    """Files below `uri`, named by relative slash-separated names. Picklable: connections are made on use."""

    def __init__(self, uri: str) -> None:
        self.uri = uri.rstrip("/") if "://" in uri else str(Path(uri).absolute())
        self._fs: pafs.FileSystem | None = None
        self._base = ""

    def __reduce__(self) -> tuple[type["Store"], tuple[str]]:
        """Pickle as the URI alone."""
        return (Store, (self.uri,))

    def __repr__(self) -> str:
        return f"Store({self.uri!r})"

    def child(self, *parts: str) -> "Store":
        """Return the store of a sub-directory."""
        base, mark, query = self.uri.partition("?")
        return Store("/".join([base, *parts]) + mark + query)

    def local_path(self) -> Path | None:
        """Return the directory when the store is local, else None."""
        return None if "://" in self.uri else Path(self.uri)

    def read(self, name: str) -> bytes:
        """Return a file's bytes.

        Raises:
            DataError: no such file.
            StorageError: the store does not answer.
        """
        try:
            if (root := self.local_path()) is not None:
                return (root / name).read_bytes()
            fs, base = self._connect()
            with fs.open_input_stream(f"{base}/{name}", compression=None) as stream:
                data: bytes = stream.read()
                return data
        except FileNotFoundError as error:
            raise DataError(f"{self.uri}/{name}: no such file; run the stage that writes it first") from error
        except OSError as error:
            raise StorageError(f"{self.uri}/{name}: cannot be read ({error})") from error

    def write(self, name: str, data: bytes) -> None:
        """Write a file whole: durable when the call returns, never seen half-written.

        Raises:
            StorageError: the disk is full, or the store refuses.
        """
        try:
            if (root := self.local_path()) is not None:
                _write_local(root / name, data)
                return
            fs, base = self._connect()
            with fs.open_output_stream(f"{base}/{name}", compression=None) as stream:
                stream.write(data)
        except OSError as error:
            cure = "free space there" if error.errno == errno.ENOSPC else "check the path, its rights and credentials"
            raise StorageError(
                f"{self.uri}/{name}: cannot be written ({error.strerror or error}); {cure} or set run.root elsewhere, "
                "then run the same command again: it continues"
            ) from error

    def exists(self, name: str) -> bool:
        """Return whether the file is there."""
        if (root := self.local_path()) is not None:
            return (root / name).is_file()
        fs, base = self._connect()
        try:
            return bool(fs.get_file_info(f"{base}/{name}").type == pafs.FileType.File)
        except OSError as error:
            raise StorageError(f"{self.uri}: cannot be reached ({error}); check the URI and credentials") from error

    def list(self, prefix: str = "", suffix: str = "") -> list[str]:
        """Return the sorted names of all files below, by prefix and suffix of the relative name."""
        return sorted(self.sizes(prefix, suffix))

    def sizes(self, prefix: str = "", suffix: str = "") -> dict[str, int]:
        """Return the same names, each with its file's size in bytes: what a listing tells of both."""
        folder = prefix.rpartition("/")[0]
        if (root := self.local_path()) is not None:
            found = _local_sizes(root, folder)
        else:
            fs, base = self._connect()
            selector = pafs.FileSelector(f"{base}/{folder}".rstrip("/"), recursive=True, allow_not_found=True)
            try:
                infos = fs.get_file_info(selector)
            except OSError as error:
                raise StorageError(f"{self.uri}: cannot be listed ({error}); check the URI and credentials") from error
            found = {i.path[len(base) + 1 :]: int(i.size) for i in infos if i.type == pafs.FileType.File}
        return {n: size for n, size in found.items() if n.startswith(prefix) and n.endswith(suffix)}

    def delete(self, name: str) -> None:
        """Delete a file; a missing one is no error.

        Raises:
            StorageError: it cannot be deleted.
        """
        try:
            if (root := self.local_path()) is not None:
                (root / name).unlink(missing_ok=True)
            elif self.exists(name):
                fs, base = self._connect()
                fs.delete_file(f"{base}/{name}")
        except FileNotFoundError:  # Another deleted it in between.
            return
        except OSError as error:
            raise StorageError(
                f"{self.uri}/{name}: cannot be deleted ({error.strerror or error}); check the path, its rights and "
                "credentials, then run the same command again: it continues"
            ) from error

    def read_json(self, name: str) -> Any:
        """Return a JSON file's value.

        Raises:
            DataError: missing, or not JSON.
        """
        try:
            return orjson.loads(self.read(name))
        except orjson.JSONDecodeError as error:
            raise DataError(f"{self.uri}/{name}: not JSON ({error}); delete it and run its stage again") from error

    def write_json(self, name: str, value: Any) -> None:
        """Write a value as indented JSON with sorted keys left as given."""
        self.write(name, orjson.dumps(value, option=orjson.OPT_INDENT_2 | orjson.OPT_SERIALIZE_NUMPY) + b"\n")

    def read_table(self, name: str) -> pa.Table:
        """Return a Parquet file as a table.

        Raises:
            DataError: missing, or not Parquet.
        """
        try:
            return pq.read_table(io.BytesIO(self.read(name)))
        except pa.ArrowInvalid as error:
            raise DataError(f"{self.uri}/{name}: not a Parquet file ({error}); delete it and run its stage") from error

    def write_table(self, name: str, table: pa.Table) -> None:
        """Write a table as Parquet."""
        sink = io.BytesIO()
        pq.write_table(table, sink, compression="zstd")
        self.write(name, sink.getvalue())

    def upload(self, local_dir: Path, name: str) -> None:
        """Copy a local directory into `name/`, file by file."""
        for path in sorted(p for p in local_dir.rglob("*") if p.is_file()):
            target = f"{name}/{path.relative_to(local_dir).as_posix()}"
            if (root := self.local_path()) is not None and (root / target) == path.absolute():
                continue
            self._copy_in(path, target)

    def download(self, name: str, local_dir: Path) -> None:
        """Copy `name/` into a local directory.

        Raises:
            DataError: nothing is there.
        """
        names = self.list(prefix=f"{name}/")
        if not names:
            raise DataError(f"{self.uri}/{name}: nothing there; run the stage that writes it first")
        for item in names:
            self.fetch(item, local_dir / item[len(name) + 1 :])

    def fetch(self, name: str, path: Path) -> None:
        """Copy one file to a local path, piece by piece.

        Raises:
            DataError: there is no such file.
            StorageError: the store does not answer, or the disk is full.
        """
        if not self.exists(name):
            raise DataError(f"{self.uri}/{name}: no such file; run the stage that writes it first")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if (root := self.local_path()) is not None:
                shutil.copyfile(root / name, path)
                return
            fs, base = self._connect()
            with fs.open_input_stream(f"{base}/{name}", compression=None) as source, path.open("wb") as target:
                shutil.copyfileobj(source, target, PIECE_BYTES)
        except OSError as error:
            raise StorageError(f"{self.uri}/{name}: cannot be copied to {path} ({error})") from error

    def _copy_in(self, path: Path, target: str) -> None:
        if self.local_path() is not None:
            self.write(target, path.read_bytes())
            return
        fs, base = self._connect()
        try:
            with path.open("rb") as source, fs.open_output_stream(f"{base}/{target}", compression=None) as stream:
                while chunk := source.read(PIECE_BYTES):
                    stream.write(chunk)
        except OSError as error:
            raise StorageError(f"{self.uri}/{target}: cannot be written ({error})") from error

    def _connect(self) -> tuple[pafs.FileSystem, str]:
        if self._fs is None:
            try:
                self._fs, self._base = pafs.FileSystem.from_uri(self.uri)
            except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError) as error:
                raise ConfigurationError(
                    f"run.root: {self.uri!r} is no path or URI that pyarrow.fs knows ({error}); "
                    "use a path, s3://bucket/prefix or gs://bucket/prefix"
                ) from error
            self._base = self._base.rstrip("/")
        return self._fs, self._base


def _local_sizes(root: Path, folder: str) -> dict[str, int]:
    found: dict[str, int] = {}
    for directory, _, files in os.walk(root / folder):
        where = Path(directory).relative_to(root).as_posix()
        for file in files:
            if not file.startswith(".tmp-"):
                with contextlib.suppress(FileNotFoundError):  # Another deleted it in between.
                    found[file if where == "." else f"{where}/{file}"] = os.stat(os.path.join(directory, file)).st_size
    return found


def _write_local(path: Path, data: bytes) -> None:
    _make_directory(path.parent)
    temporary = path.parent / f".tmp-{uuid.uuid4().hex}"
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync_directory(path.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _make_directory(path: Path) -> None:
    """Make a directory and those above it; each is durable when the call returns."""
    if not path.is_dir():
        _make_directory(path.parent)
        path.mkdir(exist_ok=True)
        _sync_directory(path.parent)


def _sync_directory(path: Path) -> None:
    """Make the names in a directory durable, where its file system can."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # What some network file systems say.
            raise
    finally:
        os.close(descriptor)
