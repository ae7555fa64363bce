"""Thought and action of recorded replies in the paper's six grammars, plain ReAct, and tool calls."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agenttuning.conversations.replies import split_reply, split_turn
from agenttuning.environments.base import make_environment
from agenttuning.errors import MalformedReply
from agenttuning.trajectory import Action, ToolCall, Turn


def act(action: str, **arguments) -> Action:
    return Action(name=action, arguments=arguments)


@pytest.mark.parametrize(
    ("environment", "text", "thought", "action"),
    [
        ("os", "Think: I list.\n\nAct: bash\n\n```bash\nls\n```", "I list.", act("bash", script="ls")),
        ("os", "Think: a\n\nAct: answer(f(2))", "a", act("answer", answer="f(2)")),
        ("os", "Think: done\n\nAct: finish", "done", act("finish")),
        ("os", "I only talk.", "I only talk.", None),
        ("db", "Count.\nAction: Operation\n```sql\nSELECT 1;\n```", "Count.", act("operation", sql="SELECT 1;")),
        ("db", 'Action: Answer\nFinal Answer: ["a", 2]', None, act("answer", values=["a", "2"])),
        ("db", "So.\nAction: Answer\nFinal Answer: none", "So.", act("answer", values=["none"])),
        ("db", "Action: Operation\nSELECT 1", None, None),
        (
            "kg",
            "Thought: From #2.\nAction: get_neighbors(#2, a.b.c)\nObservation: made up",
            "From #2.",
            act("get_neighbors", variable="#2", relation="a.b.c"),
        ),
        ("kg", "Thought: It is #3.\nFinal Answer: #3", "It is #3.", act("answer", variable="#3")),
        ("kg", "Action: unknown(#1)", "Action: unknown(#1)", None),
        (
            "alfworld",
            "THOUGHT: A mug.\n ACTION: take mug 1 from shelf 2",
            "A mug.",
            act("take", object="mug 1", receptacle="shelf 2"),
        ),
        ("alfworld", "ACTION: Go to  cabinet 1", None, act("go_to", receptacle="cabinet 1")),
        ("alfworld", "ACTION: dance", None, act("command", text="dance")),
        ("webshop", "Thought:\nA hat.\n\nAction:\nsearch[red hat]", "A hat.", act("search", keywords="red hat")),
        ("webshop", "Action:\nclick[b0abc]", None, act("click", label="b0abc")),
        (
            "mind2web",
            "Thought: Yes.\nAnswer: C.\nAction: TYPE\nValue: 4 pm",
            "Yes.",
            act("choose", letter="C", operation="TYPE", value="4 pm"),
        ),
        ("mind2web", "Answer: A.", None, act("choose", letter="A", operation="", value="")),
        ("mind2web", "Answer: B.\nAction: SET\nValue: 9", None, None),
        ("mine", "Thought: I go.\nAction: north", "I go.", act("text", text="north")),
        ("mine", "Hello.", None, act("message", text="Hello.")),
        ("mine", "", None, None),
    ],
)
def test_replies_are_split(environment, text, thought, action):
    assert split_reply(environment, text) == (thought, action)


REPLIES = {
    "os": [
        "Think: I list.\n\nAct: bash\n\n```bash\nls\n```",
        "Think: So.\n\nAct: answer(12)",
        "Think: So.\n\nAct: finish",
    ],
    "db": ["Count.\nAction: Operation\n```sql\nSELECT 1\n```", 'So.\nAction: Answer\nFinal Answer: ["a"]'],
    "kg": ["Thought: From #2.\nAction: get_neighbors(#2, a.b.c)", "Thought: It is #3.\nFinal Answer: #3"],
    "alfworld": ["THOUGHT: A mug.\nACTION: take mug 1 from shelf 2", "THOUGHT: On.\nACTION: go to cabinet 1"],
    "webshop": ["Thought:\nA hat.\n\nAction:\nsearch[red hat]", "Thought:\nThis.\n\nAction:\nclick[b0abc]"],
    "mind2web": [
        f"Thought: It is {letter}.\nAnswer: {letter}.\n{rest}"
        for letter in "ABF"
        for rest in (
            "Action: CLICK",
            "Action: TYPE\nValue: 4 pm",
            "Action: SELECT\nValue: b\nmore",
            "Action: CLICK\nValue: x",
        )
    ],
}


@pytest.mark.parametrize("environment", REPLIES)
def test_a_recorded_reply_reads_as_the_environment_reads_it(environment):
    with make_environment(environment) as built:
        for text in REPLIES[environment]:
            parsed = built.parse(text)
            assert split_reply(environment, text) == (parsed.thought, parsed.action), text


@pytest.mark.parametrize(
    "text", ["Answer: B.", "Answer: G.\nAction: CLICK", "Answer: B.\nAction: SET", "Answer: C.\nAction: TYPE"]
)
def test_what_mind2web_refuses_is_no_action(text):
    with make_environment("mind2web") as built, pytest.raises(MalformedReply):
        built.parse(text)
    assert split_reply("mind2web", text)[1] is None


def test_a_tool_call_is_the_action_and_the_text_its_thought():
    call = ToolCall(id="1", name="look", arguments='{"at": "door"}')
    turn = Turn(role="assistant", content="I look.", loss=True, tool_calls=(call,))
    split = split_turn("mine", turn)
    assert (split.thought, split.action) == ("I look.", act("look", at="door"))
    assert split_turn("mine", turn.model_copy(update={"reasoning": "Why not."})).thought == "Why not."
    listed = call.model_copy(update={"arguments": "[1]"})
    assert split_turn("mine", turn.model_copy(update={"tool_calls": (listed,)})).action == act("look", value=[1])
    broken = call.model_copy(update={"arguments": "{"})
    assert split_turn("mine", turn.model_copy(update={"tool_calls": (broken,)})).action is None


def test_other_roles_stay_as_they_are():
    turn = Turn(role="user", content="Action: north")
    assert split_turn("os", turn) is turn


@given(st.sampled_from(["os", "db", "kg", "alfworld", "webshop", "mind2web", "other"]), st.text(max_size=120))
def test_any_text_is_split_without_an_error(environment, text):
    thought, action = split_reply(environment, text)
    assert thought is None or thought == thought.strip() != ""
    assert action is None or action.name
