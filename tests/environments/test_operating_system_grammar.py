"""The grammar reads what it writes, and says what is wrong with anything else."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agenttuning.environments.operating_system.grammar import format_reply, parse_reply
from agenttuning.errors import MalformedReply
from agenttuning.trajectory import Action

TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\r"), min_size=1).map(str.strip).filter(bool)
THOUGHT = TEXT.filter(lambda text: not any(line.startswith("Act:") for line in text.split("\n")))
SCRIPT = TEXT.filter(lambda text: not any(line.startswith("```") for line in text.split("\n")))
PIECES = ["Think:", "Act:", " ", "\n", "bash", "answer(", ")", "finish", "```bash\n", "```", "ls"]
ACTION = st.one_of(
    SCRIPT.map(lambda script: Action(name="bash", arguments={"script": script})),
    TEXT.map(lambda answer: Action(name="answer", arguments={"answer": answer})),
    st.just(Action(name="finish")),
)


@given(st.none() | THOUGHT, ACTION)
def test_a_written_reply_is_read_back(thought: str | None, action: Action) -> None:
    parsed = parse_reply(format_reply(thought, action))
    assert (parsed.thought, parsed.action) == (thought, action)


@given(st.builds("".join, st.lists(st.sampled_from(PIECES) | st.text(max_size=3), max_size=8)))
def test_any_text_is_refused_or_has_a_canonical_form(reply: str) -> None:
    try:
        parsed = parse_reply(reply)
    except MalformedReply:
        return
    assert parse_reply(format_reply(parsed.thought, parsed.action)) == parsed


def test_the_paper_s_form() -> None:
    parsed = parse_reply("Think: I list the files.\n\nAct: bash\n\n```bash\nls -la\nwc -l x\n```")
    assert parsed.thought == "I list the files."
    assert parsed.action == Action(name="bash", arguments={"script": "ls -la\nwc -l x"})
    assert parse_reply("Think: Done.\n\nAct: answer(f(220))").action.arguments == {"answer": "f(220)"}


@pytest.mark.parametrize(
    ("reply", "complaint"),
    [
        ("", "no line that starts with `Act:`"),
        ("The answer is 7.", "no line that starts with `Act:`"),
        ("Sure!\nAct: finish", "must start with `Think:`"),
        ("Think: x\n\nAct: ls", "`ls` is not an act"),
        ("Think: x\n\nAct: bashful", "`bashful` is not an act"),
        ("Think: x\n\nAct:", "is not an act"),
        ("Think: x\n\nAct: bash\n\nls", "a block ```bash must follow"),
        ("Think: x\n\nAct: bash\n\n```sh\nls\n```", "a block ```bash must follow"),
        ("Think: x\n\nAct: bash\n\n```bash\nls", "not closed"),
        ("Think: x\n\nAct: bash\n\n```bash\n\n```", "is empty"),
        ("Think: x\n\nAct: bash\n\n```bash\nls\n```\nThe output of the OS:\n3", "Nothing may follow"),
        ("Think: x\n\nAct: bash\n\n```bash\nls\n```\n```bash\npwd\n```", "Nothing may follow"),
        ("Think: x\n\nAct: answer 7", "in brackets"),
        ("Think: x\n\nAct: answer(7) I am done", "in brackets"),
        ("Think: x\n\nAct: answer( )", "answer is empty"),
        ("Think: x\n\nAct: finish now", "Nothing may follow"),
    ],
)
def test_other_replies_are_refused_with_a_reason(reply: str, complaint: str) -> None:
    with pytest.raises(MalformedReply, match=complaint.replace("(", r"\(").replace(")", r"\)")):
        parse_reply(reply)


@pytest.mark.parametrize(
    ("thought", "action"),
    [
        ("a\nAct: finish", Action(name="finish")),
        ("a", Action(name="bash", arguments={"script": "cat <<X\n```\nX"})),
        ("a", Action(name="dance")),
    ],
)
def test_what_cannot_be_written_is_refused(thought: str, action: Action) -> None:
    with pytest.raises(ValueError, match="os:"):
        format_reply(thought, action)
