"""Reads AgentBench's published Operating System tasks from `<data root>/os/train_1000.json`.

A record holds an instruction, a set-up script, a reference command and the name of a checker. The reference answer is
what the command prints in a fresh box with the same set-up; the scripts run nowhere else. The file's one list is
split by a hash of the instruction (train and test, four to one) and has no `shifted` part.
"""

import json
import random
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from agenttuning.environments.operating_system.generator import check_split, split_of
from agenttuning.environments.operating_system.grading import RULES
from agenttuning.errors import ConfigurationError, DataError
from agenttuning.trajectory import Task, content_hash

FILE = "os/train_1000.json"


def published_tasks(data_root: str | None, split: str, count: int, seed: int) -> Iterator[Task]:
    """Yield up to `count` tasks of a split in an order that the seed decides.

    Raises:
        ConfigurationError: no data root, or a split that the data does not have.
        DataError: the file is missing or of another shape.
    """
    check_split(split)
    if data_root is None:
        raise ConfigurationError(
            "os: settings.source=agentbench reads published tasks; set data.root to their directory"
        )
    if split == "shifted":
        raise ConfigurationError("os: the published tasks have no `shifted` split; set environments.os.shifted_tasks=0")
    tasks = [task for task in _load(Path(data_root, FILE)) if task.split == split]
    random.Random(f"os/published/{split}/{seed}").shuffle(tasks)
    yield from tasks[:count]


@lru_cache(maxsize=2)
def _load(path: Path) -> tuple[Task, ...]:
    try:
        records = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise DataError(f"os: {path} does not exist; data.root must hold {FILE} (see docs/data.md)") from error
    except (OSError, ValueError) as error:
        raise DataError(f"os: {path} is not readable as JSON ({error}); fetch it again") from error
    try:
        tasks = {task.id: task for task in map(_task, records)}
    except (KeyError, TypeError, IndexError, AttributeError) as error:
        raise DataError(f"os: {path} is not a list of AgentBench records ({error!r}); fetch it again") from error
    return tuple(tasks.values())


def _task(record: dict[str, Any]) -> Task:
    instruction = record["description"].strip()
    rule = Path(record["evaluation"]["check"][1]["file"]).stem
    if rule not in RULES:
        raise KeyError(rule)
    payload = {
        "setup": record["create"]["init"],
        "reference": record["evaluation"]["example"],
        "expect": {"rule": rule},
    }
    split = split_of(content_hash(" ".join(instruction.lower().split())))
    return Task(
        environment="os", split=split, instruction=instruction, payload=payload, family="agentbench", origin="dataset"
    )
