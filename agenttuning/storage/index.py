"""Which segments count, and a small index of what they hold.

Reading 100,000 stored episodes only to learn what is left would be gigabytes. So the holder of a directory's lease
(`agenttuning.storage.lease`) writes the essentials of every stored episode beside the segments, as immutable Parquet
files `index/e<epoch>-<number>.parquet`, one about every half minute. What a crash kept from the index is read from its
segments; the index is never needed for correctness. Nor is it believed where the segment's file has another size than
it had when it was written: a torn copy is read again, and what it lost is stored no more.

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
    size: int
    """Bytes of the segment as it was written."""


_TYPES = {str: pa.string(), int: pa.int64(), float: pa.float64()}
ENTRY_SCHEMA = pa.schema([(f.name, _TYPES[f.type]) for f in fields(Entry)])  # type: ignore[index]


def epoch_name(epoch: int, rest: str) -> str:
    """Return a file name that carries its epoch, such as `e000003-a1b2`."""
    return f"e{epoch:06d}-{rest}"


def epoch_of(name: str) -> int:
    """Return the epoch that a file name carries, 0 where it carries none."""
    found = _EPOCH.search(name)
    return int(found[1]) if found else 0


def entry_of(trajectory: Trajectory, segment: str, size: int) -> Entry:
    """Return the entry of a trajectory in a segment of so many bytes."""
    return _entry(trajectory.model_dump(mode="json", exclude={"turns", "evidence"}), trajectory.task.id, segment, size)


def read_index(store: Store) -> pa.Table:
    """Return the entries of all stored episodes that count, each id once, as a table of `ENTRY_SCHEMA`.

    Raises:
        DataError: an index file or a segment is damaged; names it.
    """
    written = store.list(prefix=f"{INDEX}/", suffix=".parquet")
    sizes = _segment_sizes(store, written)
    epoch = _sealed_epoch(written)
    mine = [name for name in written if epoch_of(name) >= epoch]
    with ThreadPoolExecutor(READERS) as pool:
        tables = list(pool.map(store.read_table, mine))
        # An index of before sizes were kept has none: its segments are read.
        known = pa.concat_tables([ENTRY_SCHEMA.empty_table(), *tables], promote_options="default")
        whole = _of_whole_segments(known, sizes)
        unread = sorted(sizes.keys() - set(whole.column("segment").unique().to_pylist()))
        read = pool.map(lambda name: _read_entries(store, name, sizes[name]), unread)
        rest = [entry for found in read for entry in found]
    return _each_once(pa.concat_tables([whole, entries_table(rest)]))


def segment_names(store: Store) -> list[str]:
    """Return the names of the segments that count, sorted: of two copies of an episode, the first counts."""
    return sorted(_segment_sizes(store, store.list(prefix=f"{INDEX}/", suffix=".parquet")))


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


def _segment_sizes(store: Store, index_files: list[str]) -> dict[str, int]:
    """Return the segments that count, each with the bytes that its file has now."""
    epoch = _sealed_epoch(index_files)
    listed = store.sizes(prefix=f"{SEGMENTS}/", suffix=".jsonl")
    if epoch == 0:
        return listed
    sealed = set(store.read_table(_seal_name(epoch)).column("segment").unique().to_pylist())
    for folder in {name.split("/")[0] for name in sealed} - {SEGMENTS}:
        listed |= store.sizes(prefix=f"{folder}/", suffix=".jsonl")
    later = f"{SEGMENTS}/"
    return {
        name: size
        for name, size in listed.items()
        if name in sealed or (name.startswith(later) and epoch_of(name) >= epoch)
    }


def _read_entries(store: Store, name: str, size: int) -> list[Entry]:
    from agenttuning.trajectory import Task

    found = []
    for number, record in segment_lines(store, name):
        try:
            found.append(_entry(record, Task.model_validate(record["task"]).id, name, size))
        except (LookupError, TypeError, ValueError) as error:
            raise damaged(store, name, number, error) from error
    return found


def _entry(record: dict[str, Any], task: str, segment: str, size: int) -> Entry:
    calls = record["calls"]
    return Entry(
        segment=segment,
        id=record["id"],
        task=task,
        environment=record["task"]["environment"],
        attempt=record["attempt"],
        outcome=record["outcome"],
        reward=record["reward"] or 0.0,
        score=record["score"] or 0.0,
        steps=record["steps"],
        prompt_tokens=sum(c["prompt_tokens"] or 0 for c in calls),
        completion_tokens=sum(c["completion_tokens"] or 0 for c in calls),
        cost=float(record["diagnostics"].get("cost", 0.0)),
        seconds=record["seconds"],
        size=size,
    )


def _of_whole_segments(table: pa.Table, sizes: dict[str, int]) -> pa.Table:
    """Return the entries whose segment is still as it was written."""
    rows = zip(table.column("segment").to_pylist(), table.column("size").to_pylist(), strict=True)
    return table.filter(pa.array([sizes.get(segment) == size for segment, size in rows], pa.bool_()))


def _each_once(table: pa.Table) -> pa.Table:
    """Return of each id the entry in the first segment."""
    ordered = table.sort_by([("segment", "ascending")])
    seen: set[str] = set()
    keep = []
    for identifier in ordered.column("id").to_pylist():
        keep.append(identifier not in seen)
        seen.add(identifier)
    return ordered.filter(pa.array(keep, pa.bool_()))


def _sealed_epoch(index_files: list[str]) -> int:
    return max((epoch_of(name) for name in index_files if name == _seal_name(epoch_of(name))), default=0)


def _seal_name(epoch: int) -> str:
    return f"{INDEX}/{epoch_name(epoch, '000000')}.parquet"
