"""Secrets and personal data are masked alike everywhere in a trajectory; what nobody owns stays."""

import pytest
from episodes import agent, trajectory
from hypothesis import given
from hypothesis import strategies as st

from agenttuning.curation.scrub import Masks, scrub
from agenttuning.trajectory import Action, ToolCall, Turn


def masked(text: str) -> str:
    return Masks().text(text)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("write to jane.doe@gmail.com today", "EMAIL"),
        ("call +49 30 901820 now", "PHONE"),
        ("call (212) 736-5000 now", "PHONE"),
        ("card 4111 1111 1111 1111 please", "CARD"),
        ("ping 8.8.8.8 twice", "IP"),
        ("host 2001:4860:4860:0:0:0:0:8888 answers", "IP"),
        ("key AKIAIOSFODNN7EXAMPLF here", "SECRET"),
        ("token ghp_0123456789abcdefghijABCDEFGHIJ012345", "SECRET"),
        ("export KEY=sk-proj-abcdefghijklmnopqrstuvwx", "SECRET"),
        ("hf_abcdefghijklmnopqrstuvwxyzABCDEFGH", "SECRET"),
        ("jwt eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N", "SECRET"),
        ("clone https://jane:hunter2@git.lab/x", "SECRET"),
        ("-----BEGIN RSA PRIVATE KEY-----\nMIIE\n-----END RSA PRIVATE KEY-----", "SECRET"),
    ],
)
def test_secrets_and_personal_data_are_masked(text, kind):
    assert f"<{kind}_1>" in masked(text)


@pytest.mark.parametrize(
    "text",
    [
        "mail emily@example.com or root@localhost or eva@lund.test",
        "call 555-0134",
        "the sum is +1 23 45",
        "the cards 4111 1111 1111 1112 and 1234 5678 9012 3456",
        "127.0.0.1 and 192.168.1.7 and 10.0.0.1 and 203.0.113.9",
        "version 1.2.3.4.5 of 2023-09-09 12:30:45",
        "12345678901234567890 rows in 0.123456789012345",
        "ls -la /etc/passwd | grep root",
        "rows (28,), (1031,), (51933,)",
        "the class is sk-learn and the id is user_identifier_of_the_table",
    ],
)
def test_what_nobody_owns_and_what_is_none_stays(text):
    assert masked(text) == text


def test_equal_values_get_equal_masks_in_thought_action_and_observation():
    mail, other = "jane@gmail.com", "joe@gmail.com"
    turn = agent(f"mail {mail}", thought=f"I write to {mail}.").model_copy(
        update={
            "reasoning": f"{mail}?",
            "tool_calls": (ToolCall(id="1", name="mail", arguments=f'{{"to": "{mail}"}}'),),
            "action": Action(name="mail", arguments={"to": [mail, {"cc": other}], "n": 3}),
        }
    )
    found, counts = scrub(trajectory((turn, Turn(role="user", content=f"Sent to {other} and {mail}."))))
    own = found.turns[3]
    assert counts == {"email": 2}
    assert own.thought == "I write to <EMAIL_1>."
    assert own.reasoning == "<EMAIL_1>?"
    assert own.action.arguments == {"to": ["<EMAIL_1>", {"cc": "<EMAIL_2>"}], "n": 3}
    assert own.tool_calls[0].arguments == '{"to": "<EMAIL_1>"}'
    assert found.turns[4].content == "Sent to <EMAIL_2> and <EMAIL_1>."
    assert mail not in "".join(t.model_dump_json() for t in found.turns)


def test_a_trajectory_without_any_is_the_same_object():
    clean = trajectory()
    assert scrub(clean) == (clean, {})
    assert scrub(clean)[0] is clean


@given(st.text(max_size=80))
def test_masking_twice_changes_nothing_more(text):
    once = masked(text)
    assert masked(once) == once
