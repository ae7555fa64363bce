"""Finished episodes as immutable segments, and the Parquet tables made of them.

A segment is one file of JSON lines named by its writer and number, written once. A repeated commit writes the same
name, so it changes nothing; a reader takes each trajectory id once. Nothing is appended to, so a path and an object
store behave alike. Which segments count is said by `agenttuning.storage.index`.
"""

from collections.abc import Iterable, Iterator

import pyarrow as pa
from pydantic import ValidationError

from agenttuning.storage.index import (
    SEGMENTS,
    Entry,
    damaged,
    entry_of,
    read_index,
    segment_lines,
    segment_names,
)
from agenttuning.storage.store import Store
from agenttuning.trajectory import Trajectory

__all__ = [
    "SEGMENTS",
    "TRAJECTORY_SCHEMA",
    "commit_segment",
    "read_segment",
    "read_trajectories",
    "segment_names",
    "stored_ids",
    "table_trajectories",
    "trajectories_table",
]

_TURN = pa.struct([("from", pa.string()), ("loss", pa.bool_()), ("value", pa.string())])
TRAJECTORY_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("task", pa.string()),
        ("environment", pa.string()),
        ("split", pa.string()),
        ("family", pa.string()),
        ("policy", pa.string()),
        ("attempt", pa.int32()),
        ("outcome", pa.string()),
        ("reward", pa.float64()),
        ("score", pa.float64()),
        ("steps", pa.int32()),
        ("seconds", pa.float64()),
        ("conversations", pa.list_(_TURN)),
        ("record", pa.string()),
    ]
)
"""One row per trajectory: what people filter on, the turns in AgentInstruct's shape, and the lossless record."""

_FROM = {"system": "system", "user": "human", "assistant": "gpt", "tool": "tool"}


def commit_segment(
    store: Store, writer: str, number: int, trajectories: Iterable[Trajectory], folder: str = SEGMENTS
) -> list[Entry]:
    """Write one segment and return its entries; durable when the call returns.

    Args:
        store: the directory of a stage's trajectories.
        writer: unique per incarnation of an actor.
        number: counts this writer's segments.
        trajectories: finished episodes.
        folder: where in the store; a segment outside `SEGMENTS` counts only once a seal names it.
    """
    name = f"{folder}/{writer}-{number:06d}.jsonl"
    some = list(trajectories)
    data = b"".join(t.model_dump_json().encode() + b"\n" for t in some)
    store.write(name, data)
    return [entry_of(t, name, len(data)) for t in some]


def stored_ids(store: Store) -> set[str]:
    """Return the ids of all stored trajectories that count; see `agenttuning.storage.index`."""
    return set(read_index(store).column("id").to_pylist())


def read_trajectories(store: Store) -> Iterator[Trajectory]:
    """Yield every stored trajectory that counts once, in the order of segment names; see `read_segment`."""
    seen: set[str] = set()
    for name in segment_names(store):
        for trajectory in read_segment(store, name):
            if trajectory.id not in seen:
                seen.add(trajectory.id)
                yield trajectory


def read_segment(store: Store, name: str) -> Iterator[Trajectory]:
    """Yield the trajectories of one segment. A torn last line (a copy broken off): its episode is played again.

    Raises:
        DataError: a segment is damaged elsewhere; names the file and the line.
    """
    for number, raw in segment_lines(store, name):
        try:
            yield Trajectory.model_validate(raw)
        except ValidationError as error:
            raise damaged(store, name, number, error) from error


def trajectories_table(trajectories: Iterable[Trajectory]) -> pa.Table:
    """Return trajectories as a table of `TRAJECTORY_SCHEMA`, which `datasets` reads as Parquet."""
    return pa.Table.from_pylist([_row(t) for t in trajectories], schema=TRAJECTORY_SCHEMA)


def table_trajectories(table: pa.Table) -> Iterator[Trajectory]:
    """Yield the trajectories of a table of `TRAJECTORY_SCHEMA`."""
    for record in table.column("record").to_pylist():
        yield Trajectory.model_validate_json(record)


def _row(t: Trajectory) -> dict[str, object]:
    turns = [{"from": _FROM[turn.role], "loss": turn.loss, "value": turn.content} for turn in t.turns]
    return {
        "id": t.id,
        "task": t.task.id,
        "environment": t.task.environment,
        "split": t.task.split,
        "family": t.task.family,
        "policy": t.policy,
        "attempt": t.attempt,
        "outcome": t.outcome.value,
        "reward": t.reward,
        "score": t.score,
        "steps": t.steps,
        "seconds": t.seconds,
        "conversations": turns,
        "record": t.model_dump_json(),
    }
