"""Finished episodes as immutable segments, and the Parquet tables made of them.

A segment is one file of JSON lines named by its writer and number, written once. A repeated commit writes the same
name, so it changes nothing; a reader takes each trajectory id once. Nothing is appended to, so a path and an object
store behave alike.
"""

import re
from collections.abc import Iterable, Iterator

import orjson
import pyarrow as pa
from pydantic import ValidationError

from agenttuning.errors import DataError
from agenttuning.storage.store import Store
from agenttuning.trajectory import Trajectory

SEGMENTS = "segments"
_ID = re.compile(rb'^\{"id":"([^"]+)".*\}$', re.MULTILINE)

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


def commit_segment(store: Store, writer: str, number: int, trajectories: Iterable[Trajectory]) -> str:
    """Write one segment and return its name; durable when the call returns.

    Args:
        store: the directory of a stage's trajectories.
        writer: unique per incarnation of an actor.
        number: counts this writer's segments.
        trajectories: finished episodes.
    """
    name = f"{SEGMENTS}/{writer}-{number:06d}.jsonl"
    store.write(name, b"".join(t.model_dump_json().encode() + b"\n" for t in trajectories))
    return name


def stored_ids(store: Store) -> set[str]:
    """Return the ids of all stored trajectories without parsing them; torn last lines do not count."""
    found: set[str] = set()
    for name in store.list(prefix=f"{SEGMENTS}/", suffix=".jsonl"):
        found.update(m.group(1).decode() for m in _ID.finditer(store.read(name)))
    return found


def read_trajectories(store: Store) -> Iterator[Trajectory]:
    """Yield every stored trajectory once, in the order of segment names.

    A torn last line (a copy broken off) is passed over: its episode is played again.

    Raises:
        DataError: a segment is damaged elsewhere; names the file and the line.
    """
    seen: set[str] = set()
    for name in store.list(prefix=f"{SEGMENTS}/", suffix=".jsonl"):
        for trajectory in read_segment(store, name):
            if trajectory.id not in seen:
                seen.add(trajectory.id)
                yield trajectory


def read_segment(store: Store, name: str) -> Iterator[Trajectory]:
    """Yield the trajectories of one segment; see `read_trajectories`."""
    lines = store.read(name).split(b"\n")
    for number, line in enumerate(lines, start=1):
        if not line:
            continue
        try:
            yield Trajectory.model_validate(orjson.loads(line))
        except (orjson.JSONDecodeError, ValidationError) as error:
            if number == len(lines):
                continue
            raise DataError(
                f"{store.uri}/{name}, line {number}: not a trajectory ({str(error).splitlines()[0]}); "
                "delete that file: its episodes are played again"
            ) from error


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
