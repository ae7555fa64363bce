from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agenttuning.environments.knowledge_graph.grammar import TOOLS, answer, call, format_reply, parse_call, parse_reply
from agenttuning.errors import MalformedReply

FIRST = st.from_regex(r"[A-Za-z0-9'\"(][A-Za-z0-9 .,'\"()&!-]*[A-Za-z0-9)!]", fullmatch=True) | st.from_regex(
    r"#[0-9]{1,2}", fullmatch=True
)
REST = st.from_regex(r"[a-z_]+(\.{1,2}[a-z_]+)*", fullmatch=True)
THOUGHT = st.none() | st.from_regex(r"[A-Z][a-z0-9 #.,]*[a-z.]", fullmatch=True)


@given(st.sampled_from(sorted(TOOLS)), FIRST, REST, THOUGHT)
def test_every_call_goes_through_text_and_back(tool, first, rest, thought):
    action = call(tool, *([first, rest][: len(TOOLS[tool])]))
    parsed = parse_reply(format_reply(thought, action))
    assert (parsed.thought, parsed.action) == (thought, action)


@given(st.integers(0, 99), THOUGHT)
def test_every_answer_goes_through_text_and_back(number, thought):
    parsed = parse_reply(format_reply(thought, answer(f"#{number}")))
    assert (parsed.thought, parsed.action) == (thought, answer(f"#{number}"))


@given(st.text() | st.tuples(st.sampled_from(["Action: ", "Final Answer: "]), st.text()).map("".join))
def test_any_reply_is_read_or_refused(reply):
    with suppress(MalformedReply):
        assert parse_reply(reply).action.name in (*TOOLS, "answer")


def test_names_may_hold_commas_and_brackets():
    action = parse_call("get_neighbors(Messiah (Dublin, 1742), music.album.releases)")
    assert action == call("get_neighbors", "Messiah (Dublin, 1742)", "music.album.releases")
    assert parse_call("get_relations(A, B (C), D)") == call("get_relations", "A, B (C), D")
    assert parse_call("get_neighbors(m.0h7h6,film.film.genre)") == call("get_neighbors", "m.0h7h6", "film.film.genre")


def test_the_first_action_counts_and_imagined_observations_are_cut():
    reply = "Thought: I look.\nAction: count(#1)\nObservation: variable #2\nThought: done\nFinal Answer: #2"
    parsed = parse_reply(reply)
    assert (parsed.thought, parsed.action) == ("I look.", call("count", "#1"))
    assert parse_reply("a\nFinal Answer: #2.\nAction: count(#1)").action == answer("#2")
    assert parse_reply("Find Answer: #7").action == answer("#7")
    with pytest.raises(MalformedReply, match="No action found"):
        parse_reply("Observation: x\nAction: count(#1)")


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        ("I think it is #2.", "No action found"),
        ("Action: get_neighbors #0 film", "one tool with its arguments in brackets"),
        ("Action: get_relations(#0", "one tool with its arguments in brackets"),
        ("Action: get_relations(#0) and then more", "one tool with its arguments in brackets"),
        ("Action: search(#0)", "no tool 'search'"),
        ("Action: get_neighbors(#0)", r"get_neighbors takes 2 argument\(s\)"),
        ("Action: get_neighbors(, film.film.genre)", "takes 2"),
        ("Action: count()", r"count takes 1 argument\(s\): count\(variable\)"),
        ("Final Answer: Accra", "must be one variable"),
        ("Final Answer:", "must be one variable"),
    ],
)
def test_a_malformed_reply_is_told_what_was_wrong(reply, message):
    with pytest.raises(MalformedReply, match=message):
        parse_reply(reply)


@pytest.mark.parametrize(
    ("thought", "action"),
    [
        ("a\nAction: count(#0)", call("count", "#1")),
        ("a\nObservation: b", call("count", "#1")),
        (None, call("get_neighbors", "#0", "a, b")),
        (None, call("get_relations", " x")),
    ],
)
def test_what_the_grammar_cannot_express_is_refused(thought, action):
    with pytest.raises(ValueError, match="cannot express"):
        format_reply(thought, action)
    with pytest.raises(ValueError, match="no action 'bash'"):
        format_reply(None, action.model_copy(update={"name": "bash"}))
