"""The action grammar of the paper, `THOUGHT: ...` (optional) and `ACTION: <command>`, and its nearest-action rule.

Any text after `ACTION:` is a well-formed command, as in the paper; whether the engine admits it is another matter. The
known command forms become structured actions (`take`, `{"object": ..., "receptacle": ...}`), so that a trajectory
can also be rendered as function calls; any other text is the action `command`.
"""

import re
from collections.abc import Sequence

from agenttuning.environments.base import Parsed
from agenttuning.errors import MalformedReply
from agenttuning.trajectory import Action

FORMS: dict[str, tuple[str, str]] = {
    "go_to": (r"go to (?P<receptacle>.+)", "go to {receptacle}"),
    "open": (r"open (?P<receptacle>.+)", "open {receptacle}"),
    "close": (r"close (?P<receptacle>.+)", "close {receptacle}"),
    "take": (r"take (?P<object>.+?) from (?P<receptacle>.+)", "take {object} from {receptacle}"),
    "put": (r"put (?P<object>.+?) in/on (?P<receptacle>.+)", "put {object} in/on {receptacle}"),
    "move": (r"move (?P<object>.+?) to (?P<receptacle>.+)", "move {object} to {receptacle}"),
    "clean": (r"clean (?P<object>.+?) with (?P<receptacle>.+)", "clean {object} with {receptacle}"),
    "heat": (r"heat (?P<object>.+?) with (?P<receptacle>.+)", "heat {object} with {receptacle}"),
    "cool": (r"cool (?P<object>.+?) with (?P<receptacle>.+)", "cool {object} with {receptacle}"),
    "use": (r"use (?P<object>.+)", "use {object}"),
    "examine": (r"examine (?P<name>.+)", "examine {name}"),
    "look": (r"look", "look"),
    "inventory": (r"inventory", "inventory"),
}
"""Command forms by the action's name: how one is read, and how it is written."""

LIMIT = 0.01
"""A command whose nearest admissible one scores no higher than this is nobody's neighbour (the paper's threshold)."""

_THOUGHT = re.compile(r"^[ \t]*THOUGHT:", re.MULTILINE | re.IGNORECASE)
_ACTION = re.compile(r"^[ \t]*ACTION:", re.MULTILINE | re.IGNORECASE)


def structured(command: str) -> Action:
    """Return the action that a command's text stands for; lower-cased, with single blanks."""
    text = " ".join(command.lower().split())
    for name, (pattern, _) in FORMS.items():
        if (match := re.fullmatch(pattern, text)) is not None:
            return Action(name=name, arguments=match.groupdict())
    return Action(name="command", arguments={"text": text})


def command_text(action: Action) -> str:
    """Return the command that an action stands for.

    Raises:
        MalformedReply: the action's name or arguments are none of this environment's.
    """
    template = "{text}" if action.name == "command" else FORMS.get(action.name, ("", ""))[1]
    try:
        if template:
            return template.format(**action.arguments)
    except KeyError as error:
        raise MalformedReply(f"The action {action.name} needs the argument {error}.") from error
    raise MalformedReply(f"There is no action {action.name!r}; known: {', '.join(FORMS)}.")


def parse_reply(reply: str) -> Parsed:
    """Split a reply into its thought and its action.

    Raises:
        MalformedReply: no action line, more than one, an empty one, or text after it.
    """
    actions = list(_ACTION.finditer(reply))
    if not actions:
        raise MalformedReply("Your reply has no action. End it with one line such as: ACTION: go to cabinet 1")
    if len(actions) > 1:
        raise MalformedReply(f"Your reply has {len(actions)} actions. Give exactly one line that begins with ACTION:")
    head, tail = reply[: actions[0].start()].strip(), reply[actions[0].end() :].strip()
    if not tail:
        raise MalformedReply("Your action is empty. Write one command after ACTION:, such as: ACTION: look")
    if len(tail.splitlines()) > 1:
        raise MalformedReply("There is text after your action. The line that begins with ACTION: must be the last.")
    thoughts = list(_THOUGHT.finditer(head))
    if len(thoughts) > 1:
        raise MalformedReply(
            f"Your reply has {len(thoughts)} thoughts. Give at most one part that begins with THOUGHT:"
        )
    if head and (not thoughts or thoughts[0].start() != 0):
        raise MalformedReply("Your reply has text before its labels. Begin it with THOUGHT: or with ACTION:")
    return Parsed(thought=(head[thoughts[0].end() :].strip() or None) if thoughts else None, action=structured(tail))


def format_reply(thought: str | None, action: Action) -> str:
    """Return the canonical reply for a thought and an action."""
    line = f"ACTION: {command_text(action)}"
    return f"THOUGHT: {thought.strip()}\n{line}" if thought and thought.strip() else line


def nearest(command: str, admissible: Sequence[str]) -> str | None:
    """Return the admissible command with the highest sentence BLEU (smoothing method 4) to `command`.

    None where no score is above `LIMIT`. Ties go to the first.
    """
    from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu

    smooth, words = SmoothingFunction().method4, command.split()
    scores = [sentence_bleu([choice.split()], words, smoothing_function=smooth) for choice in admissible]
    best = max(range(len(scores)), key=scores.__getitem__, default=None)
    return admissible[best] if best is not None and scores[best] > LIMIT else None
