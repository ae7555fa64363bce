import pytest
from hypothesis import given
from hypothesis import strategies as st

from agenttuning.environments.alfworld.grammar import (
    FORMS,
    command_text,
    format_reply,
    nearest,
    parse_reply,
    structured,
)
from agenttuning.errors import MalformedReply
from agenttuning.trajectory import Action

names = st.builds(
    lambda kind, number: f"{kind} {number}", st.sampled_from(["mug", "shelf", "soapbar"]), st.integers(1, 20)
)
words = st.text(st.characters(categories=("Ll", "Nd"), max_codepoint=127), min_size=1, max_size=8)
thoughts = st.lists(words, min_size=1, max_size=12).map(" ".join)


@st.composite
def known_actions(draw):
    name = draw(st.sampled_from(sorted(FORMS)))
    slots = [slot for slot in ("object", "receptacle", "name") if f"{{{slot}}}" in FORMS[name][1]]
    return Action(name=name, arguments={slot: draw(names) for slot in slots})


@given(action=known_actions(), thought=st.none() | thoughts)
def test_known_actions_survive_formatting_and_parsing(action, thought):
    parsed = parse_reply(format_reply(thought, action))
    assert (parsed.thought, parsed.action) == (thought, action)


@given(text=thoughts)
def test_any_command_text_survives_as_the_paper_reads_it(text):
    parsed = parse_reply(f"THOUGHT: so\nACTION: {text}")
    assert command_text(parsed.action) == text
    assert parse_reply(format_reply(parsed.thought, parsed.action)) == parsed


@given(reply=st.text(max_size=200))
def test_every_reply_is_parsed_or_refused_with_a_reason(reply):
    try:
        parsed, refusal = parse_reply(reply), "ACTION"
    except MalformedReply as error:
        parsed, refusal = None, str(error)
    assert "ACTION" in refusal or "THOUGHT" in refusal
    assert parsed is None or parse_reply(format_reply(parsed.thought, parsed.action)) == parsed


def test_command_forms_are_structured():
    assert structured("Take  Mug 1 from shelf 2") == Action(
        name="take", arguments={"object": "mug 1", "receptacle": "shelf 2"}
    )
    assert structured("put mug 1 in/on shelf 2").name == "put"
    assert structured("dance") == Action(name="command", arguments={"text": "dance"})


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        ("I go to cabinet 1.", "no action"),
        ("THOUGHT: I look.", "no action"),
        ("ACTION: look\nACTION: look", "2 actions"),
        ("ACTION:   ", "empty"),
        ("ACTION: look\nYou see a mug.", "after your action"),
        ("Sure!\nACTION: look", "before its labels"),
        ("THOUGHT: a\nTHOUGHT: b\nACTION: look", "2 thoughts"),
    ],
)
def test_malformed_replies_say_what_is_wrong(reply, reason):
    with pytest.raises(MalformedReply, match=reason):
        parse_reply(reply)


def test_actions_of_no_known_form_are_refused():
    with pytest.raises(MalformedReply, match="no action 'fly'"):
        command_text(Action(name="fly"))
    with pytest.raises(MalformedReply, match="receptacle"):
        command_text(Action(name="go_to"))


ADMISSIBLE = ("examine shelf 1", "go to fridge 1", "go to shelf 2", "inventory", "look", "take mug 1 from shelf 1")


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("go to the fridge 1", "go to fridge 1"),
        ("take the mug 1 from the shelf 1", "take mug 1 from shelf 1"),
        ("look around", "look"),
        ("", None),
        ("dance", None),
    ],
)
def test_nearest_is_by_bleu_above_the_threshold(command, expected):
    assert nearest(command, ADMISSIBLE) == expected


@given(command=st.sampled_from(ADMISSIBLE))
def test_an_admissible_command_is_its_own_nearest(command):
    assert nearest(command, ADMISSIBLE) == command


def test_nearest_of_nothing_is_nothing():
    assert nearest("look", ()) is None
