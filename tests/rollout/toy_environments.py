"""A tiny world for tests: reach a number by adding. Real environments, registered as any other package would."""

import os
import random
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from agenttuning.environments.base import (
    Environment,
    EnvironmentSettings,
    Expert,
    Grade,
    Move,
    Parsed,
    Step,
)
from agenttuning.errors import ConfigurationError, InfrastructureError, MalformedReply
from agenttuning.trajectory import Action, Task, Turn

HURRY = "hurry"


class ToySettings(EnvironmentSettings):
    mistake_rate: float = 0.0
    marks: str | None = None
    """Directory in which resets, shutdowns and process ids leave a mark."""
    broken: bool = False
    pause_s: float = 0.0
    """How long a step takes, until there is a mark `hurry`."""
    leak_mib: int = 0
    """What every reset leaks."""


class Toy(Environment):
    name = "toy"
    version = "7"
    Settings = ToySettings
    max_steps = 8
    on_malformed: Literal["correct", "end"] = "correct"
    settings: ToySettings

    def __init__(self, settings: ToySettings, data_root: str | None = None) -> None:
        super().__init__(settings, data_root)
        if settings.broken:
            raise ConfigurationError("toy: the abacus is missing; install it")
        self._thread = threading.get_ident()
        self._value = 0
        self._task: Task | None = None
        self._open = False
        self._leaked: list[bytes] = []

    def tasks(self, split: str, count: int, seed: int) -> Iterator[Task]:
        for index in range(count):
            yield toy_task(split=split, target=3 + index % 5, number=seed * 1000 + index, environment=self.name)

    def description(self, task: Task) -> str:
        return "Reach the number. Answer with `Think: ...` and `Act: add(n)` or `Act: finish`."

    def demonstration(self) -> tuple[Turn, ...]:
        return (
            Turn(role="user", content="Reach 1. The number is 0."),
            Turn(role="assistant", content="Think: 1 is missing.\nAct: add(1)", loss=True),
        )

    def reset(self, task: Task) -> str:
        self._mark("reset", task.id)
        assert self._thread == threading.get_ident()
        self._value, self._task, self._open = 0, task, True
        self._leaked.append(b"x" * (self.settings.leak_mib << 20))
        if task.payload.get("reset") == "hang":
            time.sleep(60)
        return f"{task.instruction} The number is 0."

    def step(self, action: Action) -> Step:
        assert self._thread == threading.get_ident()
        if self.settings.pause_s and not Path(self.settings.marks or "", HURRY).exists():
            time.sleep(self.settings.pause_s)
        if action.name == "leak":
            self._leaked.append(b"x" * (action.arguments["n"] << 20))
            time.sleep(5)
        if action.name == "finish":
            return Step("", done=True)
        if action.name == "add":
            self._value += action.arguments["n"]
            return Step(f"The number is {self._value}.")
        if action.name == "slow":
            time.sleep(action.arguments["n"] / 10)
            return Step("That took a while.", note={"truncated": True, "replaced_by": "wait"})
        if action.name == "hang":
            time.sleep(60)
        if action.name == "hang_once" and not self._seen("hung"):
            time.sleep(60)
        if action.name == "die":
            os._exit(9)
        if action.name == "raise":
            raise KeyError("abacus")
        if action.name == "world_once" and not self._seen("broke"):
            raise InfrastructureError("toy: the world broke")
        if action.name == "world":
            raise InfrastructureError("toy: the world is broken")
        return Step("Nothing happens.", error=True)

    def close(self) -> dict[str, Any]:
        was_open, self._open = self._open, False
        if was_open:
            self._mark("close")
        return {"value": self._value, "closed": was_open, "pair": (1, 2)}

    @classmethod
    def grade(cls, task: Task, evidence: dict[str, Any]) -> Grade:
        assert evidence["pair"] == [1, 2]
        good = float(evidence["value"] == task.payload["target"])
        return Grade(reward=good, score=good)

    def parse(self, reply: str) -> Parsed:
        act = re.search(r"Act: (\w+)(?:\((-?\d+)\))?\s*$", reply)
        if act is None:
            raise MalformedReply("Write one line `Act: add(n)` or `Act: finish`.")
        thought = re.search(r"Think: (.*)", reply)
        arguments = {"n": int(act[2])} if act[2] is not None else {}
        return Parsed(thought[1] if thought else None, Action(name=act[1], arguments=arguments))

    def format(self, thought: str | None, action: Action) -> str:
        n = action.arguments.get("n")
        act = action.name if n is None else f"{action.name}({n})"
        return (f"Think: {thought}\n" if thought else "") + f"Act: {act}"

    def expert(self, task: Task, rng: random.Random) -> Expert:
        if task.payload.get("expert") == "raise":
            raise ZeroDivisionError("no idea")
        if task.payload.get("expert") == "unreadable":
            yield Move("so", Action(name="two words"))
        if rng.random() < self.settings.mistake_rate:
            yield Move("perhaps this", Action(name="wave"), loss=False)
        left = task.payload["target"]
        while left:
            n = rng.randint(1, left)
            step = yield Move(f"{left} is missing.", Action(name="add", arguments={"n": n}))
            assert step.observation.startswith("The number is")
            left -= n
        if task.payload.get("expert") != "stop":
            yield Move("Done.", Action(name="finish"))

    def shutdown(self) -> None:
        self.close()
        self._mark("shutdown")

    def _mark(self, what: str, note: str = "") -> None:
        if self.settings.marks:
            Path(self.settings.marks, f"{what}-{os.getpid()}-{time.monotonic_ns()}").write_text(note)

    def _seen(self, what: str) -> bool:
        assert self.settings.marks is not None
        mark = Path(self.settings.marks, what)
        seen = mark.exists()
        mark.touch()
        return seen


class ToyProcess(Toy):
    name = "toy-process"
    isolation = "process"


class ToyStrict(Toy):
    name = "toy-strict"
    on_malformed = "end"


def toy_task(target: int = 5, number: int = 0, split: str = "train", environment: str = "toy", **payload: Any) -> Task:
    instruction = f"Reach {target} (task {number})."
    return Task(environment=environment, split=split, instruction=instruction, payload={"target": target, **payload})


ENTRIES = """[agenttuning.environments]
toy = toy_environments:Toy
toy-process = toy_environments:ToyProcess
toy-strict = toy_environments:ToyStrict
"""


def install_toys(root: Path) -> Path:
    """Write the entry points as a package of their own would have them; return the directory for the path."""
    site = root / "site"
    package = site / "toy_environments-1.0.dist-info"
    package.mkdir(parents=True)
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: toy-environments\nVersion: 1.0\n")
    (package / "entry_points.txt").write_text(ENTRIES)
    return site
