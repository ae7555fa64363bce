"""ShareGPT records: `{"conversations": [{"from", "value"}], "id"}`, every `gpt` turn trained.

`from` is `human`, `gpt` or `system`; `user`, `assistant` and `chatgpt`, which occur in the wild, are read as what
they mean. The format has no loss flags: a record with flags is AgentInstruct's, and an untrained assistant turn is
refused on output.
"""

from collections.abc import Mapping
from typing import Any

from agenttuning.conversations.value_turns import ValueFormat, from_value_turns, to_value_turns
from agenttuning.trajectory import Conversation

SHAREGPT = ValueFormat(
    name="ShareGPT",
    roles={
        "human": "user",
        "gpt": "assistant",
        "system": "system",
        "user": "user",
        "assistant": "assistant",
        "chatgpt": "assistant",
    },
    flags=False,
)


def from_sharegpt(record: Mapping[str, Any], source: str) -> Conversation:
    """Read one ShareGPT record.

    Raises:
        DataError: the record is not in the format; names the item, the turn and the cure.
    """
    return from_value_turns(record, source, SHAREGPT)


def to_sharegpt(conversation: Conversation) -> dict[str, Any]:
    """Return a conversation as a ShareGPT record; `from_sharegpt` gives it back.

    Raises:
        DataError: it holds untrained assistant turns, tools, reasoning or tool turns.
    """
    return to_value_turns(conversation, SHAREGPT)
