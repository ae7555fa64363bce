"""Checks of the class and of the tasks that it makes: contract, tasks, the same seed, splits."""

import inspect
import zlib

import orjson

from agenttuning.environments.base import Environment, EnvironmentSettings, Needs
from agenttuning.environments.checking.play import SPLITS, Subject
from agenttuning.environments.checking.verdict import Broken
from agenttuning.trajectory import Task, content_hash

SOURCE_BYTES = 220
"""A payload's item whose compressed JSON is at least so long is a source (a table, a scene, a page) of its task."""


def contract(subject: Subject) -> str:
    """Check the class itself."""
    cls, name = subject.cls, subject.name
    if not (isinstance(cls, type) and issubclass(cls, Environment)):
        raise Broken(f"{cls!r} is no Environment", "subclass agenttuning.environments.base.Environment")
    if missing := sorted(getattr(cls, "__abstractmethods__", ())):
        raise Broken(f"not implemented: {', '.join(missing)}", "implement every abstract method")
    wanted: dict[str, tuple[bool, str]] = {
        "name": (getattr(cls, "name", None) == name, f"set name = {name!r}, as it is registered"),
        "version": (isinstance(cls.version, str), "make version a text"),
        "Settings": (
            isinstance(cls.Settings, type) and issubclass(cls.Settings, EnvironmentSettings),
            "make Settings a subclass of EnvironmentSettings",
        ),
        "isolation": (cls.isolation in ("inline", "process"), "set isolation to 'inline' or 'process'"),
        "needs": (isinstance(cls.needs, Needs), "make needs a Needs(...)"),
        "max_steps": (isinstance(cls.max_steps, int) and cls.max_steps > 0, "make max_steps a whole number above 0"),
        "on_malformed": (cls.on_malformed in ("correct", "end"), "set on_malformed to 'correct' or 'end'"),
        "grade": (isinstance(inspect.getattr_static(cls, "grade"), classmethod), "make grade a classmethod"),
    }
    for attribute, (fine, cure) in wanted.items():
        if not fine:
            raise Broken(f"{attribute} is {getattr(cls, attribute, None)!r}", cure)
    return f"version {cls.version}, {cls.isolation}, {cls.max_steps} steps, {cls.needs.memory_mb} MB"


def tasks(subject: Subject) -> str:
    """Check that there are tasks, and each of them."""
    if not subject.sample:
        with subject.make() as environment:
            list(environment.tasks("train", 1, subject.seed))  # Says why, where it refuses.
        raise Broken("tasks() yields none, in no split", "yield Task objects, also where no data root is given")
    for split, found in subject.tasks.items():
        for task in found:
            _task(task, split, subject.cls.name)
        if len(found) > subject.count:
            raise Broken(f"asked for {subject.count}, got {len(found)} of {split}", "yield at most `count` tasks")
        if len({task.id for task in found}) < len(found) / 2:
            raise Broken(f"most {split} tasks are equal", "draw different tasks: equal ones are played once")
    with subject.make() as environment:
        if list(environment.tasks(next(s for s in SPLITS if subject.tasks[s]), 0, subject.seed)):
            raise Broken("count=0 yields tasks", "yield at most `count` tasks")
    return ", ".join(f"{len(found)} {split}" for split, found in subject.tasks.items())


def _task(task: Task, split: str, name: str) -> None:
    if not isinstance(task, Task):
        raise Broken(f"tasks() yields {type(task).__name__}", "yield agenttuning.trajectory.Task")
    if task.environment != name or task.split != split:
        raise Broken(f"a {split} task says {task.environment}/{task.split}", "give a task the name and the split")
    if not task.instruction.strip():
        raise Broken("a task has no instruction", "word what the agent is asked")
    if Task.model_validate_json(task.model_dump_json()) != task:
        raise Broken(f"the payload of {task.id} changes as JSON", "put only JSON into it: no tuples, no sets")


def repeatable(subject: Subject) -> str:
    """Draw the tasks once more from another instance."""
    for split, found in subject.tasks.items():
        if [task.id for task in subject.drawn(split, subject.seed)] != [task.id for task in found]:
            raise Broken(
                f"a second instance gives other {split} tasks",
                "draw from random.Random(seed), never from the random module, sets or the clock",
            )
    return "two instances, equal ids"


def splits(subject: Subject) -> str:
    """Compare the tasks of the splits, and their sources, under two seeds."""
    drawn = {s: [*subject.tasks[s], *subject.drawn(s, subject.seed + 1)] for s in SPLITS if subject.tasks[s]}
    sources = {split: _sources(found) for split, found in drawn.items()}
    names = list(sources)
    for number, split in enumerate(names):
        for other in names[number + 1 :]:
            if shared := set(sources[split]) & set(sources[other]):
                what = sorted({sources[split][key] for key in shared})
                raise Broken(
                    f"{split} and {other} share {len(shared)}: {', '.join(what)}",
                    "split by source (table, scene, page), for example by a hash of its content, whatever the seed",
                )
    return f"{', '.join(names)}: no task or source of two, under two seeds" if len(names) > 1 else f"only {names[0]}"


def _sources(drawn: list[Task]) -> dict[str, str]:
    """Return hashes of the tasks and of their large payload items, each with what it is."""
    found: dict[str, str] = {}
    for task in drawn:
        found[content_hash([task.instruction, task.payload])] = "the same task"
        for key, value in task.payload.items():
            for item in (value, *value) if isinstance(value, list) else (value,):
                if len(zlib.compress(orjson.dumps(item, option=orjson.OPT_SORT_KEYS))) >= SOURCE_BYTES:
                    found[content_hash([key, item])] = f"the same payload item {key!r}"
    return found
