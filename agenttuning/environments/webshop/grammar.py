"""The action grammar of the paper's web shopping task: text to action and back.

A reply is a thought and one action, which stands on the line below `Action:`::

    Thought:
    The size is chosen, so I buy it.

    Action:
    click[buy now]

The label `Thought:` may be left out, and so may the thought.
"""

import re

from agenttuning.environments.base import Parsed
from agenttuning.errors import MalformedReply
from agenttuning.trajectory import Action

SEARCH = "search"
CLICK = "click"

_LABEL = re.compile(r"^[ \t]*[Aa]ction:[ \t\r]*", re.MULTILINE)
_THOUGHT = re.compile(r"[Tt]hought:\s*")
_ACTION = re.compile(r"(search|click)\[(.*)\]")
_FORM = "Thought:\n...\n\nAction:\nsearch[keywords] or click[label]"


def search(keywords: str) -> Action:
    """Return the action that searches for some words."""
    return Action(name=SEARCH, arguments={"keywords": keywords})


def click(label: str) -> Action:
    """Return the action that clicks what has this label."""
    return Action(name=CLICK, arguments={"label": label})


def parse_reply(reply: str) -> Parsed:
    """Read a reply.

    Raises:
        MalformedReply: no action or several, an unknown or an empty one, or text after it.
    """
    labels = list(_LABEL.finditer(reply))
    if not labels:
        raise MalformedReply(f"Your reply has no line `Action:`. Reply in this form:\n{_FORM}")
    if len(labels) > 1:
        raise MalformedReply(f"Your reply has {len(labels)} lines `Action:`. Give one action in each turn.")
    head, tail = reply[: labels[0].start()].strip(), reply[labels[0].end() :]
    if not tail.startswith("\n") and tail.strip():
        raise MalformedReply("Write the action on a line of its own, below `Action:`.")
    if not tail.strip():
        raise MalformedReply("There is no action below `Action:`. Write search[keywords] or click[label] there.")
    thought = _THOUGHT.sub("", head, count=1) if _THOUGHT.match(head) else head
    return Parsed(thought.strip() or None, _action(tail.strip()))


def format_reply(thought: str | None, action: Action) -> str:
    """Return the canonical reply; `parse_reply` gives thought and action back.

    Raises:
        ValueError: the grammar cannot express them (a line break in the action, a label inside the thought).
    """
    if action.name == SEARCH:
        text = f"search[{action.arguments['keywords']}]"
    elif action.name == CLICK:
        text = f"click[{action.arguments['label']}]"
    else:
        raise ValueError(f"the web shop's grammar has the actions {SEARCH!r} and {CLICK!r}, not {action.name!r}")
    reply = f"Action:\n{text}" if thought is None else f"Thought:\n{thought}\n\nAction:\n{text}"
    try:
        faithful = parse_reply(reply) == Parsed(thought, action)
    except MalformedReply:
        faithful = False
    if not faithful:
        raise ValueError(f"the web shop's grammar cannot express this reply: {reply[:200]!r}")
    return reply


def _action(text: str) -> Action:
    line, _, rest = text.partition("\n")
    if rest.strip():
        raise MalformedReply("There is text after your action. The action must be the last line of your reply.")
    found = _ACTION.fullmatch(line.strip())
    if found is None:
        raise MalformedReply(
            f"{line.strip()[:60]!r} is no action. Write search[keywords] or click[label], in square brackets."
        )
    argument = found.group(2).strip()
    if not argument:
        raise MalformedReply(f"The brackets of {found.group(1)}[] are empty. Write what to {found.group(1)} into them.")
    return search(argument) if found.group(1) == SEARCH else click(argument)
