"""Constructed tasks from a file: what a policy proposed, what was derived, or what validation proved, one a line."""

import random
from collections.abc import Collection, Iterator
from pathlib import Path

from pydantic import ValidationError

from agenttuning.errors import ConfigurationError, DataError
from agenttuning.trajectory import Task

SPLITS = ("train", "test", "shifted")


def stored_tasks(
    environment: str, path: str | None, split: str, count: int, seed: int, needed: Collection[str]
) -> Iterator[Task]:
    """Yield up to `count` tasks of a split in an order that the seed decides.

    Args:
        environment: its registered name, which every task must carry.
        path: JSON lines of `Task`; each names its own split.
        split: the split to take.
        count: how many.
        seed: draws which and in what order.
        needed: keys without which a payload cannot be played.

    Raises:
        ConfigurationError: no path, or no such split.
        DataError: the file is missing, or a line is no task of the environment.
    """
    if split not in SPLITS:
        raise ConfigurationError(f"{environment} has the splits {', '.join(SPLITS)} (got {split!r})")
    if path is None:
        raise ConfigurationError(
            f"{environment}: settings.source=file reads constructed tasks; set settings.tasks_file to them"
        )
    try:
        # Texts within a line may hold what `splitlines` takes for an end of line.
        lines = Path(path).read_text(encoding="utf-8").split("\n")
    except (OSError, ValueError) as error:
        raise DataError(f"{environment}: settings.tasks_file={path} cannot be read ({error})") from error
    tasks = []
    for number, line in enumerate(lines, start=1):
        if not line:
            continue
        where = f"{environment}: {path}, line {number}"
        try:
            task = Task.model_validate_json(line)
        except ValidationError as error:
            raise DataError(f"{where} is no task ({error.errors()[0]['msg']})") from error
        if task.environment != environment:
            raise DataError(f"{where} is a task of {task.environment!r}")
        if missing := [key for key in needed if key not in task.payload]:
            raise DataError(f"{where} has no {' and no '.join(missing)} in its payload")
        if task.split == split:
            tasks.append(task)
    random.Random(f"{environment}/file/{split}/{seed}").shuffle(tasks)
    yield from tasks[:count]
