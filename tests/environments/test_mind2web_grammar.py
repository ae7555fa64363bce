import pytest
from hypothesis import given
from hypothesis import strategies as st

from agenttuning.environments.base import Parsed
from agenttuning.environments.mind2web.grammar import choose, format_reply, parse_reply
from agenttuning.errors import MalformedReply
from agenttuning.trajectory import Action

lines = st.text(st.characters(blacklist_categories=("C", "Z")), min_size=1, max_size=20)


@given(lines, st.sampled_from("BCDEF"), st.sampled_from(["TYPE", "SELECT"]), lines)
def test_a_reply_comes_back(thought, letter, operation, value):
    action = choose(letter, operation, value)
    if thought.startswith("Answer:") or thought.startswith("Thought:"):
        return
    assert parse_reply(format_reply(thought, action)) == Parsed(thought, action)


@pytest.mark.parametrize("action", [choose("A"), choose("B", "CLICK"), choose("F", "SELECT", "Pick up here")])
def test_the_form_of_the_paper(action):
    assert parse_reply(format_reply(None, action)) == Parsed(None, action)
    assert parse_reply(format_reply("Two\nlines.", action)) == Parsed("Two\nlines.", action)


def test_the_published_example():
    parsed = parse_reply("Thought: It is for pickup.\nAnswer: C.\nAction: SELECT\nValue: Pickup")
    assert parsed == Parsed("It is for pickup.", choose("C", "SELECT", "Pickup"))


def test_what_follows_is_ignored():
    reply = "Answer: A.\nAction: CLICK\nValue: x"
    assert parse_reply(reply).action == choose("A")
    assert parse_reply("Answer: B\nAction: CLICK\nValue: x\nAnswer: C.").action == choose("B", "CLICK")


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        ("I click it.", "No answer found"),
        ("Answer: G.", "Unknown choice 'G'"),
        ("Answer: the button", "Unknown choice"),
        ("Answer: B.", "needs a line `Action: CLICK`"),
        ("Answer: B.\nAction: SET\nValue: 1", "Unknown action 'SET'"),
        ("Answer: B.\nAction: TYPE", "needs a line `Value: `"),
        ("Answer: B.\nAction: SELECT\nValue:  ", "needs a line `Value: `"),
    ],
)
def test_a_malformed_reply_says_what_is_wrong(reply, message):
    with pytest.raises(MalformedReply, match=message):
        parse_reply(reply)


@pytest.mark.parametrize(
    ("thought", "action"),
    [
        ("x\nAnswer: B.", choose("A")),
        ("x", choose("B", "TYPE", "a\nb")),
        ("x", choose("B", "TYPE")),
        ("x", Action(name="click", arguments={})),
    ],
)
def test_what_the_grammar_cannot_express_is_refused(thought, action):
    with pytest.raises(ValueError, match="grammar"):
        format_reply(thought, action)
