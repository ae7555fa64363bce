"""Whether train, test and shifted tasks share what they must not: a task, a wording, a scene, a table, a goal. Pure.

What a task is made of is told by `sources(task)`: pairs of a kind and a text. `task_sources` reads the payload keys
that the built-in environments use, and the key `split_source` by which an environment of one's own names its source
(a room, a site, a table). Two tasks of different splits may have no pair in common.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from agenttuning.trajectory import Task, content_hash

Sources = Callable[[Task], Iterable[tuple[str, str]]]

KINDS = {
    "scene": "scene",
    "problem": "scene",
    "setup": "scene",
    "game": "scene",
    "page": "page",
    "site": "site",
    "tables": "tables",
    "database": "tables",
    "reference": "goal",
    "split_source": "source",
}
"""Payload keys whose value two splits may not share, with what the report calls it."""


@dataclass(frozen=True)
class Overlap:
    """One thing that two splits share."""

    kind: str
    splits: tuple[str, str]
    tasks: tuple[str, str]
    """The id of one task of each split."""
    count: int = 1
    """How many different things of this kind the two splits share."""


def task_sources(task: Task) -> Iterator[tuple[str, str]]:
    """Yield the task itself, its wording, and what its payload is made of."""
    yield "task", content_hash(task.payload) if task.payload else plain(task.instruction)
    yield "instruction", content_hash([plain(task.instruction), task.payload])
    for key, kind in KINDS.items():
        value = task.payload.get(key)
        if value not in (None, "", [], {}) and not _only_comments(value):
            yield kind, f"{key}:{content_hash(value)}"


def overlaps(tasks: Iterable[Task], sources: Sources = task_sources) -> list[Overlap]:
    """Return what different splits share, one entry per kind and pair of splits.

    Args:
        tasks: of all splits; their `split` says which.
        sources: what a task is made of.
    """
    first: dict[tuple[str, str], dict[str, str]] = {}
    for task in tasks:
        for pair in sources(task):
            first.setdefault(pair, {}).setdefault(task.split, task.id)
    found: dict[tuple[str, str, str], Overlap] = {}
    for (kind, _), holders in first.items():
        names = sorted(holders)
        for index, left in enumerate(names):
            for right in names[index + 1 :]:
                old = found.get((kind, left, right))
                count = old.count + 1 if old else 1
                shown = old.tasks if old else (holders[left], holders[right])
                found[kind, left, right] = Overlap(kind, (left, right), shown, count)
    return [found[key] for key in sorted(found)]


def plain(text: str) -> str:
    """Return a text in lower case with single blanks."""
    return " ".join(text.lower().split())


def _only_comments(value: Any) -> bool:
    """A set-up script of comments alone is no scene."""
    return isinstance(value, str) and all(line.lstrip().startswith("#") for line in value.splitlines() if line.strip())
