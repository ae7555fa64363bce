"""General conversations from where the user has them: a file, a directory, an object store, or a Hugging Face hub id.

Files are JSON, JSON Lines or Parquet. Records are read one at a time and in a stable order (files by name, records as
they stand), so the same source gives the same items. A record that its format refuses stops the reading with its
place: a general source is never silently smaller than its file.
"""

import io
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow.fs as pafs

from agenttuning.conversations.agentinstruct import from_agentinstruct
from agenttuning.conversations.openai_messages import from_messages
from agenttuning.conversations.records import SUFFIXES, Record, read_records
from agenttuning.conversations.sharegpt import from_sharegpt
from agenttuning.errors import ConfigurationError, DataError
from agenttuning.trajectory import Conversation

READERS: dict[str, Callable[[Mapping[str, Any], str], Conversation]] = {
    "sharegpt": from_sharegpt,
    "messages": from_messages,
    "agentinstruct": from_agentinstruct,
}

_HUB_ID = re.compile(r"^(?P<repo>[\w-][\w.-]*/[\w.-]+)(#(?P<split>[\w.-]+))?$")
_Place = tuple[str, str, Record]
"""File or hub id, place in it, record."""


def load_conversations(kind: str, path: str, source_name: str, limit: int | None = None) -> Iterator[Conversation]:
    """Return the conversations of a source, streamed.

    Args:
        kind: `sharegpt`, `messages` or `agentinstruct`.
        path: a file or directory (all `.jsonl`, `.json` and `.parquet` below it, by name), such a place as a URI
            (`s3://...`, `gs://...`), or a hub id `owner/name`, of which `train` is read, or all splits where there is
            no `train`; `owner/name#split` reads that split.
        source_name: stored as each conversation's `source`.
        limit: stop after this many.

    Returns:
        Conversations, each with a trained turn and an id of its own: a repeated id gets `-2`, `-3`, ...

    Raises:
        ConfigurationError: unknown kind, no such place, or the hub cannot be reached (at the call).
        DataError: an empty, torn or malformed file, or a record that the format refuses (while iterating).
    """
    if kind not in READERS:
        raise ConfigurationError(
            f"mixture.sources.{source_name}.kind: {kind!r} reads no files; use {', '.join(READERS)}"
        )
    records = source_records(path, f"mixture.sources.{source_name}.path")
    return islice(_convert(records, kind, source_name), limit)


def source_records(path: str, setting: str) -> Iterator[tuple[str, str, Record]]:
    """Return the raw records below a path, URI or hub id as (file, place in it, record), streamed.

    Args:
        path: see `load_conversations`.
        setting: what an error names as the place to mend, such as `mixture.sources.general.path`.

    Raises:
        ConfigurationError: no such place, or the hub cannot be reached (at the call).
        DataError: an empty, torn or malformed file (while iterating).
    """
    local = Path(path).expanduser()
    if "://" in path:
        return _from_filesystem(*_remote(path, setting))
    if local.exists():
        return _from_filesystem(pafs.LocalFileSystem(), str(local.absolute()), path)
    if (match := _HUB_ID.match(path)) and local.suffix not in SUFFIXES:
        return _from_hub(path, match["repo"], match["split"], setting)
    raise ConfigurationError(f"{setting}: {path!r} is no file or directory here and no hub id (owner/name)")


def _convert(records: Iterator[_Place], kind: str, source_name: str) -> Iterator[Conversation]:
    read = READERS[kind]
    seen: Counter[str] = Counter()
    for file, place, record in records:
        try:
            conversation = read(record, source_name)
        except DataError as error:
            raise DataError(f"{file}, {place}: {error}") from error
        if not any(turn.loss for turn in conversation.turns):
            raise DataError(
                f"{file}, {place}: item {conversation.id!r} has no assistant turn to train; delete that record"
            )
        seen[conversation.id] += 1
        if seen[conversation.id] > 1:
            conversation = conversation.model_copy(update={"id": f"{conversation.id}-{seen[conversation.id]}"})
        yield conversation


def _remote(uri: str, setting: str) -> tuple[pafs.FileSystem, str, str]:
    try:
        fs, base = pafs.FileSystem.from_uri(uri)
    except (ValueError, OSError) as error:
        raise ConfigurationError(
            f"{setting}: {uri!r} cannot be opened ({error}); "
            "use a path, s3://bucket/prefix, gs://bucket/prefix or a hub id"
        ) from error
    return fs, base.rstrip("/"), uri


def _from_filesystem(fs: pafs.FileSystem, base: str, label: str) -> Iterator[_Place]:
    for name in _files(fs, base, label):
        shown = label if name == base else f"{label.rstrip('/')}/{name[len(base) + 1 :]}"
        with io.BufferedReader(fs.open_input_file(name)) as stream:
            for place, record in read_records(stream, shown):
                yield shown, place, record


def _files(fs: pafs.FileSystem, base: str, label: str) -> list[str]:
    info = fs.get_file_info(base)
    if info.type == pafs.FileType.File:
        return [base]
    if info.type == pafs.FileType.NotFound:
        raise DataError(f"{label}: no such file or directory; check the path and its rights")
    inside = fs.get_file_info(pafs.FileSelector(base, recursive=True))
    names = [i.path for i in inside if i.type == pafs.FileType.File]
    found = sorted(n for n in names if n.endswith(SUFFIXES) and "/." not in n[len(base) :])
    if not found:
        raise DataError(f"{label}: holds no {', '.join(SUFFIXES)} file; name the directory that does")
    return found


def _from_hub(path: str, repo: str, split: str | None, setting: str) -> Iterator[_Place]:
    from datasets import load_dataset

    try:
        loaded = load_dataset(repo, streaming=True)
    except Exception as error:  # the hub's client raises its own classes for missing, gated, offline and unknown
        reason = (str(error).splitlines() or ["no message"])[0]
        raise ConfigurationError(
            f"{setting}: {path!r} is no file here and cannot be read from the Hugging Face "
            f"hub ({type(error).__name__}: {reason}); check the id and the network (HF_TOKEN for gated data), or "
            "download the files and give their path"
        ) from error
    if split is not None and split not in loaded:
        raise ConfigurationError(f"{setting}: {repo!r} has no split {split!r}; it has {', '.join(loaded)}")
    splits = [split] if split is not None else ["train"] if "train" in loaded else list(loaded)
    return _hub_rows(loaded, repo, splits)


def _hub_rows(loaded: Mapping[str, Any], repo: str, splits: list[str]) -> Iterator[_Place]:
    empty = True
    for name in splits:
        for row, record in enumerate(loaded[name]):
            empty = False
            yield f"{repo}#{name}", f"row {row}", record
    if empty:
        raise DataError(f"{repo}: holds no records in {', '.join(splits)}; name another split as {repo}#split")
