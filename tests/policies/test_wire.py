import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agenttuning.policies.wire import LONGEST_WAIT_S, chat_request, excerpt, retry_wait
from agenttuning.trajectory import ToolCall, Turn


@given(failures=st.integers(1, 60), asked=st.none() | st.floats(0, 500), spread=st.floats(0, 0.999))
def test_a_wait_is_never_shorter_than_asked_and_bounded(failures, asked, spread):
    wait = retry_wait(failures, asked, spread)
    assert wait >= (asked or 0.0)
    assert 0.25 <= wait <= max(LONGEST_WAIT_S, (asked or 0.0) + 0.5)


def test_waits_grow_and_spread():
    assert [retry_wait(n, None, 0.999) for n in (1, 2, 3)] == pytest.approx([0.5, 1.0, 2.0], rel=0.01)
    assert retry_wait(3, None, 0.0) < retry_wait(3, None, 0.9)


def test_the_request_carries_turns_and_sampling():
    turns = (
        Turn(role="user", content="hi"),
        Turn(role="assistant", content="", loss=True, tool_calls=(ToolCall(id="1", name="f", arguments="{}"),)),
        Turn(role="tool", content="42", tool_call_id="1", name="f"),
    )
    body = orjson.loads(chat_request("m", turns, {"temperature": 0.5, "top_p": 0.9, "max_tokens": 8}, 17))
    assert (body["model"], body["seed"]) == ("m", 17)
    assert (body["temperature"], body["top_p"], body["max_tokens"]) == (0.5, 0.9, 8)
    assert body["messages"][0] == {"role": "user", "content": "hi"}
    assert body["messages"][1]["tool_calls"][0]["function"] == {"name": "f", "arguments": "{}"}
    assert body["messages"][2] == {"role": "tool", "content": "42", "tool_call_id": "1", "name": "f"}


def test_excerpts_are_short():
    assert excerpt(b"x" * 5000) == "x" * 297 + "..."
    assert excerpt(b'{"detail": "gone"}') == "gone"
