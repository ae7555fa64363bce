"""Which segments count, and a small index of what they hold.

Reading 100,000 stored episodes only to learn what is left would be gigabytes. So the holder of a directory's lease
(`agenttuning.storage.lease`) writes the essentials of every stored episode beside the segments, as immutable Parquet
files `index/e<epoch>-<number>.parquet`, one about every half minute. What a crash kept from the index is read from its
segments; the index is never needed for correctness.

Number 0 of an epoch is its seal. It lists all that was stored when the epoch began, so a segment of an earlier epoch
that it does not name came from the orphan of a driver that had lost its lease: it does not count, its episodes were
played again. Segments of the epoch itself, or of a later one, count as they appear.
"""

import re
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields
from typing import Any

import orjson
import pyarrow as pa

from agenttuning.errors import DataError
from agenttuning.storage.store import Store
from agenttuning.trajectory import Trajectory

SEGMENTS = "segments"
INDEX = "index"
READERS = 16
"""Files read at once."""
_EPOCH = re.compile(r"(?:^|/)e(\d{6})-")


@dataclass(frozen=True, slots=True)
class Entry:
    """What the index keeps of one stored episode."""

    segment: str
    id: str
    task: str
    environment: str
    attempt: int
    outcome: str
    reward: float
    score: float
    steps: int
    prompt_tokens: int
    completion_tokens: int
    cost: float
    """In the currency of the recipe's prices; 0 where none are known."""
    seconds: float


_TYPES = {str: pa.string(), int: pa.int64(), float: pa.float64()}
ENTRY_SCHEMA = pa.schema([(f.name, _TYPES[f.type]) for f in fields(Entry)])  # type: ignore[index]


def epoch_name(epoch: int, rest: str) -> str:
    """Return a file name that carries its epoch, such as `e000003-a1b2`."""
    return f"e{epoch:06d}-{rest}"


def epoch_of(name: str) -> int:
    """Return the epoch that a file name carries, 0 where it carries none."""
    found = _EPOCH.search(name)
    return int(found[1]) if found else 0


def entry_of(trajectory: Trajectory, segment: str) -> Entry:
    """Return a trajectory's entry."""
    return _entry(trajectory.model_dump(mode="json", exclude={"turns", "evidence"}), trajectory.task.id, segment)


def read_index(store: Store) -> pa.Table:
    """Return the entries of all stored episodes that count, each id once, as a table of `ENTRY_SCHEMA`.

    Raises:
        DataError: an index file or a segment is damaged; names it.
    """
    written = store.list(prefix=f"{INDEX}/", suffix=".parquet")
    names = set(segment_names(store, written))
    epoch = _sealed_epoch(written)
    mine = [name for name in written if epoch_of(name) >= epoch]
    with ThreadPoolExecutor(READERS) as pool:
        tables = list(pool.map(store.read_table, mine))
        known = pa.concat_tables([ENTRY_SCHEMA.empty_table(), *tables])
        indexed = set(known.column("segment").unique().to_pylist())
        unread = sorted(names - indexed)
        rest = [entry for found in pool.map(lambda name: _read_entries(store, name), unread) for entry in found]
    return _each_once(pa.concat_tables([known, entries_table(rest)]), names)


def segment_names(store: Store, index_files: list[str] | None = None) -> list[str]:
    """Return the names of the segments that count, sorted: of two copies of an episode, the first counts.

    Args:
        store: the directory of a stage's trajectories.
        index_files: the index files, where the caller has listed them already.
    """
    written = store.list(prefix=f"{INDEX}/", suffix=".parquet") if index_files is None else index_files
    epoch = _sealed_epoch(written)
    listed = store.list(prefix=f"{SEGMENTS}/", suffix=".jsonl")
    if epoch == 0:
        return listed
    sealed = set(store.read_table(_seal_name(epoch)).column("segment").unique().to_pylist())
    folders = {name.split("/")[0] for name in sealed} - {SEGMENTS}
    there = {*listed, *(name for folder in folders for name in store.list(prefix=f"{folder}/", suffix=".jsonl"))}
    return sorted({*(sealed & there), *(name for name in listed if epoch_of(name) >= epoch)})


def seal(store: Store, epoch: int, entries: pa.Table | None = None) -> pa.Table:
    """Begin an epoch: fix what counts of all epochs before it, and return those entries.

    Args:
        store: the directory of a stage's trajectories.
        epoch: taken by the caller, see `agenttuning.storage.lease`.
        entries: what shall count; unset, what is stored.
    """
    table = read_index(store) if entries is None else entries
    store.write_table(_seal_name(epoch), table)
    return table


def write_index(store: Store, epoch: int, number: int, entries: Iterable[Entry]) -> None:
    """Write one index file of an epoch; it must hold all entries of each segment it names.

    Args:
        store: the directory of a stage's trajectories.
        epoch: the holder's.
        number: 1 or more, counts the epoch's index files.
        entries: what was stored since the last one.
    """
    store.write_table(f"{INDEX}/{epoch_name(epoch, f'{number:06d}')}.parquet", entries_table(entries))


def entries_table(entries: Iterable[Entry]) -> pa.Table:
    """Return entries as a table of `ENTRY_SCHEMA`."""
    return pa.Table.from_pylist([asdict(e) for e in entries], schema=ENTRY_SCHEMA)


def segment_lines(store: Store, name: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield line numbers and raw records of one segment. A torn last line (a copy broken off) is passed over.

    Raises:
        DataError: a segment is damaged elsewhere; names the file and the line.
    """
    lines = store.read(name).split(b"\n")
    for number, line in enumerate(lines, start=1):
        if not line:
            continue
        try:
            yield number, orjson.loads(line)
        except orjson.JSONDecodeError as error:
            if number == len(lines):
                continue
            raise damaged(store, name, number, error) from error


def damaged(store: Store, name: str, line: int, error: Exception) -> DataError:
    """Return the error for a line that is no trajectory."""
    return DataError(
        f"{store.uri}/{name}, line {line}: not a trajectory ({str(error).splitlines()[0]}); "
        "delete that file: its episodes are played again"
    )


def _read_entries(store: Store, name: str) -> list[Entry]:
    from agenttuning.trajectory import Task

    found = []
    for number, record in segment_lines(store, name):
        try:
            found.append(_entry(record, Task.model_validate(record["task"]).id, name))
        except (LookupError, TypeError, ValueError) as error:
            raise damaged(store, name, number, error) from error
    return found


def _entry(record: dict[str, Any], task: str, segment: str) -> Entry:
    calls = record["calls"]
    return Entry(
        segment=segment,
        id=record["id"],
        task=task,
        environment=record["task"]["environment"],
        attempt=record["attempt"],
        outcome=record["outcome"],
        reward=record["reward"],
        score=record["score"],
        steps=record["steps"],
        prompt_tokens=sum(c["prompt_tokens"] or 0 for c in calls),
        completion_tokens=sum(c["completion_tokens"] or 0 for c in calls),
        cost=float(record["diagnostics"].get("cost", 0.0)),
        seconds=record["seconds"],
    )


def _each_once(table: pa.Table, names: set[str]) -> pa.Table:
    """Return the entries of the named segments, of each id the one in the first segment."""
    ordered = table.sort_by([("segment", "ascending")])
    seen: set[str] = set()
    keep = []
    for segment, identifier in zip(
        ordered.column("segment").to_pylist(), ordered.column("id").to_pylist(), strict=True
    ):
        fresh = segment in names and identifier not in seen
        keep.append(fresh)
        if fresh:
            seen.add(identifier)
    return ordered.filter(pa.array(keep, pa.bool_()))


def _sealed_epoch(index_files: list[str]) -> int:
    return max((epoch_of(name) for name in index_files if name == _seal_name(epoch_of(name))), default=0)


def _seal_name(epoch: int) -> str:
    return f"{INDEX}/{epoch_name(epoch, '000000')}.parquet"
