"""Secrets and personal data are masked alike everywhere in a trajectory; what nobody owns stays."""

import pytest
from episodes import agent, trajectory
from hypothesis import given
from hypothesis import strategies as st

from agenttuning.curation.scrub import Masks, scrub
from agenttuning.trajectory import Action, Call, Task, ToolCall, Turn


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
        ("password: hunter2", "SECRET"),
        ("DB_PASSWORD='c0rrect-horse'", "SECRET"),
        ('{"password": "Tr0ub4dor&3"}', "SECRET"),
        ("mysqldump --password=S3cretPw9 shop", "SECRET"),
        ("mysql -u root -pS3cretPw9 -e 'select 1'", "SECRET"),
        ("export API_KEY=9f8a7b6c5d4e3f2a1b0c9d8e7f6a5b4c", "SECRET"),
        ("stripe_secret: 9f8a7b6c5d4e3f2a1b0c", "SECRET"),
        ("Authorization: Bearer abcdefghijklmnopqrstuvwxyz123456", "SECRET"),
        ("Authorization: Basic amFuZTpodW50ZXIy", "SECRET"),
        ("aws_secret_access_key = wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", "SECRET"),
        ("my SSN is 123-45-6789.", "SSN"),
        ("IBAN DE89370400440532013000", "IBAN"),
        ("pay GB82 WEST 1234 5698 7654 32 today", "IBAN"),
        ("PING dns.google (8.8.8.8) 56(84) bytes", "IP"),
        ("cat < /dev/tcp/8.8.8.8/53", "IP"),
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
        "password: required, password: incorrect, password = input(), Password: $PASSWORD2",
        "password=os.environ['PW1'] and password = settings.db1.password",
        "password: <your password> and password=*** and password: ${PW_1}",
        "the hash of a password: sha256 or md5; minimum password length: 8",
        "passwd:         files systemd and /etc/passwd: ASCII text",
        "SELECT password FROM users WHERE token = 'open' AND key = 'count_of_all_the_rows'",
        "API_KEY=your-api-key-goes-here and api_key: changeme",
        "secret_key_file=/etc/ssl/private/server1.pem and access_key: ./keys/key1-of-the-day",
        "PWD=/home/user1 and OLDPWD=/srv/data12345678",
        "the bearer of good news, bearer authenticationrequired, Bearer <token>",
        "mysql -u root -p -e 'SELECT 1' and mysql -P 3306 -p$PASS1",
        "token: identifier_of_the_table and tokens: 1234567890123456",
        "000-12-3456, 666-12-3456, 912-34-5678, 123-00-6789, 123-45-0000, 1123-45-6789, 123-45-67890",
        "2023-09-2012 and part 123-45-6789-1",
        "DE89370400440532013001 and ISBN 9783161484100 and AB12 CDEF",
        "nginx 1.18.0.2 installed, nginx/1.18.0.2, tool-1.2.3.4, tool==1.2.3.4, version: 1.18.0.2, v1.2.3.4",
        "needs 5.4.3.2 or later",
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


def test_the_name_of_a_secret_stays_beside_its_mask():
    assert masked("-e DB_PASSWORD='hunter2' -e X=1") == "-e DB_PASSWORD='<SECRET_1>' -e X=1"
    assert masked("password: hunter2, then password=hunter2") == "password: <SECRET_1>, then password=<SECRET_1>"


def test_task_evidence_and_diagnostics_are_masked_with_the_turns():
    mail = "jane@gmail.com"
    given = trajectory(
        (agent(f"mail {mail}"), agent("joe@gmail.com")), evidence={"sent": [mail]}, diagnostics={"meta": {"by": mail}}
    )
    payload = {"tables": [{"rows": [["x", mail]]}]}
    task = Task(environment="os", split="train", instruction=f"Write to {mail}.", payload=payload)
    tokens = (Call(turn=3, token_ids=(1, 2), logprobs=(0.0, 0.0), tokenizer="t"),)
    found, counts = scrub(given.model_copy(update={"task": task, "calls": tokens}))
    assert counts == {"email": 2}
    assert found.task.instruction == "Write to <EMAIL_1>."
    assert found.task.payload == {"tables": [{"rows": [["x", "<EMAIL_1>"]]}]}
    assert (found.evidence, found.diagnostics) == ({"sent": ["<EMAIL_1>"]}, {"meta": {"by": "<EMAIL_1>"}})
    assert found.calls == (Call(turn=3),), "tokens spell what was masked"
    assert "gmail" not in found.model_dump_json()
    # Another attempt that met other values first is still one at the same task.
    other = scrub(trajectory((agent("joe@gmail.com"), agent(mail))).model_copy(update={"task": task}))[0]
    assert other.task.id == found.task.id != task.id


def test_a_trajectory_without_any_is_the_same_object():
    clean = trajectory()
    assert scrub(clean) == (clean, {})
    assert scrub(clean)[0] is clean


@given(st.text(max_size=80))
def test_masking_twice_changes_nothing_more(text):
    once = masked(text)
    assert masked(once) == once
