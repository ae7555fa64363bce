"""AgentInstruct records: `{"conversations": [{"from", "loss", "value"}], "id"}`.

`from` is `human`, `gpt` or `system`; `loss` is null on all but `gpt` turns, true on trained ones and false on the
others (acknowledgement, demonstration, deliberate mistakes). The format of the published AgentInstruct data. It has
no tools, tool role, tool calls or reasoning: those are refused. Records without any flag train every `gpt` turn.
"""

from collections.abc import Mapping
from typing import Any

from agenttuning.conversations.value_turns import ValueFormat, from_value_turns, to_value_turns
from agenttuning.trajectory import Conversation

AGENTINSTRUCT = ValueFormat(
    name="AgentInstruct", roles={"human": "user", "gpt": "assistant", "system": "system"}, flags=True
)


def from_agentinstruct(record: Mapping[str, Any], source: str) -> Conversation:
    """Read one AgentInstruct record.

    Raises:
        DataError: the record is not in the format; names the item, the turn and the cure.
    """
    return from_value_turns(record, source, AGENTINSTRUCT)


def to_agentinstruct(conversation: Conversation) -> dict[str, Any]:
    """Return a conversation as an AgentInstruct record; `from_agentinstruct` gives it back.

    Raises:
        DataError: it holds tools, reasoning, tool turns or named speakers, which the format cannot express.
    """
    return to_value_turns(conversation, AGENTINSTRUCT)
