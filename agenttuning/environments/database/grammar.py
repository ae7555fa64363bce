"""The action grammar of the paper's database task: text to action and back.

A reply is a thought and one action::

    I need the salary of Nora Lind.
    Action: Operation
    ```sql
    SELECT salary FROM employees WHERE name = 'Nora Lind'
    ```

or, with the thought before it as well, ``Action: Answer`` and on the next line ``Final Answer: ["3100"]``. The first
action line counts, of an operation the first sql block, of an answer one JSON list; what follows them is ignored.
"""

import json
import re
from typing import Any

from agenttuning.environments.base import Parsed
from agenttuning.errors import MalformedReply
from agenttuning.trajectory import Action

OPERATION = "operation"
ANSWER = "answer"

_ACTION = re.compile(r"^[ \t]*Action:[ \t]*(.*?)[ \t\r]*$", re.MULTILINE)
_BLOCK = re.compile(r"```sql[ \t\r]*\n(.*?)\n?[ \t]*```", re.DOTALL)
_FINAL = re.compile(r"^[ \t]*Final Answer:[ \t]*", re.MULTILINE)


def operation(sql: str) -> Action:
    """Return the action that runs `sql`."""
    return Action(name=OPERATION, arguments={"sql": sql})


def answer(values: list[str]) -> Action:
    """Return the action that ends the episode with `values`."""
    return Action(name=ANSWER, arguments={"values": values})


def parse_reply(reply: str) -> Parsed:
    """Read a reply.

    Raises:
        MalformedReply: no action line, an unknown action, no sql block, or a final answer that is no list.
    """
    found = _ACTION.search(reply)
    if found is None:
        raise MalformedReply(
            "No action found. After your thought write a line `Action: Operation` with a ```sql block below it, "
            'or `Action: Answer` with `Final Answer: ["..."]` below it.'
        )
    thought = reply[: found.start()].strip() or None
    rest = reply[found.end() :]
    kind = found.group(1)
    if kind == "Operation":
        return Parsed(thought, operation(_sql(rest)))
    if kind == "Answer":
        return Parsed(thought, answer(_values(rest)))
    raise MalformedReply(f"Unknown action {kind[:40]!r}. Write `Action: Operation` or `Action: Answer`.")


def format_reply(thought: str | None, action: Action) -> str:
    """Return the canonical reply; `parse_reply` gives thought and action back.

    Raises:
        ValueError: the grammar cannot express them (a fence inside the SQL, an action line inside the thought).
    """
    if action.name == OPERATION:
        text = f"Action: Operation\n```sql\n{action.arguments['sql']}\n```"
    elif action.name == ANSWER:
        values = json.dumps(action.arguments["values"], ensure_ascii=False)
        text = f"Action: Answer\nFinal Answer: {values}"
    else:
        raise ValueError(f"the database grammar has the actions {OPERATION!r} and {ANSWER!r}, not {action.name!r}")
    reply = f"{thought}\n{text}" if thought is not None else text
    try:
        faithful = parse_reply(reply) == Parsed(thought, action)
    except MalformedReply:
        faithful = False
    if not faithful:
        raise ValueError(f"the database grammar cannot express this reply: {reply[:200]!r}")
    return reply


def _sql(rest: str) -> str:
    block = _BLOCK.search(rest)
    if block is None:
        raise MalformedReply(
            "`Action: Operation` needs one closed block below it: ```sql, the statement on the next line, and ```."
        )
    sql = block.group(1).strip()
    if not sql:
        raise MalformedReply("The ```sql block is empty. Put one SQL statement into it.")
    return sql


def _values(rest: str) -> list[str]:
    found = _FINAL.search(rest)
    if found is None:
        raise MalformedReply('`Action: Answer` needs the line `Final Answer: ["..."]` below it.')
    text = rest[found.end() :]
    try:
        values, end = json.JSONDecoder(parse_int=_Number, parse_float=_Number).raw_decode(text)
    except (json.JSONDecodeError, RecursionError):
        values, end = None, 0
    if not isinstance(values, list) or text[end:].partition("\n")[0].strip():
        raise MalformedReply(
            'The final answer must be one JSON list of texts in double quotes, as in ["3100", "Oslo"].'
        )
    if not values:
        raise MalformedReply("The final answer is an empty list. Put every value asked for into it.")
    for value in values:
        if not isinstance(value, str):
            raise MalformedReply(f"Each item of the final answer must be a text in double quotes, not {_shown(value)}.")
    return [str(value) for value in values]


class _Number(str):
    """A JSON number as it was written: `["3.10"]` and `[3.10]` are one answer."""

    __slots__ = ()


def _shown(value: Any) -> str:
    return json.dumps(value)[:40]
