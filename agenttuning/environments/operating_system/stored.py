"""Reads constructed tasks from a file: what self-instruct kept, or what validation proved, one task a line."""

import random
from collections.abc import Iterator
from pathlib import Path

from pydantic import ValidationError

from agenttuning.environments.operating_system.generator import check_split
from agenttuning.errors import ConfigurationError, DataError
from agenttuning.trajectory import Task


def stored_tasks(path: str | None, split: str, count: int, seed: int) -> Iterator[Task]:
    """Yield up to `count` tasks of a split in an order that the seed decides.

    Args:
        path: JSON lines of `Task`; each names its own split.
        split: the split to take.
        count: how many.
        seed: draws which and in what order.

    Raises:
        ConfigurationError: no path, or no such split.
        DataError: the file is missing, or a line is no Operating System task.
    """
    check_split(split)
    if path is None:
        raise ConfigurationError("os: settings.source=file reads constructed tasks; set settings.tasks_file to them")
    try:
        lines = Path(path).read_text().splitlines()
    except (OSError, ValueError) as error:
        raise DataError(f"os: settings.tasks_file={path} cannot be read ({error})") from error
    tasks = []
    for number, line in enumerate(lines, start=1):
        try:
            task = Task.model_validate_json(line)
        except ValidationError as error:
            raise DataError(f"os: {path}, line {number} is no task ({error.errors()[0]['msg']})") from error
        if task.environment != "os" or not {"setup", "expect"} <= task.payload.keys():
            raise DataError(f"os: {path}, line {number} is a task of {task.environment!r}, or has no set-up or check")
        if task.split == split:
            tasks.append(task)
    random.Random(f"os/file/{split}/{seed}").shuffle(tasks)
    yield from tasks[:count]
