"""How an environment is played here: through text as a rollout does, by its expert or by given actions."""

import random
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar

import psutil

from agenttuning.environments.base import Environment, EnvironmentSettings, Grade, Move
from agenttuning.environments.checking.watch import alive
from agenttuning.errors import ConfigurationError
from agenttuning.trajectory import Action, Task

SPLITS = ("train", "test", "shifted")
FEW = 6
"""Episodes of the checks that play again and again."""
T = TypeVar("T")


@dataclass
class Played:
    """One episode: what was shown and done, and how it ended."""

    shown: list[str] = field(default_factory=list)
    moves: list[Move] = field(default_factory=list)
    by_expert: bool = False
    done: bool = False
    evidence: dict[str, Any] = field(default_factory=dict)
    grade: Grade = field(default_factory=lambda: Grade(0.0, 0.0))
    seconds: float = 0.0
    """Time in `reset`, `step` and `close` alone."""

    @property
    def actions(self) -> list[Action]:
        """The actions of the moves."""
        return [move.action for move in self.moves]

    @property
    def seen(self) -> tuple[list[str], dict[str, Any]]:
        """What must be equal when the same is done again."""
        return self.shown, self.evidence

    def won(self, reward: float) -> bool:
        """Whether the episode ended, and with at least this reward."""
        return self.done and self.grade.reward >= reward


class Subject:
    """The environment under examination, its sampled tasks and its expert's episodes, each made once.

    Args:
        cls: the class.
        name: what it is registered as.
        settings: its validated settings.
        data_root: directory of published data, or None.
        count: tasks sampled of each split.
        seed: decides the tasks and the expert's choices.
        reward: the least that counts as success.
        rss_before: memory of this process before the class was imported, in bytes; None: as it is now.
    """

    def __init__(
        self,
        cls: type[Environment],
        name: str,
        settings: EnvironmentSettings,
        data_root: str | None,
        count: int,
        seed: int,
        reward: float = 1.0,
        rss_before: int | None = None,
    ) -> None:
        process = psutil.Process()
        self.rss_before = rss_before or process.memory_info().rss
        self.children_before = {child.pid for child in process.children(recursive=True)}
        self.cls = cls
        self.name = name
        self.settings = settings
        self.data_root = data_root
        self.count = count
        self.seed = seed
        self.reward = reward

    def make(self) -> Environment:
        """Build an instance."""
        return self.cls(self.settings, self.data_root)

    def drawn(self, split: str, seed: int) -> list[Task]:
        """Return the tasks of a split, or none where the settings' source has no such split."""
        with self.make() as environment:
            try:
                found = []
                for task in environment.tasks(split, self.count, seed):
                    alive()
                    found.append(task)
                return found
            except ConfigurationError:
                return []

    @cached_property
    def tasks(self) -> dict[str, list[Task]]:
        """The sampled tasks by split."""
        return {split: self.drawn(split, self.seed) for split in SPLITS}

    @cached_property
    def sample(self) -> list[Task]:
        """The tasks that are played: of train where there are any, else of the first split that has some."""
        return next((tasks for tasks in self.tasks.values() if tasks), [])

    @cached_property
    def pairs(self) -> list[tuple[Task, Played]]:
        """The sampled tasks as played by the expert; one without an expert by the worked example's actions."""
        with self.make() as environment:
            return [(task, play(environment, task, self.seed + n)) for n, task in enumerate(self.sample)]

    @property
    def few(self) -> list[tuple[Task, Played]]:
        """The first of the pairs."""
        return self.pairs[:FEW]


def play(environment: Environment, task: Task, seed: int) -> Played:
    """Play a task by its expert, every move going through text and parser."""
    played = Played()
    played.shown.append(timed(played, environment.reset, task))
    try:
        expert = environment.expert(task, random.Random(seed))
        move = next(expert)
    except ConfigurationError:
        turns = environment.demonstration()
        shown = [turn.content for turn in turns if turn.role == "assistant"]
        return replay(environment, task, [environment.parse(reply).action for reply in shown])
    played.by_expert = True
    with suppress(StopIteration):
        while not played.done and len(played.moves) < environment.max_steps:
            parsed = environment.parse(environment.format(move.thought, move.action))
            played.moves.append(move)
            step = timed(played, environment.step, parsed.action)
            played.shown.append(step.observation)
            played.done = step.done
            if not step.done:
                move = expert.send(step)
    expert.close()
    return _closed(environment, task, played)


def replay(environment: Environment, task: Task, actions: Sequence[Action]) -> Played:
    """Play a task by given actions."""
    played = Played()
    played.shown.append(timed(played, environment.reset, task))
    for action in actions:
        if played.done:
            break
        step = timed(played, environment.step, action)
        played.moves.append(Move("", action))
        played.shown.append(step.observation)
        played.done = step.done
    return _closed(environment, task, played)


def timed(played: Played, call: Callable[..., T], *arguments: Any) -> T:
    """Make a call and add its time to an episode's."""
    alive()
    start = time.perf_counter()
    result = call(*arguments)
    played.seconds += time.perf_counter() - start
    return result


def _closed(environment: Environment, task: Task, played: Played) -> Played:
    played.evidence = timed(played, environment.close)
    played.grade = environment.grade(task, played.evidence)
    return played
