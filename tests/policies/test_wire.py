import email.utils
import time

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agenttuning.errors import ConfigurationError, InfrastructureError
from agenttuning.policies.base import Reply
from agenttuning.policies.wire import (
    CONTEXT,
    LONGEST_WAIT_S,
    REFUSED,
    Nonsense,
    chat_request,
    excerpt,
    read_failure,
    read_reply,
    read_retry_after,
    retry_wait,
)
from agenttuning.trajectory import ToolCall, Turn

text = st.text(max_size=60)


@given(failures=st.integers(1, 60), asked=st.none() | st.floats(0, 500), spread=st.floats(0, 0.999))
def test_a_wait_is_never_shorter_than_asked_and_bounded(failures, asked, spread):
    wait = retry_wait(failures, asked, spread)
    assert wait >= (asked or 0.0)
    assert 0.25 <= wait <= max(LONGEST_WAIT_S, (asked or 0.0) + 0.5)


def test_waits_grow_and_spread():
    assert [retry_wait(n, None, 0.999) for n in (1, 2, 3)] == pytest.approx([0.5, 1.0, 2.0], rel=0.01)
    assert retry_wait(3, None, 0.0) < retry_wait(3, None, 0.9)


def test_retry_after_in_every_form():
    assert read_retry_after({"Retry-After": "7"}) == 7.0
    assert read_retry_after({"retry-after-ms": "250", "Retry-After": "7"}) == 0.25
    date = email.utils.formatdate(time.time() + 20, usegmt=True)
    assert 15 < (read_retry_after({"Retry-After": date}) or 0) <= 20
    past = email.utils.formatdate(time.time() - 100, usegmt=True)
    assert read_retry_after({"Retry-After": past}) == 0.0
    assert read_retry_after({}) is None
    assert read_retry_after({"Retry-After": "soon"}) is None


@given(content=text, reasoning=text, arguments=text, prompt=st.integers(0, 10**6))
def test_a_completion_is_read_whole(content, reasoning, arguments, prompt):
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": arguments}}
    message = {"role": "assistant", "content": content, "reasoning_content": reasoning, "tool_calls": [call]}
    usage = {"prompt_tokens": prompt, "completion_tokens": 3}
    body = orjson.dumps({"choices": [{"message": message, "finish_reason": "length"}], "usage": usage})
    reply = read_reply(body, 1.5)
    assert (reply.content, reply.reasoning) == (content, reasoning or None)
    assert reply.tool_calls == (ToolCall(id="c1", name="f", arguments=arguments),)
    assert (reply.finish_reason, reply.prompt_tokens, reply.completion_tokens) == ("length", prompt, 3)
    assert reply.seconds == 1.5


def test_content_in_parts_absent_content_and_refusals():
    def read(message):
        return read_reply(orjson.dumps({"choices": [{"message": message, "finish_reason": "stop"}]}), 0.0)

    assert read({"content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}).content == "ab"
    assert read({"content": None}).content == ""
    assert read({"content": None}).prompt_tokens is None
    refused = read({"content": None, "refusal": "No."})
    assert (refused.content, refused.finish_reason) == ("No.", REFUSED)


@pytest.mark.parametrize(
    "body",
    [b"<html>hello</html>", b"", b"[]", b"{}", b'{"choices": []}', b'{"choices": [{"text": "x"}]}', b'"text"', b"null"],
)
def test_nonsense_is_told_with_an_excerpt(body):
    with pytest.raises(Nonsense, match="not a chat completion"):
        read_reply(body, 0.0)


@given(st.binary(max_size=200))
def test_no_answer_crashes_the_reader(body):
    with pytest.raises(Nonsense) as caught:
        read_reply(body, 0.0)
    assert len(str(caught.value)) < 2000


@pytest.mark.parametrize("status", [408, 409, 425, 429, 500, 502, 503, 504, 529])
def test_statuses_that_waiting_may_cure(status):
    error = read_failure(status, {"Retry-After": "3"}, b"busy")
    assert isinstance(error, InfrastructureError)
    assert error.retry_after == 3.0


@pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 405, 422])
def test_statuses_that_only_the_user_can_cure(status):
    error = read_failure(status, {}, b'{"error": {"message": "no such thing", "code": "bad"}}')
    assert isinstance(error, ConfigurationError)
    assert f"HTTP {status}: no such thing [bad]" in str(error)


def test_a_used_up_quota_is_not_waited_for():
    body = b'{"error": {"message": "You exceeded your quota", "code": "insufficient_quota"}}'
    assert isinstance(read_failure(429, {}, body), ConfigurationError)


@pytest.mark.parametrize(
    ("status", "body", "finish"),
    [
        (400, "This model's maximum context length is 4096 tokens. However, you requested 5000", CONTEXT),
        (400, '{"error": {"message": "too long", "code": "context_length_exceeded"}}', CONTEXT),
        (413, "Payload too large", CONTEXT),
        (400, '{"error": {"message": "filtered", "code": "content_filter"}}', REFUSED),
    ],
)
def test_refused_prompts_are_answers(status, body, finish):
    reply = read_failure(status, {}, body.encode())
    assert isinstance(reply, Reply)
    assert (reply.content, reply.finish_reason) == ("", finish)


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
