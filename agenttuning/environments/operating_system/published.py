"""Reads AgentBench's published Operating System tasks, in the layouts in which they are published or packed.

| source | packed | as published |
|---|---|---|
| `agentbench` | `os/train_1000.json` | `os_interaction/train_0317/training.json` |
| `agentbench_dev` | `os/dev_26.json` | `os_interaction/data/dev.json`, `os_interaction/scripts/dev/` |
| `agentbench_std` | | `os_interaction/data/<n>/*.json`, `os_interaction/scripts/<n>/` |

All below the data root, or below its folder `data`. What a record becomes is `records`; its scripts run nowhere but
in a box. `agentbench` is split into train and test, four to one: records that share their instruction, their set-up
or their reference go to one side together. The other two are `test` alone. There is no `shifted`.
"""

import json
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from agenttuning.environments.operating_system.generator import check_split, split_of
from agenttuning.environments.operating_system.records import Unplayable, read_record
from agenttuning.environments.operating_system.verdicts import dropped_records
from agenttuning.errors import ConfigurationError, DataError
from agenttuning.trajectory import Task, content_hash

SOURCES = ("agentbench", "agentbench_dev", "agentbench_std")


@dataclass(frozen=True)
class Published:
    """One published record: its task, or why there is none."""

    name: str
    """The file and the number of the record in it, from 0."""
    key: str
    """Hash of what the record says; independent of its place in the file."""
    task: Task | None
    problem: str | None = None


def published_tasks(
    data_root: str | None, source: str, split: str, count: int, seed: int, validated: bool
) -> Iterator[Task]:
    """Yield up to `count` tasks of a split in an order that the seed decides.

    Args:
        data_root: directory of published data.
        source: one of `SOURCES`.
        split: `train` or `test`.
        count: how many.
        seed: draws which and in what order.
        validated: leave out the records that validation by execution has found bad; see `verdicts`.

    Raises:
        ConfigurationError: no data root, or a split that the data does not have.
        DataError: a file is missing or of another shape.
    """
    check_split(split)
    if data_root is None:
        raise ConfigurationError(
            f"os: settings.source={source} reads published tasks; set data.root to their directory"
        )
    if split == "shifted":
        raise ConfigurationError("os: the published tasks have no `shifted` split; set environments.os.shifted_tasks=0")
    if split == "train" and source != "agentbench":
        raise ConfigurationError(f"os: settings.source={source} is for evaluation; set environments.os.train_tasks=0")
    bad = dropped_records() if validated else {}
    records = published_records(data_root, source)
    tasks = [r.task for r in records if r.task is not None and r.task.split == split and r.key not in bad]
    random.Random(f"os/published/{split}/{seed}").shuffle(tasks)
    yield from tasks[:count]


def published_records(data_root: str, source: str) -> tuple[Published, ...]:
    """Return all records of a source in the order of its files, playable or not.

    Raises:
        DataError: a file is missing or of another shape.
    """
    return _load(Path(data_root), source)


@lru_cache(maxsize=4)
def _load(root: Path, source: str) -> tuple[Published, ...]:
    read: list[tuple[str, dict[str, Any], Path | None]] = []
    for path, scripts in _files(root, source):
        records = _json(path)
        name = path.relative_to(root).as_posix()
        read += [(f"{name}#{number}", record, scripts) for number, record in enumerate(records)]
    found: list[tuple[str, str, dict[str, Any] | None, str | None, str]] = []
    for name, record, scripts in read:
        try:
            instruction, payload = read_record(record, scripts)
        except Unplayable as error:
            key = content_hash(record)
            found.append((name, key, None, str(error), str(record["description"]).strip()))
        except (KeyError, TypeError, IndexError, AttributeError, ValueError) as error:
            file = root / name.partition("#")[0]
            raise DataError(f"os: {file} is not a list of AgentBench records ({error!r}); fetch it again") from error
        else:
            found.append((name, content_hash([instruction, payload]), payload, None, instruction))
    playable = [(instruction, payload) for _, _, payload, _, instruction in found if payload is not None]
    splits = iter(split_together(playable) if source == "agentbench" else ["test"] * len(playable))
    published = []
    for name, key, content, problem, instruction in found:
        task = None
        if content is not None:
            task = Task(
                environment="os", split=next(splits), instruction=instruction, payload=content, family=source,
                origin="dataset",
            )  # fmt: skip
        published.append(Published(name, key, task, problem))
    return tuple(published)


def split_together(records: Iterable[tuple[str, dict[str, Any]]]) -> list[str]:
    """Return `train` or `test` for each record, the same for all that share instruction, set-up or reference."""
    records = list(records)
    leaders = list(range(len(records)))

    def leader(index: int) -> int:
        while leaders[index] != index:
            leaders[index] = leaders[leaders[index]]
            index = leaders[index]
        return index

    first: dict[tuple[str, str], int] = {}
    for index, (instruction, payload) in enumerate(records):
        for kind, text in _shared(instruction, payload):
            other = first.setdefault((kind, text), index)
            leaders[leader(index)] = leader(other)
    names: dict[int, str] = {}
    for index, (instruction, _) in enumerate(records):
        name = content_hash(_plain(instruction))
        names[leader(index)] = min(name, names.get(leader(index), name))
    return [split_of(names[leader(index)]) for index in range(len(records))]


def _shared(instruction: str, payload: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield what may not stand on both sides; a set-up of comments alone is none."""
    yield "instruction", _plain(instruction)
    lines = [line.strip() for line in payload["setup"].splitlines()]
    if setup := "\n".join(line for line in lines if line and not line.startswith("#")):
        yield "setup", setup
    if reference := _plain(payload.get("reference", "")):
        yield "reference", reference


def _plain(text: str) -> str:
    return " ".join(text.lower().split())


def _files(root: Path, source: str) -> list[tuple[Path, Path | None]]:
    """Return the files of a source, each with its folder of scripts.

    Raises:
        DataError: there is none.
    """
    tops = (root / "os_interaction", root / "data" / "os_interaction", root / "os")
    if source == "agentbench":
        wanted: list[tuple[Path, Path | None]] = [(root / "os" / "train_1000.json", None)]
        wanted += [(top / "train_0317" / "training.json", None) for top in tops]
    elif source == "agentbench_dev":
        wanted = [(root / "os" / "dev_26.json", None)]
        wanted += [(top / "data" / "dev.json", top / "scripts" / "dev") for top in tops]
    else:
        for top in tops:
            folders = sorted(path for path in top.glob("data/*") if path.is_dir())
            files = [(file, top / "scripts" / d.name) for d in folders for file in sorted(d.glob("*.json*"))]
            if files:
                return list(files)
        wanted = [(tops[0] / "data" / "1" / "*.json", None)]
    for path, scripts in wanted:
        if path.is_file():
            return [(path, scripts)]
    names = " or ".join(str(path.relative_to(root)) for path, _ in wanted[:2])
    raise DataError(f"os: {wanted[0][0]} does not exist; data.root must hold {names} (see docs/data.md)")


def _json(path: Path) -> list[dict[str, Any]]:
    try:
        text = path.read_text()
        records = [json.loads(line) for line in text.split("\n") if line.strip()] if path.suffix == ".jsonl" else None
        records = json.loads(text) if records is None else records
    except (OSError, ValueError) as error:
        raise DataError(f"os: {path} is not readable as JSON ({error}); fetch it again") from error
    return records if isinstance(records, list) else [records]
