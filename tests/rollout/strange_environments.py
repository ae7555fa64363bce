"""Environments of strangers: each breaks the contract in the way that its task's payload names."""

import asyncio
import sys
from pathlib import Path
from typing import Any

from toy_environments import Toy

from agenttuning.environments.base import Grade, Move, Parsed, Step
from agenttuning.errors import InfrastructureError, MalformedReply
from agenttuning.trajectory import Action


class Unspeakable(Exception):
    def __str__(self) -> str:
        return str(self.args[7])


class OddWorld(InfrastructureError):
    """Its constructor is not the one of its base, so it does not survive pickling."""

    def __init__(self, code: int, host: str, why: str) -> None:
        super().__init__(f"{host}: {why} ({code})")
        self.retry_after = "soon"  # type: ignore[assignment]


class Odd:
    """Neither JSON nor picklable."""

    def __reduce__(self) -> str:
        raise TypeError("not today")


def quit_now(*_: Any) -> Any:
    sys.exit(3)


def fail(error: BaseException) -> Any:
    raise error


STRANGE: dict[str, dict[str, Any]] = {
    "reset": {
        "none": lambda: None,
        "bytes": lambda: b"hello",
        "malformed": lambda: fail(MalformedReply("reset parses its task")),
        "exit": quit_now,
    },
    "description": {"none": lambda: None, "raises": lambda: fail(KeyError("rules"))},
    "demonstration": {"texts": lambda: ("one", "two"), "none": lambda: None},
    "step": {
        "tuple": lambda: ("the number is 5", False),
        "int": lambda: Step(5),  # type: ignore[arg-type]
        "none": lambda: Step(None),  # type: ignore[arg-type]
        "note": lambda: Step("so", note={"seen": Odd()}),
        "note list": lambda: Step("so", note=["truncated"]),  # type: ignore[arg-type]
        "exit": quit_now,
        "cancelled": lambda: fail(asyncio.CancelledError()),
        "interrupt": lambda: fail(KeyboardInterrupt()),
        "unspeakable": lambda: fail(Unspeakable()),
        "undecodable error": lambda: fail(ValueError("a\udcff")),
    },
    "parse": {
        "raises": lambda: fail(IndexError("no groups")),
        "none": lambda: None,
        "tuple": lambda: ("so", Action(name="add")),
        "thought": lambda: Parsed(5, Action(name="add")),  # type: ignore[arg-type]
        "arguments": lambda: Parsed("so", Action(name="add", arguments={"n": Odd()})),
    },
    "close": {"none": lambda: None, "list": lambda: [1], "object": lambda: {"seen": Odd()}, "exit": quit_now},
    "grade": {
        "nan": lambda: Grade(float("nan"), 0.0),
        "score": lambda: Grade(1.0, float("inf")),
        "float": lambda: 1.0,
        "above": lambda: Grade(100.0, 1.0),
        "none": lambda: Grade(None, None),  # type: ignore[arg-type]
        "raises": lambda: fail(LookupError("no gold answer")),
    },
    "expert": {
        "tuple": lambda: iter([("so", Action(name="finish"))]),
        "list": lambda: [Move("so", Action(name="finish"))],
        "malformed": lambda: fail(MalformedReply("the expert parses")),
        "none": lambda: None,
    },
    "format": {"none": lambda: None, "raises": lambda: fail(KeyError("thought"))},
}
"""By method and name: what it gives instead of what it should."""


class Strange(Toy):
    name = "strange"

    def _odd(self, method: str, otherwise: Any) -> Any:
        where, _, what = self._task.payload.get("strange", "").partition(": ") if self._task else ("", "", "")
        return STRANGE[method][what]() if where == method else otherwise()

    def reset(self, task):
        observation = super().reset(task)
        task.payload["cache"] = Odd()
        return self._odd("reset", lambda: observation)

    def description(self, task):
        return self._odd("description", lambda: super(Strange, self).description(task))

    def demonstration(self):
        return self._odd("demonstration", lambda: super(Strange, self).demonstration())

    def step(self, action):
        if action.name == "bytes":
            return Step("so \udcff", note={"seen": "\udcff"}, done=[1])  # type: ignore[arg-type]
        if action.name == "world":
            raise OddWorld(7, "host", "the world is broken")
        return self._odd("step", lambda: super(Strange, self).step(action))

    def parse(self, reply):
        if reply == "?":
            raise MalformedReply("what is \udcff?")
        return self._odd("parse", lambda: super(Strange, self).parse(reply))

    def close(self):
        return self._odd("close", lambda: {**super(Strange, self).close(), "seen": "\udcff", "big": 10**30, 7: "seven"})

    @classmethod
    def grade(cls, task, evidence):
        evidence["cache"] = Odd()
        where, _, what = task.payload.get("strange", "").partition(": ")
        return STRANGE["grade"][what]() if where == "grade" else Grade(1.0 + 1e-9, -1e-9)

    def expert(self, task, rng):
        return self._odd("expert", lambda: super(Strange, self).expert(task, rng))

    def format(self, thought, action):
        return self._odd("format", lambda: super(Strange, self).format(thought, action))


class StrangeProcess(Strange):
    name = "strange-process"
    isolation = "process"


ENTRIES = """[agenttuning.environments]
strange = strange_environments:Strange
strange-process = strange_environments:StrangeProcess
"""


def install_strangers(root: Path) -> Path:
    """Write their entry points as a package of its own; return the directory for the path."""
    site = root / "strange-site"
    package = site / "strange_environments-1.0.dist-info"
    package.mkdir(parents=True)
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: strange-environments\nVersion: 1.0\n")
    (package / "entry_points.txt").write_text(ENTRIES)
    return site
