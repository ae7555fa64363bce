"""What self-instruct asks a policy for, and how its reply is read: the protocol, and the reading of JSON.

A reply is text around one JSON list of objects. What is no task is refused with a `Refused`, whose `reason` is
counted and whose text says what was wrong.
"""

import contextlib
import json
from collections.abc import Sequence
from typing import Any, Protocol

from agenttuning.instructions.trials import Trials
from agenttuning.trajectory import Task


class Refused(Exception):
    """A reply or a proposal that is no task.

    Attributes:
        reason: a name to count by.
    """

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(detail or reason)
        self.reason = reason


class Proposals(Protocol):
    """The tasks of one environment as proposals."""

    @property
    def environment(self) -> str:
        """Name of the environment."""
        ...

    @property
    def trials(self) -> Trials:
        """What validates a proposal."""
        ...

    @property
    def examples(self) -> Sequence[dict[str, Any]]:
        """Proposals to begin with, in this project's own words."""
        ...

    def rules(self) -> str:
        """Return what a proposal is: the machine, the fields, what makes a good one."""
        ...

    def task(self, proposal: dict[str, Any]) -> Task:
        """Read one proposal.

        Raises:
            Refused: it is malformed.
        """
        ...

    def solving(self, task: Task) -> str:
        """Return what a second policy is asked: the task without its reference."""
        ...

    def solved(self, task: Task, reply: str) -> Task:
        """Return the task with the second policy's solution beside the reference.

        Raises:
            Refused: the reply holds no solution.
        """
        ...


def read_list(reply: str) -> list[dict[str, Any]]:
    """Return the objects of the first JSON list of objects in a reply; of a reply that was cut off, the whole ones.

    Raises:
        Refused: there is none.
    """
    decoder = json.JSONDecoder(strict=False)
    objects, index = list[dict[str, Any]](), 0
    while index < len(reply):
        found, end = None, index + 1
        if reply[index] in "[{":
            with contextlib.suppress(ValueError):
                found, end = decoder.raw_decode(reply, index)
        if isinstance(found, list) and found and all(isinstance(item, dict) for item in found):
            return found
        if isinstance(found, dict):
            objects.append(found)
        index = end
    if not objects:
        raise Refused("no_json", "the reply holds no JSON list of objects")
    return objects


def text_field(proposal: dict[str, Any], name: str, longest: int, *, empty: bool = False) -> str:
    """Return a text field of a proposal.

    Raises:
        Refused: it is missing, no text, empty or too long.
    """
    value = proposal.get(name)
    if value is None and not empty:
        raise Refused(f"missing_{name}", f"the field {name!r} is missing")
    if not isinstance(value, str | None):
        raise Refused(f"wrong_{name}", f"the field {name!r} must be a text, got {type(value).__name__}")
    text = (value or "").strip()
    if not text and not empty:
        raise Refused(f"missing_{name}", f"the field {name!r} is empty")
    if len(text) > longest:
        raise Refused(f"long_{name}", f"the field {name!r} has {len(text)} characters, at most {longest} are read")
    return text
