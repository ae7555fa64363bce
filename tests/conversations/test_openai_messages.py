"""OpenAI messages with tools, tool calls, the tool role and reasoning: in and out without loss."""

import orjson
import pytest
from conversation_strategies import message_conversations
from hypothesis import given

from agenttuning.conversations.openai_messages import from_messages, to_messages
from agenttuning.errors import DataError
from agenttuning.trajectory import Action, Conversation, ToolCall, Turn

CALL = {"id": "call_1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1, "b": 2}'}}
RECORD = {
    "id": "m1",
    "messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "1 + 2?", "name": "ann"},
        {"role": "assistant", "content": "", "reasoning_content": "I add.", "tool_calls": [CALL], "loss": False},
        {"role": "tool", "content": "3", "tool_call_id": "call_1"},
        {"role": "assistant", "content": "3", "loss": True},
    ],
    "tools": [{"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}],
}


def one(message, **more):
    return from_messages({"id": "x", "messages": [message], **more}, "s").turns[0]


@given(message_conversations)
def test_messages_give_back_every_conversation_they_can_express(c):
    assert from_messages(orjson.loads(orjson.dumps(to_messages(c))), "s") == c


def test_a_record_with_everything_is_read_and_written_unchanged():
    c = from_messages(RECORD, "s")
    assert c.turns[2].tool_calls == (ToolCall(id="call_1", name="add", arguments='{"a": 1, "b": 2}'),)
    assert c.turns[2].reasoning == "I add."
    assert [t.loss for t in c.turns] == [None, None, False, None, True]
    assert to_messages(c) == RECORD


def test_without_flags_every_assistant_message_is_trained():
    c = from_messages(
        {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a", "refusal": None}]}, "s"
    )
    assert [t.loss for t in c.turns] == [None, True]


def test_weight_of_fine_tuning_files_is_the_loss_flag():
    weights = [
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": "a", "weight": 0},
        {"role": "assistant", "content": "b", "weight": 1},
    ]
    assert [t.loss for t in from_messages({"messages": weights}, "s").turns] == [None, False, True]
    with pytest.raises(DataError, match=r"weight is 0\.5"):
        one({"role": "assistant", "content": "a", "weight": 0.5})
    with pytest.raises(DataError, match="both 'loss' and 'weight'"):
        one({"role": "assistant", "content": "a", "weight": 1, "loss": True})


def test_equivalent_spellings_are_read():
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert one({"role": "user", "content": parts}).content == "ab"
    assert one({"role": "assistant", "content": None, "tool_calls": [CALL]}).content == ""
    assert one({"role": "assistant", "content": "a", "reasoning": "r"}).reasoning == "r"
    as_object = {"function": {"name": "f", "arguments": {"x": 1}}}
    assert one({"role": "assistant", "content": None, "tool_calls": [as_object]}).tool_calls[0].arguments == '{"x":1}'
    record = {"messages": [{"role": "assistant", "content": "a"}], "tools": orjson.dumps(RECORD["tools"]).decode()}
    assert list(from_messages(record, "s").tools) == RECORD["tools"]


@pytest.mark.parametrize(
    ("message", "what"),
    [
        ({"role": "function", "content": "q"}, "role 'function'"),
        ({"role": "user", "content": None}, "content is not text"),
        ({"role": "user", "content": [{"type": "image_url", "image_url": {}}]}, "content is not text"),
        ({"role": "assistant", "content": "a", "audio": {"id": "1"}}, "'audio' cannot be expressed"),
        ({"role": "assistant", "content": "a", "function_call": {"name": "f"}}, "'function_call'"),
        ({"role": "assistant", "content": "a", "tool_calls": [{"type": "function"}]}, "not a function call"),
        ({"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": 3}}]}, "arguments of 'f'"),
        ({"role": "user", "content": "q", "tool_calls": [CALL]}, "tool calls on a user turn"),
        ({"role": "user", "content": "q", "tool_call_id": "1"}, "tool_call_id on a user turn"),
        ({"role": "user", "content": "q", "name": 3}, "'name' is 3"),
        ({"role": "user", "content": "q", "loss": True}, "user turn has loss true"),
        ({"role": "assistant", "content": "a", "reasoning": "r", "reasoning_content": "s"}, "differ"),
    ],
)
def test_what_a_turn_cannot_hold_is_refused_with_item_turn_and_cure(message, what):
    with pytest.raises(DataError, match=f"item 'x', turn 0: .*{what}.*;"):
        one(message)


@pytest.mark.parametrize(
    ("more", "what"),
    [
        ({"tools": "{not json"}, "'tools' is no JSON"),
        ({"tools": {"name": "f"}}, "'tools' is dict"),
        ({"system": "Be brief."}, "'system'.*first message"),
        ({"conversations": [1]}, "kind: sharegpt"),
    ],
)
def test_top_level_keys_of_another_meaning_are_refused(more, what):
    with pytest.raises(DataError, match=what):
        one({"role": "assistant", "content": "a"}, **more)


def test_a_turn_with_a_structured_action_is_refused_not_flattened():
    turn = Turn(role="assistant", content="a", loss=True, thought="t", action=Action(name="f"))
    with pytest.raises(DataError, match=r"item 'c'.*turn 0.*tool_call_conversation"):
        to_messages(Conversation(id="c", source="s", turns=(turn,)))
