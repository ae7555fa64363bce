"""AgentInstruct and ShareGPT: lossless for what they can express, refused otherwise."""

import orjson
import pytest
from conversation_strategies import plain_conversations
from hypothesis import given

from agenttuning.conversations.agentinstruct import from_agentinstruct, to_agentinstruct
from agenttuning.conversations.sharegpt import from_sharegpt, to_sharegpt
from agenttuning.errors import DataError
from agenttuning.trajectory import Action, Conversation, ToolCall, Turn

PUBLISHED = {
    "conversations": [
        {"from": "human", "loss": None, "value": "rules"},
        {"from": "gpt", "loss": False, "value": "Ok."},
        {"from": "human", "loss": None, "value": "task"},
        {"from": "gpt", "loss": True, "value": "Think: a\nAct: finish"},
    ],
    "id": "os_0",
}


def conversation(*turns: Turn, **fields) -> Conversation:
    return Conversation(id="c1", source="s", turns=turns, **fields)


ASK = Turn(role="user", content="q")
SAY = Turn(role="assistant", content="a", loss=True)


@given(plain_conversations())
def test_agentinstruct_gives_back_every_conversation_it_can_express(c):
    record = to_agentinstruct(c)
    assert from_agentinstruct(orjson.loads(orjson.dumps(record)), "s") == c


@given(plain_conversations(trained_only=True))
def test_sharegpt_gives_back_every_conversation_it_can_express(c):
    record = to_sharegpt(c)
    assert from_sharegpt(orjson.loads(orjson.dumps(record)), "s") == c
    assert all(set(turn) == {"from", "value"} for turn in record["conversations"])


def test_a_published_record_is_read_and_written_unchanged():
    c = from_agentinstruct(PUBLISHED, "agent")
    assert [t.role for t in c.turns] == ["user", "assistant", "user", "assistant"]
    assert [t.loss for t in c.turns] == [None, False, None, True]
    assert to_agentinstruct(c) == PUBLISHED


@pytest.mark.parametrize(
    ("bad", "what"),
    [
        (conversation(ASK, SAY, tools=({"type": "function"},)), "tools"),
        (conversation(ASK, SAY.model_copy(update={"reasoning": "hm"})), "turn 1.*reasoning"),
        (conversation(ASK, Turn(role="tool", content="42")), "turn 1.*tool role"),
        (conversation(SAY.model_copy(update={"tool_calls": (ToolCall(id="1", name="f", arguments="{}"),)})), "calls"),
        (conversation(ASK.model_copy(update={"name": "Ann"}), SAY), "turn 0.*name"),
        (conversation(ASK, SAY.model_copy(update={"thought": "t", "action": Action(name="f")})), "turn 1.*thought"),
        (conversation(ASK, Turn(role="assistant", content="a")), "turn 1.*without loss"),
        (conversation(ASK.model_copy(update={"loss": False}), SAY), "turn 0.*loss on a user turn"),
        (conversation(ASK, SAY, meta={"tools": []}), "meta key 'tools'"),
        (conversation(), "no turns"),
    ],
)
@pytest.mark.parametrize("write", [to_agentinstruct, to_sharegpt])
def test_what_the_formats_cannot_express_is_refused_with_item_turn_and_cure(bad, what, write):
    with pytest.raises(DataError, match=f"item 'c1'.*{what}.*; "):
        write(bad)


def test_sharegpt_refuses_an_untrained_assistant_turn():
    with pytest.raises(DataError, match=r"turn 1.*untrained.*to_agentinstruct"):
        to_sharegpt(conversation(ASK, SAY.model_copy(update={"loss": False}), ASK, SAY))


def _gpt(**loss):
    return {"from": "gpt", "value": "a", **loss}


def _human(**more):
    return {"from": "human", "value": "q", **more}


@pytest.mark.parametrize("flagless", [{}, {"loss": None}])
@pytest.mark.parametrize("read", [from_agentinstruct, from_sharegpt])
def test_a_record_without_flags_trains_every_assistant_turn(read, flagless):
    c = read({"id": "x", "conversations": [_human(), _gpt(**flagless), _human(), _gpt(**flagless)]}, "s")
    assert [t.loss for t in c.turns] == [None, True, None, True]


def test_flags_on_some_assistant_turns_only_are_refused():
    with pytest.raises(DataError, match=r"item 'x'.*some have none.*flag all"):
        from_agentinstruct({"id": "x", "conversations": [_human(), _gpt(loss=False), _human(), _gpt()]}, "s")


def test_false_on_a_human_turn_means_untrained_and_true_is_refused():
    c = from_agentinstruct({"id": "x", "conversations": [_human(loss=False), _gpt(loss=True)]}, "s")
    assert c.turns[0].loss is None
    with pytest.raises(DataError, match=r"turn 0.*user turn has loss true"):
        from_agentinstruct({"id": "x", "conversations": [_human(loss=True), _gpt(loss=True)]}, "s")


@pytest.mark.parametrize(
    ("record", "what"),
    [
        ({"id": "x"}, "'conversations' is no list"),
        ({"id": "x", "conversations": []}, "no list of turns or an empty one"),
        ({"id": "x", "conversations": ["hi"]}, "turn 0.*is str"),
        ({"id": "x", "conversations": [{"from": "observation", "value": "v"}]}, "turn 0.*'observation'.*human"),
        ({"id": "x", "conversations": [{"from": "human", "value": None}]}, "turn 0.*'value' is None"),
        ({"id": "x", "conversations": [_human(weight=1.0)]}, "turn 0.*unknown key 'weight'"),
        ({"id": "x", "conversations": [_gpt(loss="yes")]}, "turn 0.*'yes'|has a loss flag"),
        ({"id": "x", "tools": [{"name": "f"}], "conversations": [_human()]}, "'tools'"),
        ({"id": "x", "system": "Be brief.", "conversations": [_human()]}, "'system'.*first turn"),
    ],
)
@pytest.mark.parametrize("read", [from_agentinstruct, from_sharegpt])
def test_records_of_another_shape_are_refused_with_item_and_place(record, what, read):
    with pytest.raises(DataError, match=f"item 'x'.*{what}"):
        read(record, "s")


def test_a_flagged_record_is_not_sharegpt():
    with pytest.raises(DataError, match=r"turn 1.*kind: agentinstruct"):
        from_sharegpt(PUBLISHED, "s")


def test_a_record_without_id_is_named_by_its_content_and_keeps_unknown_keys():
    record = {"conversations": [{"from": "user", "value": "q"}, {"from": "chatgpt", "value": "a"}], "model": "m"}
    first, again = from_sharegpt(record, "s"), from_sharegpt(dict(record), "s")
    assert first.id == again.id
    assert first.id.startswith("s_")
    assert first.meta == {"model": "m"}
    assert [t.role for t in first.turns] == ["user", "assistant"]
    assert from_sharegpt(record | {"model": "n"}, "s").id != first.id
