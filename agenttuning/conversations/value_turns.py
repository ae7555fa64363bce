"""What AgentInstruct and ShareGPT records share: `{"conversations": [{"from", "value"}], "id"}`.

Both directions are lossless for what the format can express and refuse the rest; nothing is dropped. Top-level keys
that the format does not know are kept in `Conversation.meta` and written back from there. A record without an id is
given one from its content.

The loss rule of every format of this package: a record whose assistant turns carry no flag at all trains all of
them; a record with flags on some and not on others is refused, because a reader would have to guess.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from agenttuning.errors import DataError
from agenttuning.trajectory import Conversation, Role, Turn, content_hash

RESERVED = ("id", "conversations", "messages", "tools", "system")
"""Top-level keys with a meaning of their own: `meta` may not use them."""

_NAME_OF: dict[Role, str] = {"system": "system", "user": "human", "assistant": "gpt"}


@dataclass(frozen=True)
class ValueFormat:
    """One dialect of from/value records."""

    name: str
    roles: Mapping[str, Role]
    """`from` values that are understood."""
    flags: bool
    """Turns carry `loss`."""


def item_id(record: Mapping[str, Any], source: str) -> str:
    """Return the record's id as text, or `<source>_<content hash>` where it has none."""
    given = record.get("id")
    return f"{source}_{content_hash(record)}" if given is None else str(given)


def bad(form: str, item: str, turn: int | None, problem: str, cure: str) -> DataError:
    """Return the error for one item (and turn, counted from 0) of a format."""
    where = f"{form} item {item!r}" + ("" if turn is None else f", turn {turn}")
    return DataError(f"{where}: {problem}; {cure}")


def record_turns(record: Mapping[str, Any], key: str, form: str, item: str) -> list[Mapping[str, Any]]:
    """Return the record's non-empty list of turn objects under `key`.

    Raises:
        DataError: no such list, an empty one, or an entry that is no object.
    """
    turns = record.get(key)
    if not isinstance(turns, list) or not turns:
        raise bad(form, item, None, f"{key!r} is no list of turns or an empty one", f"keys found: {', '.join(record)}")
    for index, turn in enumerate(turns):
        if not isinstance(turn, Mapping):
            raise bad(form, item, index, f"is {type(turn).__name__}, not an object", "mend or delete that record")
    return turns


def settle_loss(form: str, item: str, roles: Sequence[Role], flags: Sequence[Any]) -> list[bool | None]:
    """Return the loss of every turn by the loss rule in the module's docstring.

    Raises:
        DataError: a flag that is no boolean, a trained turn that is not the assistant's, or flags on only some
            assistant turns.
    """
    for index, (role, flag) in enumerate(zip(roles, flags, strict=True)):
        if flag is not None and not isinstance(flag, bool):
            raise bad(form, item, index, f"loss is {flag!r}", "write true, false or null")
        if flag and role != "assistant":
            raise bad(form, item, index, f"a {role} turn has loss true", "only assistant turns can be trained")
    spoken = [flag for role, flag in zip(roles, flags, strict=True) if role == "assistant"]
    if all(flag is None for flag in spoken):
        return [True if role == "assistant" else None for role in roles]
    if None in spoken:
        raise bad(
            form, item, None, "some assistant turns have a loss flag and some have none", "flag all of them, or none"
        )
    return [flag if role == "assistant" else None for role, flag in zip(roles, flags, strict=True)]


def check_turn(turn: Turn, form: str, item: str, index: int) -> None:
    """Refuse what no stored conversation can carry.

    Raises:
        DataError: a structured thought or action (its text belongs in `content`), a loss flag missing on an assistant
            turn or set on another, or parts on a role that cannot have them.
    """
    if turn.thought is not None or turn.action is not None:
        cure = "build the item with `conversation_from_trajectory`, or with `tool_call_conversation` for function calls"
        raise bad(form, item, index, "carries a thought or action beside its text", cure)
    if turn.role == "assistant" and turn.loss is None:
        raise bad(form, item, index, "an assistant turn without loss", "set true or false")
    if turn.role != "assistant":
        if turn.loss is not None:
            raise bad(form, item, index, f"loss on a {turn.role} turn", "set it to null")
        if turn.reasoning is not None or turn.tool_calls:
            raise bad(form, item, index, f"reasoning or tool calls on a {turn.role} turn", "move them to the assistant")
    if turn.role != "tool" and turn.tool_call_id is not None:
        raise bad(form, item, index, f"tool_call_id on a {turn.role} turn", "only tool turns answer a call")


def put_meta(record: dict[str, Any], conversation: Conversation, form: str) -> dict[str, Any]:
    """Return the record with the conversation's `meta` as further top-level keys.

    Raises:
        DataError: `meta` uses a key that has a meaning in the format.
    """
    for key in conversation.meta:
        if key in RESERVED:
            raise bad(form, conversation.id, None, f"meta key {key!r} is a key of the format", "rename it")
    return record | conversation.meta


def from_value_turns(record: Mapping[str, Any], source: str, dialect: ValueFormat) -> Conversation:
    """Read one from/value record.

    Raises:
        DataError: names the item, the turn and the cure.
    """
    form, item = dialect.name, item_id(record, source)
    for key in ("tools", "system", "messages"):
        if record.get(key):
            cure = "make it the first turn" if key == "system" else "give the file as OpenAI messages (kind: messages)"
            raise bad(form, item, None, f"the format has no key {key!r}", cure)
    raw = record_turns(record, "conversations", form, item)
    roles = [_role(turn, dialect, item, index) for index, turn in enumerate(raw)]
    for index, turn in enumerate(raw):
        if not isinstance(turn.get("value"), str):
            raise bad(form, item, index, f"'value' is {turn.get('value')!r}, not text", "mend or delete that record")
        for key, value in turn.items():
            if key == "loss" and not dialect.flags and value is not None:
                raise bad(form, item, index, "has a loss flag", "read the file with kind: agentinstruct")
            if key not in ("from", "value", "loss") and value is not None:
                raise bad(form, item, index, f"unknown key {key!r}", "the format has from, value and loss; remove it")
    losses = settle_loss(form, item, roles, [turn.get("loss") for turn in raw])
    turns = tuple(
        Turn(role=role, content=turn["value"], loss=loss) for role, turn, loss in zip(roles, raw, losses, strict=True)
    )
    meta = {key: value for key, value in record.items() if key not in RESERVED}
    return Conversation(id=item, source=source, turns=turns, meta=meta)


def to_value_turns(conversation: Conversation, dialect: ValueFormat) -> dict[str, Any]:
    """Return the conversation as one from/value record.

    Raises:
        DataError: the conversation holds what the format cannot express; names the item, the turn and the cure.
    """
    form, item = dialect.name, conversation.id
    cure = "write it as OpenAI messages (`to_messages`)"
    if conversation.tools:
        raise bad(form, item, None, "the format cannot express tools", cure)
    if not conversation.turns:
        raise bad(form, item, None, "has no turns", "leave it out")
    entries: list[dict[str, Any]] = []
    for index, turn in enumerate(conversation.turns):
        check_turn(turn, form, item, index)
        extras = {
            "the tool role": turn.role == "tool",
            "reasoning": turn.reasoning is not None,
            "tool calls": bool(turn.tool_calls),
            "a speaker's name": turn.name is not None,
        }
        for what, present in extras.items():
            if present:
                raise bad(form, item, index, f"the format cannot express {what}", cure)
        entry = {"from": _NAME_OF[turn.role], "loss": turn.loss, "value": turn.content}
        if not dialect.flags:
            if turn.loss is False:
                untrained = "the format cannot express an untrained assistant turn"
                raise bad(form, item, index, untrained, "write it as AgentInstruct (`to_agentinstruct`)")
            del entry["loss"]
        entries.append(entry)
    return put_meta({"conversations": entries, "id": item}, conversation, form)


def _role(turn: Mapping[str, Any], dialect: ValueFormat, item: str, index: int) -> Role:
    name = turn.get("from")
    role = dialect.roles.get(name) if isinstance(name, str) else None
    if role is None:
        known = ", ".join(dialect.roles)
        cure = f"the format knows {known}; give tool conversations as OpenAI messages (kind: messages)"
        raise bad(dialect.name, item, index, f"'from' is {name!r}", cure)
    return role
