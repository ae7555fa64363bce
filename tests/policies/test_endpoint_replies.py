import email.utils
import math
import time

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agenttuning.policies.base import Reply
from agenttuning.policies.failures import NONSENSE, OUTCOMES, STRAIN, USER, WORLD, Failure, Kind, cure
from agenttuning.policies.replies import outcome_kind, read_answer, read_retry_after
from agenttuning.policies.wire import CONTEXT, LENGTH, REFUSED
from agenttuning.trajectory import ToolCall

text = st.text(max_size=60)


def read(body, status=200, headers=None, seconds=0.0):
    return read_answer(status, headers or {}, body if isinstance(body, bytes) else orjson.dumps(body), seconds)


def answer(message, usage=None, **choice):
    return {"choices": [{"message": message, "finish_reason": "stop", **choice}], "usage": usage}


def test_every_kind_is_in_one_group():
    groups = [WORLD, NONSENSE, USER, OUTCOMES]
    assert sum(map(len, groups)) == len(Kind) == len(frozenset().union(*groups))
    assert STRAIN < WORLD


@given(content=text, reasoning=text, arguments=text, prompt=st.integers(0, 10**6))
def test_a_completion_is_read_whole(content, reasoning, arguments, prompt):
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": arguments}}
    message = {"role": "assistant", "content": content, "reasoning_content": reasoning, "tool_calls": [call]}
    usage = {"prompt_tokens": prompt, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": prompt // 2}}
    reply = read(answer(message, usage, finish_reason="length"), seconds=1.5)
    assert (reply.content, reply.reasoning) == (content, reasoning or None)
    assert reply.tool_calls == (ToolCall(id="c1", name="f", arguments=arguments),)
    assert (reply.finish_reason, reply.prompt_tokens, reply.completion_tokens) == ("length", prompt, 3)
    assert (reply.cached_tokens, reply.seconds) == (prompt // 2, 1.5)


def test_content_in_parts_absent_content_and_refusals():
    assert read(answer({"content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]})).content == "ab"
    assert read(answer({"content": None})).content == ""
    assert read(answer({"content": None})).prompt_tokens is None
    refused = read(answer({"content": None, "refusal": "No."}))
    assert (refused.content, refused.finish_reason) == ("No.", REFUSED)
    assert outcome_kind(refused) is Kind.REFUSED
    assert outcome_kind(read(answer({"content": "x"}))) is None


@pytest.mark.parametrize(
    "usage",
    [{"prompt_tokens_details": {"cached_tokens": 5}}, {"prompt_cache_hit_tokens": 5}, {"cached_tokens": 5}],
)
def test_cached_tokens_under_all_names(usage):
    assert read(answer({"content": "x"}, usage)).cached_tokens == 5
    assert read(answer({"content": "x"}, {"prompt_tokens_details": None})).cached_tokens is None


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"<html>hello</html>", Kind.NOT_JSON),
        (b"", Kind.NOT_JSON),
        (b'{"choices": [{"mess', Kind.NOT_JSON),
        (b"[]", Kind.WRONG_SHAPE),
        (b'"text"', Kind.WRONG_SHAPE),
        (b"null", Kind.WRONG_SHAPE),
        (b"{}", Kind.NO_CHOICES),
        (b'{"choices": []}', Kind.NO_CHOICES),
        (b'{"choices": null}', Kind.NO_CHOICES),
        (b'{"choices": 3}', Kind.WRONG_SHAPE),
        (b'{"choices": [{"text": "x"}]}', Kind.WRONG_SHAPE),
        (b'{"choices": [{"message": {"content": 7}}]}', Kind.WRONG_SHAPE),
        (b'{"choices": [{"message": {"content": "x"}}], "usage": {"prompt_tokens": -1}}', Kind.WRONG_SHAPE),
        (b'{"choices": [{"message": {"content": "x"}}], "usage": {"prompt_tokens": "many"}}', Kind.WRONG_SHAPE),
        (b'{"error": {"message": "odd"}}', Kind.WRONG_SHAPE),
    ],
)
def test_nonsense_by_kind_with_an_excerpt(body, kind):
    failure = read(body)
    assert failure.kind is kind
    assert failure.kind in NONSENSE
    assert "not a chat completion" in failure.message
    assert failure.may_cost


@given(st.integers(100, 599), st.binary(max_size=200), st.dictionaries(st.sampled_from(["Retry-After", "Date"]), text))
def test_no_answer_crashes_the_reader(status, body, headers):
    failure = read(body, status, headers)
    assert isinstance(failure, Failure | Reply)
    if isinstance(failure, Failure):
        assert len(failure.message) < 2000


json = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**40), 2**40) | st.floats(allow_nan=False) | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=8,
)
keys = st.sampled_from(["choices", "message", "content", "error", "code", "usage", "prompt_tokens", "tool_calls"])


@settings(max_examples=60)
@given(st.sampled_from([200, 400, 429, 500]), st.dictionaries(keys, json | st.dictionaries(keys, json), max_size=4))
def test_no_json_crashes_the_reader(status, value):
    assert isinstance(read(value, status), Failure | Reply)


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (408, Kind.TIME_OUT),
        (409, Kind.CONFLICT),
        (425, Kind.CONFLICT),
        (429, Kind.RATE_LIMIT),
        (500, Kind.SERVER_ERROR),
        (502, Kind.SERVER_ERROR),
        (503, Kind.OVERLOADED),
        (504, Kind.TIME_OUT),
        (529, Kind.OVERLOADED),
    ],
)
def test_statuses_that_waiting_may_cure(status, kind):
    failure = read(b"busy", status, {"Retry-After": "3"})
    assert (failure.kind, failure.retry_after) == (kind, 3.0)
    assert failure.kind in WORLD


def test_overload_is_told_by_words_too():
    body = {"error": {"type": "overloaded_error", "message": "Overloaded"}}
    assert read(body, 500).kind is Kind.OVERLOADED
    assert read(body, 400).kind is Kind.OVERLOADED
    assert read(body).kind is Kind.OVERLOADED


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, Kind.REQUEST),
        (401, Kind.KEY),
        (402, Kind.QUOTA),
        (403, Kind.KEY),
        (404, Kind.MODEL),
        (405, Kind.MODEL),
        (422, Kind.REQUEST),
        (302, Kind.REDIRECT),
    ],
)
def test_statuses_that_only_the_user_can_cure(status, kind):
    failure = read(b'{"error": {"message": "no such thing", "code": "bad"}}', status)
    assert failure.kind is kind
    assert failure.kind in USER
    assert f"HTTP {status}" in failure.message
    if kind is not Kind.REDIRECT:
        assert "no such thing [bad]" in failure.message
    assert cure(failure, model="m", key_env="MY_KEY", has_key=False)


def test_a_used_up_quota_is_not_waited_for():
    body = b'{"error": {"message": "You exceeded your quota", "code": "insufficient_quota"}}'
    assert read(body, 429).kind is Kind.QUOTA


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        ({"code": 429, "message": "slow down"}, Kind.RATE_LIMIT),
        ({"code": "503", "message": "x"}, Kind.OVERLOADED),
        ({"type": "rate_limit_error", "message": "x"}, Kind.RATE_LIMIT),
        ({"status": "RESOURCE_EXHAUSTED", "message": "x"}, Kind.RATE_LIMIT),
        ({"type": "authentication_error", "message": "x"}, Kind.KEY),
        ({"code": "model_not_found", "message": "x"}, Kind.MODEL),
        ({"type": "invalid_request_error", "message": "x"}, Kind.REQUEST),
        ({"type": "server_error", "message": "x"}, Kind.SERVER_ERROR),
        ("Internal server error", Kind.SERVER_ERROR),
    ],
)
def test_an_error_in_an_answer_that_says_200(error, kind):
    assert read({"error": error}).kind is kind
    assert read({"choices": [{"finish_reason": "error", "error": error}]}).kind is kind


def test_a_context_error_in_an_answer_that_says_200_is_a_reply():
    assert read({"error": {"code": "context_length_exceeded", "message": "too long"}}).finish_reason == CONTEXT


@pytest.mark.parametrize(
    ("message", "parameter", "advice"),
    [
        ({"message": "Unsupported value", "param": "temperature"}, "temperature", "policy.temperature"),
        ({"message": "top_p is out of range"}, "top_p", "policy.top_p"),
        ({"message": "Unknown argument: seed"}, "seed", "policy.send_seed=false"),
        ({"message": "Use 'max_completion_tokens'", "param": "max_tokens"}, "max_completion_tokens", "max_tokens"),
        ({"message": "odd", "param": 3}, None, "policy.model"),
    ],
)
def test_a_refused_parameter_is_named_with_its_cure(message, parameter, advice):
    failure = read({"error": message}, 400)
    assert (failure.kind, failure.parameter) == (Kind.REQUEST, parameter)
    assert advice in cure(failure, model="m", key_env="K", has_key=True)


@pytest.mark.parametrize(
    ("status", "body", "finish"),
    [
        (400, "This model's maximum context length is 4096 tokens. However, you requested 5000", CONTEXT),
        (400, '{"error": {"message": "too long", "code": "context_length_exceeded"}}', CONTEXT),
        (400, "prompt is too long: 210000 tokens > 200000 maximum", CONTEXT),
        (400, "The input token count (12) exceeds the maximum number of tokens allowed (10)", CONTEXT),
        (422, "`inputs` tokens + `max_new_tokens` must be <= 4096", CONTEXT),
        (429, "Request too large for gpt-4o on tokens per min (TPM): Limit 30000, Requested 42104", CONTEXT),
        (413, "Payload too large", CONTEXT),
        (400, '{"error": {"message": "filtered", "code": "content_filter"}}', REFUSED),
        (400, "Your request was rejected by our safety system", REFUSED),
    ],
)
def test_declined_prompts_are_replies(status, body, finish):
    reply = read(body.encode(), status)
    assert isinstance(reply, Reply)
    assert (reply.content, reply.finish_reason) == ("", finish)
    assert outcome_kind(reply) in OUTCOMES


def test_an_answer_that_was_all_thought_is_one_that_reached_its_limit():
    body = (
        b'{"error": {"message": "Could not finish the message because max_tokens or model output limit was reached"}}'
    )
    reply = read(body, 400)
    assert (reply.content, reply.finish_reason, outcome_kind(reply)) == ("", LENGTH, None)


def test_a_token_limit_beyond_the_model_is_no_long_prompt():
    body = b"max_tokens is too large: 9000. This model supports at most 4096 completion tokens"
    assert read(body, 400).parameter == "max_tokens"


def test_retry_after_in_every_form():
    assert read_retry_after({"Retry-After": "7"}) == 7.0
    assert read_retry_after({"Retry-After": " 0.5 "}) == 0.5
    assert read_retry_after({"Retry-After": "1500ms"}) == 1.5
    assert read_retry_after({"Retry-After": "6m0s"}) == 360.0
    assert read_retry_after({"Retry-After": "1h2m3.5s"}) == 3723.5
    assert read_retry_after({"retry-after-ms": "250", "Retry-After": "7"}) == 0.25
    assert read_retry_after({"x-ms-retry-after-ms": "250"}) == 0.25
    assert read_retry_after({"retry-after-ms": "nan", "Retry-After": "7"}) == 7.0
    assert read_retry_after({"retry-after-ms": "-3"}) is None
    for absent in ({}, {"Retry-After": "soon"}, {"Retry-After": ""}, {"Retry-After": "-3"}, {"Retry-After": "nan"}):
        assert read_retry_after(absent) is None


def test_a_date_is_read_by_the_clock_of_the_one_who_wrote_it():
    now = time.time()
    date = email.utils.formatdate(now + 20, usegmt=True)
    assert 15 < read_retry_after({"Retry-After": date}) <= 20
    past = email.utils.formatdate(now - 100, usegmt=True)
    assert read_retry_after({"Retry-After": past}) == 0.0
    theirs = {
        "Retry-After": email.utils.formatdate(now - 3580, usegmt=True),
        "Date": email.utils.formatdate(now - 3600, usegmt=True),
    }
    assert read_retry_after(theirs) == 20.0


@given(st.text(max_size=40))
def test_no_header_crashes_the_clock(value):
    for name in ("Retry-After", "retry-after-ms", "Date"):
        wait = read_retry_after({"Retry-After": "Fri, 31 Dec 2038 23:59:59 GMT", name: value})
        assert wait is None or (wait >= 0 and math.isfinite(wait))
