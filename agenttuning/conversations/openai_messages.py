"""OpenAI messages: `{"messages": [...], "tools": [...], "id"}`.

Roles `system` (read also as `developer`, its newer name), `user`, `assistant`, `tool`; `content`, `name`, `tool_calls`,
`tool_call_id` as the chat completions API writes them; `reasoning_content` (or `reasoning`) for a model's reasoning.
Whether an assistant message is trained stands in `loss` (true or false); on input `weight` (1 or 0), the key of
OpenAI's fine-tuning files, means the same. Messages without any flag train every assistant message.

What a `Turn` cannot hold (images, audio, legacy `function_call`) is refused, never dropped. `content: null` beside
tool calls is the empty text, and a list of text parts is their concatenation.
"""

from collections.abc import Mapping
from typing import Any, get_args

import orjson

from agenttuning.conversations.value_turns import (
    RESERVED,
    bad,
    check_turn,
    item_id,
    put_meta,
    record_turns,
    settle_loss,
)
from agenttuning.errors import DataError
from agenttuning.trajectory import Conversation, Role, ToolCall, Turn

FORM = "messages"
_KNOWN = frozenset(
    ("role", "content", "name", "tool_calls", "tool_call_id", "reasoning_content", "reasoning", "loss", "weight")
)


def from_messages(record: Mapping[str, Any], source: str) -> Conversation:
    """Read one record of OpenAI messages.

    Args:
        record: with `messages`; `tools` may be a list or its JSON text.
        source: name of the source, stored in the conversation.

    Raises:
        DataError: the record is not in the format, or holds what a turn cannot; names the item, the turn and the cure.
    """
    item = item_id(record, source)
    for key in ("conversations", "system"):
        if record.get(key):
            cure = "make it the first message" if key == "system" else "read the file with kind: sharegpt"
            raise bad(FORM, item, None, f"the format has no key {key!r}", cure)
    raw = record_turns(record, "messages", FORM, item)
    roles = [_role(message, item, index) for index, message in enumerate(raw)]
    losses = settle_loss(FORM, item, roles, [_flag(message, item, index) for index, message in enumerate(raw)])
    turns = []
    for index, (message, role, loss) in enumerate(zip(raw, roles, losses, strict=True)):
        turn = _turn(message, role, loss, item, index)
        check_turn(turn, FORM, item, index)
        turns.append(turn)
    meta = {key: value for key, value in record.items() if key not in RESERVED}
    return Conversation(id=item, source=source, turns=tuple(turns), tools=_tools(record, item), meta=meta)


def to_messages(conversation: Conversation) -> dict[str, Any]:
    """Return a conversation as a record of OpenAI messages; `from_messages` gives it back.

    Raises:
        DataError: it carries a thought or action beside its text, or parts on a role that cannot have them.
    """
    item = conversation.id
    if not conversation.turns:
        raise bad(FORM, item, None, "has no turns", "leave it out")
    messages: list[dict[str, Any]] = []
    for index, turn in enumerate(conversation.turns):
        check_turn(turn, FORM, item, index)
        message: dict[str, Any] = {"role": turn.role, "content": turn.content}
        if turn.reasoning is not None:
            message["reasoning_content"] = turn.reasoning
        if turn.tool_calls:
            message["tool_calls"] = [
                {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
                for call in turn.tool_calls
            ]
        if turn.tool_call_id is not None:
            message["tool_call_id"] = turn.tool_call_id
        if turn.name is not None:
            message["name"] = turn.name
        if turn.loss is not None:
            message["loss"] = turn.loss
        messages.append(message)
    record: dict[str, Any] = {"id": item, "messages": messages}
    if conversation.tools:
        record["tools"] = list(conversation.tools)
    return put_meta(record, conversation, FORM)


def _role(message: Mapping[str, Any], item: str, index: int) -> Role:
    if message.get("role") == "developer":
        return "system"
    known: tuple[Role, ...] = get_args(Role)
    for role in known:
        if role == message.get("role"):
            return role
    raise bad(FORM, item, index, f"role {message.get('role')!r}", f"the format knows {', '.join(known)}")


def _flag(message: Mapping[str, Any], item: str, index: int) -> Any:
    loss, weight = message.get("loss"), message.get("weight")
    if weight is None:
        return loss
    if loss is not None:
        raise bad(FORM, item, index, "has both 'loss' and 'weight'", "keep one of them")
    if weight not in (0, 1):
        raise bad(FORM, item, index, f"weight is {weight!r}", "write 1 (trained) or 0; other weights are not supported")
    return bool(weight) if message["role"] == "assistant" or weight else None


def _turn(message: Mapping[str, Any], role: Role, loss: bool | None, item: str, index: int) -> Turn:
    for key, value in message.items():
        if key not in _KNOWN and value not in (None, [], {}, ""):
            raise bad(FORM, item, index, f"key {key!r} cannot be expressed", "remove it, or mend the record")
    calls = tuple(_call(call, item, index) for call in message.get("tool_calls") or ())
    spoken = [message[key] for key in ("reasoning_content", "reasoning") if message.get(key) is not None]
    if len(spoken) == 2 and spoken[0] != spoken[1]:
        raise bad(FORM, item, index, "'reasoning_content' and 'reasoning' differ", "keep one of them")
    texts = {
        "reasoning": spoken[0] if spoken else None,
        "tool_call_id": message.get("tool_call_id"),
        "name": message.get("name"),
    }
    for key, text in texts.items():
        if text is not None and not isinstance(text, str):
            raise bad(FORM, item, index, f"{key!r} is {text!r}, not text", "mend or delete that record")
    return Turn(
        role=role,
        content=_content(message.get("content"), bool(calls or spoken), item, index),
        loss=loss,
        tool_calls=calls,
        **texts,
    )


def _content(content: Any, may_be_null: bool, item: str, index: int) -> str:
    if isinstance(content, str):
        return content
    if content is None and may_be_null:
        return ""
    if isinstance(content, list):
        parts = [part for part in content if isinstance(part, Mapping) and part.get("type") == "text"]
        texts = [text for part in parts if isinstance(text := part.get("text"), str)]
        if len(texts) == len(content):
            return "".join(texts)
    cure = "only text can be trained here: remove images and audio, or delete that record"
    raise bad(FORM, item, index, f"content is not text ({str(content)[:60]!r})", cure)


def _call(call: Any, item: str, index: int) -> ToolCall:
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        cure = 'write {"id", "type": "function", "function": {"name", "arguments"}}'
        raise bad(FORM, item, index, f"not a function call: {str(call)[:60]!r}", cure)
    arguments = function.get("arguments")
    if isinstance(arguments, Mapping):
        arguments = orjson.dumps(arguments).decode()
    if not isinstance(arguments, str):
        raise bad(FORM, item, index, f"arguments of {function['name']!r} are no text or object", "write them as JSON")
    return ToolCall(id=str(call.get("id") or ""), name=function["name"], arguments=arguments)


def _tools(record: Mapping[str, Any], item: str) -> tuple[dict[str, Any], ...]:
    tools = record.get("tools")
    if isinstance(tools, str) and tools.strip():
        try:
            tools = orjson.loads(tools)
        except orjson.JSONDecodeError as error:
            raise bad(FORM, item, None, f"'tools' is no JSON ({error})", "write a list of tool objects") from error
    if not tools:
        return ()
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        raise DataError(f"{FORM} item {item!r}: 'tools' is {type(tools).__name__}; write a list of tool objects")
    return tuple(tools)
