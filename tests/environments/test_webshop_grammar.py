import pytest
from hypothesis import given
from hypothesis import strategies as st

from agenttuning.environments.webshop.grammar import click, format_reply, parse_reply, search
from agenttuning.errors import MalformedReply
from agenttuning.trajectory import Action

WORDS = st.text("abcdefgh <>[]$.,:0123456789", min_size=1).map(str.strip).filter(bool)


@given(WORDS, st.none() | WORDS, st.booleans())
def test_what_is_written_is_read_back(argument, thought, clicks):
    action = click(argument) if clicks else search(argument)
    parsed = parse_reply(format_reply(thought, action))
    assert (parsed.thought, parsed.action) == (thought, action)


def test_the_papers_form_is_read():
    parsed = parse_reply("Thought:\nIt fits.\n\nAction:\nclick[buy now]")
    assert (parsed.thought, parsed.action) == ("It fits.", click("buy now"))
    assert parse_reply("I look first.\nAction: \n search[desk lamp]").action == search("desk lamp")
    assert parse_reply("Action:\nclick[size [xl]]") == parse_reply("action:\nclick[size [xl]]")
    assert parse_reply("Action:\nclick[size [xl]]").action == click("size [xl]")


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        ("I would like a lamp.", "no line `Action:`"),
        ("", "no line `Action:`"),
        ("Action:\nclick[a]\nAction:\nclick[b]", "2 lines `Action:`"),
        ("Action: click[a]", "on a line of its own"),
        ("Thought:\nx\n\nAction:\n", "no action below"),
        ("Action:\nbuy[a]", "'buy\\[a\\]' is no action"),
        ("Action:\nclick buy now", "square brackets"),
        ("Action:\nclick[ ]", "brackets of click\\[\\] are empty"),
        ("Action:\nclick[a]\nObservation: ...", "text after your action"),
    ],
)
def test_a_malformed_reply_is_told_what_is_wrong(reply, message):
    with pytest.raises(MalformedReply, match=message):
        parse_reply(reply)


@pytest.mark.parametrize(
    ("thought", "action"),
    [("x", click("a\nb")), ("Action:\nclick[a]", click("a")), ("x", Action(name="fly"))],
)
def test_what_the_grammar_cannot_express_is_refused(thought, action):
    with pytest.raises(ValueError, match="grammar"):
        format_reply(thought, action)
