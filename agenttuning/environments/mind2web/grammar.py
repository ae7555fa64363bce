"""The action grammar of the paper's Mind2Web task: text to action and back.

A reply is a thought, the letter of a choice, and for an element what to do to it::

    Thought: The task asks for pickup, and C is the field for the way of delivery.
    Answer: C.
    Action: SELECT
    Value: Pickup

`Answer: A.` (none of the above) needs no more; CLICK has no value. What follows is ignored.
"""

import re

from agenttuning.environments.base import Parsed
from agenttuning.environments.mind2web.protocol import LETTERS
from agenttuning.errors import MalformedReply
from agenttuning.trajectory import Action

CHOOSE = "choose"
OPERATIONS = ("CLICK", "TYPE", "SELECT")

_ANSWER = re.compile(r"^[ \t]*Answer:[ \t]*(.*?)[ \t\r]*$", re.MULTILINE)
_ACTION = re.compile(r"^[ \t]*Action:[ \t]*(.*?)[ \t\r]*$", re.MULTILINE)
_VALUE = re.compile(r"^[ \t]*Value:[ \t]*(.*?)[ \t\r]*$", re.MULTILINE)
_THOUGHT = re.compile(r"^[ \t]*Thought:[ \t]*")


def choose(letter: str, operation: str = "", value: str = "") -> Action:
    """Return the action that picks a choice; for `A` operation and value are empty."""
    return Action(name=CHOOSE, arguments={"letter": letter, "operation": operation, "value": value})


def parse_reply(reply: str) -> Parsed:
    """Read a reply.

    Raises:
        MalformedReply: no answer line, an unknown letter or operation, or a value that is missing.
    """
    found = _ANSWER.search(reply)
    if found is None:
        raise MalformedReply(
            "No answer found. After your thought write a line with the letter of a choice, as in `Answer: C.`"
        )
    thought = _THOUGHT.sub("", reply[: found.start()]).strip() or None
    letter = found.group(1).strip().removesuffix(".")
    if len(letter) != 1 or letter not in LETTERS:
        raise MalformedReply(f"Unknown choice {letter[:40]!r}. Answer with one letter from A to {LETTERS[-1]}.")
    rest = reply[found.end() :]
    if letter == LETTERS[0]:
        return Parsed(thought, choose(letter))
    operation = _ACTION.search(rest)
    if operation is None:
        raise MalformedReply(
            f"Choice {letter} needs a line `Action: CLICK`, `Action: TYPE` or `Action: SELECT` below it."
        )
    name = operation.group(1)
    if name not in OPERATIONS:
        raise MalformedReply(f"Unknown action {name[:40]!r}. Write one of {', '.join(OPERATIONS)}.")
    if name == "CLICK":
        return Parsed(thought, choose(letter, name))
    value = _VALUE.search(rest)
    if value is None or not value.group(1):
        raise MalformedReply(f"`Action: {name}` needs a line `Value: ` below it, with the text to {name.lower()}.")
    return Parsed(thought, choose(letter, name, value.group(1)))


def format_reply(thought: str | None, action: Action) -> str:
    """Return the canonical reply; `parse_reply` gives thought and action back.

    Raises:
        ValueError: the grammar cannot express them (an answer line inside the thought, a value with a line break).
    """
    if action.name != CHOOSE:
        raise ValueError(f"the Mind2Web grammar has the action {CHOOSE!r}, not {action.name!r}")
    letter, operation, value = (str(action.arguments[key]) for key in ("letter", "operation", "value"))
    lines = [f"Answer: {letter}."]
    if operation:
        lines.append(f"Action: {operation}")
    if value:
        lines.append(f"Value: {value}")
    reply = "\n".join([f"Thought: {thought}", *lines] if thought is not None else lines)
    try:
        faithful = parse_reply(reply) == Parsed(thought, action)
    except MalformedReply:
        faithful = False
    if not faithful:
        raise ValueError(f"the Mind2Web grammar cannot express this reply: {reply[:200]!r}")
    return reply
