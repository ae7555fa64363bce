import pytest
from hypothesis import given
from hypothesis import strategies as st

from agenttuning.environments.base import Parsed
from agenttuning.environments.database.grammar import answer, format_reply, operation, parse_reply
from agenttuning.errors import MalformedReply
from agenttuning.trajectory import Action

PLAIN = st.text(st.characters(codec="utf-8", exclude_characters="`\r", exclude_categories=("Cs",)), min_size=1)
THOUGHTS = st.none() | PLAIN.map(str.strip).filter(lambda text: text and "Action:" not in text)
SQL = PLAIN.map(str.strip).filter(bool)
ACTIONS = st.one_of(SQL.map(operation), st.lists(st.text(), min_size=1, max_size=4).map(answer))


@given(THOUGHTS, ACTIONS)
def test_parse_inverts_format(thought, action):
    assert parse_reply(format_reply(thought, action)) == Parsed(thought, action)


@given(st.none() | st.text(), st.one_of(st.text().map(operation), st.lists(st.text()).map(answer)))
def test_what_the_grammar_cannot_express_is_refused(thought, action):
    try:
        reply = format_reply(thought, action)
    except ValueError:
        return
    assert parse_reply(reply) == Parsed(thought, action)


@given(st.text() | st.lists(st.sampled_from(["Action: Operation", "Action: Answer", "```sql", "```", "\n", "[", '"'])))
def test_any_text_is_parsed_or_refused(reply):
    text = reply if isinstance(reply, str) else "\n".join(reply)
    try:
        parsed = parse_reply(text)
    except MalformedReply:
        return
    assert parsed.action.name in ("operation", "answer")
    assert all(parsed.action.arguments.values())


def test_the_papers_grammar_is_read():
    reply = "I need it.\nAction: Operation\n```sql\nSELECT 1\n```"
    assert parse_reply(reply) == Parsed("I need it.", operation("SELECT 1"))
    assert parse_reply('It is 28.\nAction: Answer\nFinal Answer: ["28"]') == Parsed("It is 28.", answer(["28"]))
    assert parse_reply("Action: Answer\nFinal Answer: [3.10, 5]").action == answer(["3.10", "5"])


def test_the_first_action_and_the_first_block_count():
    reply = (
        "a\nAction: Operation\n```sql\nSELECT 1\n```\n```sql\nSELECT 2\n```\n"
        '[(1,)]\nAction: Answer\nFinal Answer: ["1"]'
    )
    assert parse_reply(reply).action == operation("SELECT 1")
    assert parse_reply('Action: Answer\nFinal Answer: ["1"]\nthat is all').action == answer(["1"])


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        ("SELECT 1", "No action found"),
        ("", "No action found"),
        ("I think Action: Operation\n```sql\nSELECT 1\n```", "No action found"),
        ("Action: Query\n```sql\nSELECT 1\n```", "Unknown action 'Query'"),
        ("Action: operation\n```sql\nSELECT 1\n```", "Unknown action 'operation'"),
        ("Action: Operation\nSELECT 1", "needs one closed block"),
        ("Action: Operation\n```\nSELECT 1\n```", "needs one closed block"),
        ("Action: Operation\n```sql\nSELECT 1", "needs one closed block"),
        ("Action: Operation\n```sql\n\n```", "block is empty"),
        ("Action: Answer\n28", "needs the line `Final Answer"),
        ("Action: Answer\nFinal Answer: 28", "one JSON list"),
        ("Action: Answer\nFinal Answer: ['28']", "one JSON list"),
        ('Action: Answer\nFinal Answer: {"a": 1}', "one JSON list"),
        ('Action: Answer\nFinal Answer: ["a"], ["b"]', "one JSON list"),
        ("Action: Answer\nFinal Answer: " + "[" * 100000, "one JSON list"),
        ("Action: Answer\nFinal Answer: []", "empty list"),
        ("Action: Answer\nFinal Answer: [null]", "not null"),
        ("Action: Answer\nFinal Answer: [true]", "not true"),
        ('Action: Answer\nFinal Answer: [["a"]]', 'not ["a"]'),
    ],
)
def test_malformed_replies_are_told_what_was_wrong(reply, message):
    with pytest.raises(MalformedReply) as error:
        parse_reply(reply)
    assert message in str(error.value)


def test_an_unknown_action_has_no_form():
    with pytest.raises(ValueError, match="not 'click'"):
        format_reply("x", Action(name="click"))
