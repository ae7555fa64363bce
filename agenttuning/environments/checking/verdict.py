"""What a check says, and how it is printed."""

import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from agenttuning.errors import AgentTuningError

if TYPE_CHECKING:
    from agenttuning.environments.checking.play import Subject

STATES = {"ok": "ok", "failed": "FAILED", "skipped": "-"}
NAME_WIDTH = 27


@dataclass(frozen=True)
class Check:
    """What one check found."""

    name: str
    state: Literal["ok", "failed", "skipped"]
    value: str
    rule: str = ""
    cure: str = ""

    @property
    def ok(self) -> bool:
        """Whether the promise holds."""
        return self.state == "ok"

    def __str__(self) -> str:
        """Return a line; where the check failed, its rule and its cure below."""
        lines = [f"{self.name:<{NAME_WIDTH}} {STATES[self.state]:<7} {self.value}"]
        if self.state == "failed":
            told = {"rule": self.rule, "cure": self.cure}
            lines += [f"{'':<{NAME_WIDTH}}   {key}: {text}" for key, text in told.items() if text]
        return "\n".join(lines)


class Broken(Exception):
    """A promise is broken: what was found, and the cure."""

    def __init__(self, value: str, cure: str) -> None:
        super().__init__(value)
        self.cure = cure


def examined(name: str, rule: str, function: "Callable[[Subject], str]", subject: "Subject") -> Check:
    """Run one check; an exception of the environment is what was found."""
    try:
        return Check(name, "ok", function(subject), rule)
    except Broken as broken:
        return Check(name, "failed", str(broken), rule, broken.cure)
    except Exception as error:  # What a stranger's class raises is what is asked for.
        method, where = _place(error, subject.cls)
        cure = "" if isinstance(error, AgentTuningError) else f"{method} must not raise this; mend it at {where}"
        return Check(name, "failed", f"{type(error).__name__} at {where}: {error}"[:300], rule, cure)


def _place(error: Exception, cls: type) -> tuple[str, str]:
    """Return the innermost function of the class' own package that an error went through, and its place."""
    frames = list(traceback.walk_tb(error.__traceback__))
    package = cls.__module__.split(".")[0]
    own = [pair for pair in frames if str(pair[0].f_globals.get("__name__", "")).split(".")[0] == package]
    frame, line = (own or frames)[-1]
    return frame.f_code.co_name, f"{Path(frame.f_code.co_filename).name}:{line}"
