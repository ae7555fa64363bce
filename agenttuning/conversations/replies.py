"""Thought and action of a recorded reply, in the action grammars of the paper's six environments and in plain ReAct.

Recorded replies are read leniently: they were accepted when they were played, and nobody can be told to write them
again. The action's names and arguments are those of this package's environments, so that an imported trajectory can
be rendered and compared like a played one. Nothing is run or evaluated.
"""

import re
from collections.abc import Callable

import orjson

from agenttuning.trajectory import Action, Turn

Split = tuple[str | None, Action | None]
"""Thought and action; None where the reply has none."""

PLAIN = ""
"""Stands for no environment: plain ReAct, or a message without an action."""

_FENCE = re.compile(r"```(?:bash|sql|sh)?[ \t]*\n(.*?)\n?```", re.DOTALL)
_THINK = re.compile(r"Think:\s*(.*?)(?=\n\s*Act:|\Z)", re.DOTALL)
_ACT = re.compile(r"Act:\s*(bash|finish|answer)\b\s*(.*)", re.DOTALL)
_DB_ACTION = re.compile(r"Action:\s*(Operation|Answer)\b", re.IGNORECASE)
_FINAL = re.compile(r"Final Answer:\s*(.*)", re.DOTALL)
_KG_CALL = re.compile(r"^[ \t]*Action:\s*(\w+)\((.*?)\)\s*$", re.MULTILINE)
_KG_FINAL = re.compile(r"(?:Find|Final) Answer:\s*(#\d+)")
_ALF_ACTION = re.compile(r"ACTION:\s*(.*)", re.IGNORECASE)
_SHOP_ACTION = re.compile(r"[Aa]ction:\s*(search|click)\[(.+)\]")
_WEB_LINE = {
    key: re.compile(rf"^[ \t]*{key}:[ \t]*(.*?)[ \t\r]*$", re.MULTILINE) for key in ("Answer", "Action", "Value")
}
_WEB_OPERATIONS = ("CLICK", "TYPE", "SELECT")
_LABEL = re.compile(r"^\s*(?:THOUGHT|Thought|Think):\s*")
_REACT = re.compile(r"^[ \t]*Action:[ \t]*(.*)", re.MULTILINE | re.DOTALL)
_KG_ARGUMENTS = {
    "get_relations": ("variable",),
    "get_neighbors": ("variable", "relation"),
    "intersection": ("variable1", "variable2"),
    "get_attributes": ("variable",),
    "argmax": ("variable", "attribute"),
    "argmin": ("variable", "attribute"),
    "count": ("variable",),
}
_ALF_FORMS = (
    ("go_to", r"go to (?P<receptacle>.+)"),
    ("open", r"open (?P<receptacle>.+)"),
    ("close", r"close (?P<receptacle>.+)"),
    ("take", r"take (?P<object>.+?) from (?P<receptacle>.+)"),
    ("put", r"put (?P<object>.+?) in/on (?P<receptacle>.+)"),
    ("move", r"move (?P<object>.+?) to (?P<receptacle>.+)"),
    ("clean", r"clean (?P<object>.+?) with (?P<receptacle>.+)"),
    ("heat", r"heat (?P<object>.+?) with (?P<receptacle>.+)"),
    ("cool", r"cool (?P<object>.+?) with (?P<receptacle>.+)"),
    ("use", r"use (?P<object>.+)"),
    ("examine", r"examine (?P<name>.+)"),
    ("look", r"look"),
    ("inventory", r"inventory"),
)


def split_reply(environment: str, text: str) -> Split:
    """Return the thought and the action of a reply recorded in `environment`; plain ReAct for one unknown here."""
    return _READERS.get(environment, _react)(text)


def split_turn(environment: str, turn: Turn) -> Turn:
    """Return an assistant turn with `thought` and `action` as they stand in its text or in its first tool call."""
    if turn.role != "assistant":
        return turn
    if turn.tool_calls:
        call = turn.tool_calls[0]
        arguments = _arguments(call.arguments)
        action = None if arguments is None else Action(name=call.name, arguments=arguments)
        return turn.model_copy(update={"thought": _clean(turn.reasoning or turn.content), "action": action})
    thought, found = split_reply(environment, turn.content)
    return turn.model_copy(update={"thought": thought or _clean(turn.reasoning), "action": found})


def _arguments(text: str) -> dict[str, object] | None:
    """Return a call's arguments; None where the model wrote no JSON, which the rule `form` objects to."""
    try:
        value = orjson.loads(text or "{}")
    except orjson.JSONDecodeError:
        return None
    return value if isinstance(value, dict) else {"value": value}


def _clean(text: str | None) -> str | None:
    return (text or "").strip() or None


def _before(text: str, end: int) -> str | None:
    return _clean(_LABEL.sub("", text[:end]))


def _os(text: str) -> Split:
    act = next(reversed(list(_ACT.finditer(text))), None)
    found = _THINK.search(text)
    thought = _clean(found[1]) if found else _before(text, act.start() if act else len(text))
    if act is None:
        return thought, None
    if act[1] == "bash":
        scripts = _FENCE.findall(act[2])
        return thought, Action(name="bash", arguments={"script": "\n".join(scripts)}) if scripts else None
    if act[1] == "finish":
        return thought, Action(name="finish")
    inside = re.match(r"\((.*)\)", act[2].strip(), re.DOTALL)
    return thought, Action(name="answer", arguments={"answer": inside[1]}) if inside else None


def _db(text: str) -> Split:
    found = _DB_ACTION.search(text)
    if found is None:
        return _before(text, len(text)), None
    thought = _before(text, found.start())
    if found[1].lower() == "operation":
        sql = _FENCE.search(text, found.end())
        return thought, Action(name="operation", arguments={"sql": sql[1].strip()}) if sql else None
    final = _FINAL.search(text, found.end())
    if final is None:
        return thought, None
    try:
        values = orjson.loads(final[1].strip())
    except orjson.JSONDecodeError:
        values = [final[1].strip()]
    listed = values if isinstance(values, list) else [values]
    return thought, Action(name="answer", arguments={"values": [v if isinstance(v, str) else str(v) for v in listed]})


def _kg(text: str) -> Split:
    text = text.split("\nObservation:")[0]
    call, final = _KG_CALL.search(text), _KG_FINAL.search(text)
    if call is not None and (names := _KG_ARGUMENTS.get(call[1])):
        parts = [part.strip() for part in call[2].rsplit(",", len(names) - 1)]
        if len(parts) == len(names):
            return _before(text, call.start()), Action(name=call[1], arguments=dict(zip(names, parts, strict=True)))
    if final is not None:
        return _before(text, final.start()), Action(name="answer", arguments={"variable": final[1]})
    return _before(text, len(text)), None


def _alfworld(text: str) -> Split:
    found = _ALF_ACTION.search(text)
    if found is None:
        return _before(text, len(text)), None
    command = " ".join(found[1].lower().split())
    for name, pattern in _ALF_FORMS:
        if (match := re.fullmatch(pattern, command)) is not None:
            return _before(text, found.start()), Action(name=name, arguments=match.groupdict())
    return _before(text, found.start()), Action(name="command", arguments={"text": command}) if command else None


def _webshop(text: str) -> Split:
    found = _SHOP_ACTION.search(text)
    if found is None:
        return _before(text, len(text)), None
    key = "keywords" if found[1] == "search" else "label"
    return _before(text, found.start()), Action(name=found[1], arguments={key: found[2]})


def _mind2web(text: str) -> Split:
    found = _WEB_LINE["Answer"].search(text)
    if found is None:
        return _before(text, len(text)), None
    thought, letter, rest = _before(text, found.start()), found[1].removesuffix("."), text[found.end() :]
    given = {key: match[1] for key in ("Action", "Value") if (match := _WEB_LINE[key].search(rest)) is not None}
    operation = "" if letter == "A" else given.get("Action", "")
    value = given.get("Value", "") if operation in ("TYPE", "SELECT") else ""
    complete = letter == "A" or operation == "CLICK" or (operation in _WEB_OPERATIONS and value)
    if not re.fullmatch("[A-F]", letter) or not complete:
        return thought, None
    return thought, Action(name="choose", arguments={"letter": letter, "operation": operation, "value": value})


def _react(text: str) -> Split:
    found = _REACT.search(text)
    if found is not None:
        return _before(text, found.start()), Action(name="text", arguments={"text": found[1].strip()})
    return None, Action(name="message", arguments={"text": text.strip()}) if text.strip() else None


_READERS: dict[str, Callable[[str], Split]] = {
    "os": _os,
    "db": _db,
    "kg": _kg,
    "alfworld": _alfworld,
    "webshop": _webshop,
    "mind2web": _mind2web,
}
