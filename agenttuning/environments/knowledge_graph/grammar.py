"""The action grammar of the paper's knowledge graph task: text to action and back.

A reply is a thought and one action, a tool with its arguments or the final answer::

    Thought: Ghana has the relation location.country.capital, which leads to its capital.
    Action: get_neighbors(Ghana, location.country.capital)

    Thought: #0 is the capital, so it is the answer.
    Final Answer: #0

The first action counts. What follows it is ignored, and so is everything from a line `Observation:` on: a model that
goes on to imagine the tool's answer is not helped by it.
"""

import re

from agenttuning.environments.base import Parsed
from agenttuning.errors import MalformedReply
from agenttuning.trajectory import Action

TOOLS: dict[str, tuple[str, ...]] = {
    "get_relations": ("variable",),
    "get_neighbors": ("variable", "relation"),
    "intersection": ("variable1", "variable2"),
    "get_attributes": ("variable",),
    "argmax": ("variable", "attribute"),
    "argmin": ("variable", "attribute"),
    "count": ("variable",),
}
"""The tools and the names of their arguments. Only the first argument may be an entity, whose name may hold commas."""
ANSWER = "answer"

_OBSERVATION = re.compile(r"^[ \t]*Observation:", re.MULTILINE)
_ACTION = re.compile(r"^[ \t]*(Action|Final Answer|Find Answer):[ \t]*(.*?)[ \t\r]*$", re.MULTILINE)
_CALL = re.compile(r"(\w+)[ \t]*\((.*)\)")
_THOUGHT = re.compile(r"^Thought:[ \t]*")
_VARIABLE = re.compile(r"#\d+")
_USAGE = ", ".join(f"{tool}({', '.join(names)})" for tool, names in TOOLS.items())


def call(tool: str, *arguments: str) -> Action:
    """Return the action that calls a tool."""
    return Action(name=tool, arguments=dict(zip(TOOLS[tool], arguments, strict=True)))


def answer(variable: str) -> Action:
    """Return the action that ends the episode with a variable such as `#2`."""
    return Action(name=ANSWER, arguments={"variable": variable})


def parse_reply(reply: str) -> Parsed:
    """Read a reply.

    Raises:
        MalformedReply: no action, no known tool, the wrong number of arguments, or an answer that is no variable.
    """
    observed = _OBSERVATION.search(reply)
    text = reply[: observed.start()] if observed else reply
    found = _ACTION.search(text)
    if found is None:
        raise MalformedReply(
            "No action found. After your thought write a line `Action: tool(arguments)`, or `Final Answer: #n` when a "
            "variable holds the answer."
        )
    thought = _THOUGHT.sub("", text[: found.start()].strip()).strip() or None
    kind, rest = found.groups()
    return Parsed(thought, parse_call(rest) if kind == "Action" else answer(_answered(rest)))


def parse_call(text: str) -> Action:
    """Read a call such as `get_neighbors(#0, film.film.genre)`.

    Raises:
        MalformedReply: it is no call of a known tool with its number of arguments.
    """
    found = _CALL.fullmatch(text)
    if found is None:
        raise MalformedReply(
            f"An action is one tool with its arguments in brackets, not {text[:60]!r}. Tools: {_USAGE}."
        )
    tool, inside = found.group(1), found.group(2).strip()
    if tool not in TOOLS:
        raise MalformedReply(f"There is no tool {tool[:40]!r}. Tools: {_USAGE}.")
    names = TOOLS[tool]
    arguments = [part.strip() for part in inside.rsplit(",", len(names) - 1)]
    if len(arguments) < len(names) or not all(arguments):
        raise MalformedReply(f"{tool} takes {len(names)} argument(s): {tool}({', '.join(names)}).")
    return call(tool, *arguments)


def format_call(action: Action) -> str:
    """Return a call as text; `parse_call` gives it back."""
    return f"{action.name}({', '.join(action.arguments[name] for name in TOOLS[action.name])})"


def format_reply(thought: str | None, action: Action) -> str:
    """Return the canonical reply; `parse_reply` gives thought and action back.

    Raises:
        ValueError: the grammar cannot express them (an action line inside the thought, a bracket at a name's end).
    """
    if action.name == ANSWER:
        text = f"Final Answer: {action.arguments['variable']}"
    elif action.name in TOOLS:
        text = f"Action: {format_call(action)}"
    else:
        raise ValueError(f"the knowledge graph grammar has no action {action.name!r}")
    reply = f"Thought: {thought}\n{text}" if thought is not None else text
    try:
        faithful = parse_reply(reply) == Parsed(thought, action)
    except MalformedReply:
        faithful = False
    if not faithful:
        raise ValueError(f"the knowledge graph grammar cannot express this reply: {reply[:200]!r}")
    return reply


def _answered(rest: str) -> str:
    found = _VARIABLE.match(rest)
    if found is None:
        raise MalformedReply(f"The final answer must be one variable such as `Final Answer: #2`, not {rest[:60]!r}.")
    return found.group()
