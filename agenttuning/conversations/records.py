"""Records of a JSON, JSON Lines or Parquet file, one at a time and in the file's order.

Each record comes with where it stands (`line 12`, `item 3`, `row 7`), so that an error can name it. A JSON array is
read piece by piece: a file larger than memory is no problem. A torn or malformed file is an error, also in its last
line: a copy that broke off is never silently a shorter data set.
"""

import codecs
import json
from collections.abc import Iterator
from typing import IO, Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from agenttuning.errors import DataError

CHUNK = 1 << 20
"""Bytes read at a time from a JSON array."""
SUFFIXES = (".jsonl", ".json", ".parquet")

Record = dict[str, Any]


def read_records(stream: IO[bytes], name: str) -> Iterator[tuple[str, Record]]:
    """Yield `(place, record)` for every record of a file.

    Args:
        stream: the file, open for reading bytes; Parquet needs it seekable.
        name: the file's path or URI. Its suffix tells Parquet from JSON; JSON starting with `[` is an array, else it
            is JSON Lines whatever the suffix.

    Raises:
        DataError: not in the format, torn, or without a single record; names the file and the place.
    """
    if name.endswith(".parquet"):
        records = _parquet(stream, name)
    else:
        first = _first_byte(stream)
        records = _array(stream, name) if first.endswith(b"[") else _lines(stream, name, first)
    empty = True
    for item in records:
        empty = False
        yield item
    if empty:
        raise DataError(f"{name}: holds no records; the file is empty or its download broke off")


def _first_byte(stream: IO[bytes]) -> bytes:
    """Return what was read up to and including the first byte that is no space (nor a byte order mark)."""
    read = b""
    while byte := stream.read(1):
        read += byte
        if byte not in b" \t\r\n\xef\xbb\xbf":
            break
    return read


def _lines(stream: IO[bytes], name: str, first: bytes) -> Iterator[tuple[str, Record]]:
    line, number = first.lstrip(b"\xef\xbb\xbf") + stream.readline(), 1 + first.count(b"\n")
    while line:
        if text := line.strip():
            yield f"line {number}", _object(text, name, number, whole=line.endswith(b"\n"))
        line, number = stream.readline(), number + 1


def _object(text: bytes, name: str, number: int, whole: bool) -> Record:
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        what = "not JSON" if whole else "torn (the file ends inside a record)"
        cure = "mend that line" if whole else "fetch the file again, or delete its last line"
        raise DataError(f"{name}, line {number}: {what}: {error}; {cure}") from error
    if not isinstance(value, dict):
        raise DataError(f"{name}, line {number}: is {type(value).__name__}, not an object; write one record a line")
    return value


def _array(stream: IO[bytes], name: str) -> Iterator[tuple[str, Record]]:
    decoder, buffer, count = json.JSONDecoder(), "", 0
    chunks = _text(stream, name)

    def more() -> str:
        piece = next(chunks, None)
        if piece is None:
            raise DataError(f"{name}, item {count}: torn (the array is not closed); fetch the file again")
        return piece

    separator_due = False
    while True:
        buffer = buffer.lstrip()
        if not buffer:
            buffer = more()
            continue
        if buffer[0] == "]":
            return
        if separator_due:
            if buffer[0] != ",":
                raise DataError(f"{name}, item {count}: expected ',' or ']', found {buffer[:20]!r}; mend the file")
            buffer, separator_due = buffer[1:], False
            continue
        if buffer[0] != "{":
            raise DataError(f"{name}, item {count}: not an object: {buffer[:20]!r}; write a list of records")
        try:
            value, end = decoder.raw_decode(buffer)
        except json.JSONDecodeError as error:
            unfinished = error.msg.startswith("Unterminated string") or error.pos >= len(buffer) - 16
            if not unfinished:
                raise DataError(f"{name}, item {count}: not JSON ({error.msg}); mend or delete that record") from error
            grown = [more()]
            while sum(map(len, grown)) < len(buffer) and (piece := next(chunks, None)) is not None:
                grown.append(piece)
            buffer += "".join(grown)
            continue
        yield f"item {count}", value
        buffer, separator_due, count = buffer[end:], True, count + 1


def _text(stream: IO[bytes], name: str) -> Iterator[str]:
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        while data := stream.read(CHUNK):
            yield decoder.decode(data)
        yield decoder.decode(b"", final=True)
    except UnicodeDecodeError as error:
        raise DataError(f"{name}: not UTF-8 or torn inside a character ({error.reason}); fetch it again") from error


def _parquet(stream: IO[bytes], name: str) -> Iterator[tuple[str, Record]]:
    row = 0
    try:
        for batch in pq.ParquetFile(stream).iter_batches(batch_size=256):
            for record in batch.to_pylist():
                yield f"row {row}", record
                row += 1
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{name}: not a whole Parquet file ({error}); fetch it again") from error
