"""Pairs of a success and a failure of the same task, for preference training (as in ETO, arXiv 2403.02502).

A failure is a trajectory that the rules `reward` or `form` dropped; a success is a kept one. Each failure is paired
with a success of its task, the successes taking turns. Trajectories wait on disk by the hash of their task, so memory
holds one share of them.
"""

import shutil
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import orjson
import pyarrow as pa

from agenttuning.curation.tables import TableWriter
from agenttuning.storage.segments import TRAJECTORY_SCHEMA

PAIRS = "pairs.parquet"
SHARES = 64
_TURNS = TRAJECTORY_SCHEMA.field("conversations").type
PAIR_SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("task", "environment", "family")),
        *((name, _TURNS) for name in ("prompt", "chosen", "rejected")),
        *((name, pa.string()) for name in ("chosen_id", "rejected_id", "rejected_by")),
        ("chosen_reward", pa.float64()),
        ("rejected_reward", pa.float64()),
    ]
)
"""One row per pair; `prompt` is what both begin with, the others are what followed it."""
_FROM = {"system": "system", "user": "human", "assistant": "gpt", "tool": "tool"}


class PairShelf:
    """Puts trajectories by until all are seen. Use as a context manager."""

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="agenttuning-pairs-"))
        self._files: dict[int, IO[bytes]] = {}

    def __enter__(self) -> "PairShelf":
        """Return self."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close and delete what was put by."""
        for file in self._files.values():
            file.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def put(self, task: str, rule: str | None, record: str) -> None:
        """Put one trajectory by: its task's id, the rule that dropped it or None, and its record as JSON."""
        share = zlib.crc32(task.encode()) % SHARES
        if share not in self._files:
            self._files[share] = (self._folder / str(share)).open("w+b")
        self._files[share].write(orjson.dumps([task, rule, record]) + b"\n")

    def write(self, table: TableWriter) -> int:
        """Write all pairs, ordered within each share by task and ids, and return how many there are."""
        count = 0
        for share in sorted(self._files):
            file = self._files[share]
            file.seek(0)
            for pair in _pairs([orjson.loads(line) for line in file]):
                table.add(pair)
                count += 1
        return count


def _pairs(entries: list[tuple[str, str | None, str]]) -> Iterator[dict[str, Any]]:
    successes: dict[str, list[dict[str, Any]]] = {}
    failures: dict[str, list[tuple[str, dict[str, Any]]]] = {}
    for task, rule, record in entries:
        trajectory = orjson.loads(record)
        if rule is None:
            successes.setdefault(task, []).append(trajectory)
        else:
            failures.setdefault(task, []).append((rule, trajectory))
    for task in sorted(successes.keys() & failures.keys()):
        chosen = sorted(successes[task], key=lambda t: str(t["id"]))
        for number, (rule, lost) in enumerate(sorted(failures[task], key=lambda f: str(f[1]["id"]))):
            yield _pair(task, chosen[number % len(chosen)], rule, lost)


def _pair(task: str, won: dict[str, Any], rule: str, lost: dict[str, Any]) -> dict[str, Any]:
    common = 0
    while common < min(len(won["turns"]), len(lost["turns"])) and _same(won["turns"][common], lost["turns"][common]):
        common += 1
    return {
        "task": task,
        "environment": won["task"]["environment"],
        "family": won["task"]["family"],
        "prompt": _turns(won["turns"][:common]),
        "chosen": _turns(won["turns"][common:]),
        "rejected": _turns(lost["turns"][common:]),
        "chosen_id": won["id"],
        "rejected_id": lost["id"],
        "rejected_by": rule,
        "chosen_reward": won["reward"],
        "rejected_reward": lost["reward"],
    }


def _same(first: dict[str, Any], second: dict[str, Any]) -> bool:
    return bool(first["role"] == second["role"] and first["content"] == second["content"])


def _turns(turns: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{"from": _FROM[t["role"]], "loss": t["loss"], "value": t["content"]} for t in turns]
