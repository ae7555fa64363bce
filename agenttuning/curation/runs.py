"""Sorted runs: what the first pass of curation leaves on disk for the second.

A run holds the trajectories of some segments: `<run>.arrow`, a small table with one row per trajectory (`VERDICTS`);
`<run>.text` and `<run>.task`, their signatures as one array each; and `<run>.jsonl`, the lines of those that may be
kept, sorted by id. Merging the runs gives all lines in the order of their ids with one line of each run in memory, so
neither pass ever holds the trajectories.
"""

import heapq
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa
import pyarrow.compute as pc

from agenttuning.conversations.trajectories import LICENCE, TEACHER_TERMS
from agenttuning.curation.judge import FAILURES, Judged, run_lines
from agenttuning.curation.minhash import PERMUTATIONS
from agenttuning.environments.difficulty import range_of
from agenttuning.storage import Store

_WORD = pa.dictionary(pa.int32(), pa.string())
VERDICTS = pa.schema(
    [
        ("id", pa.string()),
        ("digest", pa.string()),
        ("task", pa.string()),
        *((name, _WORD) for name in ("environment", "family", "origin", "outcome", "rule", "licence", "terms")),
        ("reason", pa.string()),
        ("reward", pa.float64()),
        ("turns", pa.int32()),
        ("fifth", pa.int8()),
        ("mends", pa.string()),
        ("masked", pa.string()),
        ("spans", pa.string()),
    ]
)

TEXT, TASK = SIGNATURES = ("text", "task")
"""Signatures of a trajectory's text, and of the text that shows its task."""
_NONE = bytes(2 * PERMUTATIONS)

Line = tuple[str, str, bytes]
"""Id, digest, and the whole line."""
Places = npt.NDArray[np.int64]


def write_run(store: Store, name: str, judged: Iterable[Judged], pairs: bool) -> int:
    """Write one run and return how many trajectories it holds.

    Args:
        store: where runs go.
        name: of the run.
        judged: in any order.
        pairs: keep the lines of failed trajectories too.
    """
    rows: list[dict[str, Any]] = []
    lines: list[Line] = []
    signatures: dict[str, list[bytes]] = {kind: [] for kind in SIGNATURES}
    for j in judged:
        rows.append(_row(j))
        for kind, found in ((TEXT, j.text_signature), (TASK, j.task_signature)):
            signatures[kind].append(_NONE if found is None else found.tobytes())
        if j.rule is None or (pairs and j.rule in FAILURES):
            lines.append((j.trajectory.id, j.digest, run_lines(j)))
    lines.sort()
    store.write(f"{name}.jsonl", b"".join(line for _, _, line in lines))
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, VERDICTS) as writer:
        writer.write_table(pa.Table.from_pylist(rows, schema=VERDICTS))
    for kind, parts in signatures.items():
        if any(part is not _NONE for part in parts):
            store.write(f"{name}.{kind}", b"".join(parts))
    store.write(f"{name}.arrow", sink.getvalue().to_pybytes())
    return len(rows)


def _row(j: Judged) -> dict[str, Any]:
    t = j.trajectory
    return {
        "id": t.id,
        "digest": j.digest,
        "task": j.task,
        "environment": t.task.environment,
        "family": t.task.family,
        "origin": t.task.origin,
        "outcome": t.outcome.value,
        "rule": j.rule,
        "licence": t.diagnostics[LICENCE],
        "terms": t.diagnostics[TEACHER_TERMS],
        "reason": j.reason,
        "reward": t.reward,
        "turns": sum(1 for turn in t.turns if turn.loss),
        "fifth": None if t.task.difficulty is None else range_of(t.task.difficulty),
        "mends": orjson.dumps(j.mends).decode() if j.mends else None,
        "masked": orjson.dumps(j.masked).decode() if j.masked else None,
        "spans": orjson.dumps(j.spans).decode() if j.spans else None,
    }


def read_verdicts(directory: Path) -> tuple[pa.Table, Places]:
    """Return the verdicts of all runs in a local directory, by id, and where each row stands in the runs.

    An id that is stored twice is there once, with its lowest digest.
    """
    names = sorted(directory.glob("*.arrow"))
    tables = [pa.ipc.open_stream(name.read_bytes()).read_all() for name in names]
    table = pa.concat_tables([VERDICTS.empty_table(), *tables]).unify_dictionaries().combine_chunks()
    order = pc.sort_indices(table, sort_keys=[("id", "ascending"), ("digest", "ascending")])
    ids = table["id"].take(order).combine_chunks()
    fresh = np.ones(len(ids), np.bool_)
    if len(ids) > 1:
        fresh[1:] = pc.not_equal(ids[1:], ids[:-1]).to_numpy(zero_copy_only=False)
    places = order.to_numpy()[fresh].astype(np.int64)
    return table.take(pa.array(places)), places


def read_signatures(directory: Path, kind: str, places: Places) -> npt.NDArray[np.uint16]:
    """Return the signatures of some rows, shape (places, PERMUTATIONS); an absent one is all zeros.

    Args:
        directory: of the runs.
        kind: `TEXT` or `TASK`.
        places: of the rows, as `read_verdicts` gave them.
    """
    found = np.zeros((len(places), PERMUTATIONS), np.uint16)
    start = 0
    for name in sorted(directory.glob("*.arrow")):
        with pa.ipc.open_stream(name.read_bytes()) as reader:
            end = start + sum(batch.num_rows for batch in reader)
        file = name.with_suffix(f".{kind}")
        inside = (places >= start) & (places < end)
        if file.exists():
            stored = np.frombuffer(file.read_bytes(), np.uint16).reshape(-1, PERMUTATIONS)
            found[inside] = stored[places[inside] - start]
        start = end
    return found


def merged_lines(directory: Path) -> Iterator[Line]:
    """Yield the lines of all runs in a local directory in the order of their ids; an id stored twice once."""
    last: str | None = None
    for name, digest, line in heapq.merge(*(_lines(path) for path in sorted(directory.glob("*.jsonl")))):
        if name != last:
            last = name
            yield name, digest, line


def _lines(path: Path) -> Iterator[Line]:
    with path.open("rb", buffering=1 << 14) as file:
        for line in file:
            # `["<id>","<digest>",...`: the beginning is enough to order by.
            name, digest = orjson.loads(line[: line.index(b'","', line.index(b'","') + 3)] + b'"]')
            yield name, digest, line
