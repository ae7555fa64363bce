"""Checks of the class and of the tasks that it makes: contract, tasks, the same seed, splits."""

import inspect
import zlib
from itertools import combinations
from typing import Any

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
    """Compare the tasks of the splits, their sources and their goals, under two seeds."""
    drawn = {s: [*subject.tasks[s], *subject.drawn(s, subject.seed + 1)] for s in SPLITS if subject.tasks[s]}
    sources = {split: _sources(found) for split, found in drawn.items()}
    goals = {split: _goals(found) for split, found in drawn.items()}
    repeated: set[str] = set()
    for split, other in combinations(sources, 2):
        what = {key: sources[split][key] for key in set(sources[split]) & set(sources[other])}
        said = set(goals[split]) & set(goals[other])
        # A sentence of which both tasks have worlds of their own is another task, as "put a mug on the desk" is.
        what |= {key: goals[split][key][0] for key in said if not (goals[split][key][1] and goals[other][key][1])}
        repeated |= said - set(what)
        if what:
            raise Broken(
                f"{split} and {other} share {len(what)}: {', '.join(sorted(set(what.values())))}",
                "split by source (table, scene, page), for example by a hash of its content, whatever the seed",
            )
    if len(sources) < 2:
        return f"only {next(iter(sources))}"
    worlds = f"; {len(repeated)} goals are asked in two, of other worlds" if repeated else ""
    return f"{', '.join(sources)}: no task, goal or source of two, under two seeds{worlds}"


def _goals(drawn: list[Task]) -> dict[str, tuple[str, bool]]:
    """Return hashes of what is asked, each with what it is and whether all tasks that ask it have a source."""
    found: dict[str, tuple[str, bool]] = {}
    for task in drawn:
        own = any(_is_source(item) for key, value in task.payload.items() if key != "goal" for item in _items(value))
        asked = [("the same instruction", " ".join(task.instruction.casefold().split()))]
        asked += [("the same goal", task.payload["goal"])] if "goal" in task.payload else []
        for what, text in asked:
            key = content_hash([what, text])
            found[key] = (what, own and found.get(key, (what, True))[1])
    return found


def _sources(drawn: list[Task]) -> dict[str, str]:
    """Return hashes of the tasks and of their large payload items, each with what it is."""
    found: dict[str, str] = {}
    for task in drawn:
        found[content_hash([task.instruction, task.payload])] = "the same task"
        for key, value in task.payload.items():
            for item in _items(value):
                if _is_source(item):
                    found[content_hash([key, item])] = f"the same payload item {key!r}"
    return found


def _items(value: Any) -> tuple[Any, ...]:
    return (value, *value) if isinstance(value, list) else (value,)


def _is_source(item: Any) -> bool:
    return len(zlib.compress(orjson.dumps(item, option=orjson.OPT_SORT_KEYS))) >= SOURCE_BYTES
