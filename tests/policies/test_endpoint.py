import asyncio
import time

import pytest
from asking import ASK, Shared, ask, ask_many
from fake_endpoint import DROP, HANG, Fault, completion, fake_endpoint
from raw_server import http, raw_server

from agenttuning.errors import ConfigurationError, InfrastructureError
from agenttuning.policies.endpoint import EndpointPolicy
from agenttuning.policies.failures import Kind

pytestmark = pytest.mark.usefixtures("fast_retries")


def test_sampling_seed_and_key_are_sent_and_the_reply_is_read():
    with fake_endpoint(lambda body, n: completion("42", reasoning_content="6*7")) as fake:
        policy = EndpointPolicy(
            fake.base_url + "/", "toy-model", api_key="secret", temperature=0.3, top_p=0.9, max_tokens=5
        )
        reply = ask(policy, seed=17)
    sent = fake.requests[0]
    assert {k: sent[k] for k in ("model", "seed", "temperature", "top_p", "max_tokens")} == {
        "model": "toy-model",
        "seed": 17,
        "temperature": 0.3,
        "top_p": 0.9,
        "max_tokens": 5,
    }
    assert fake.headers[0]["Authorization"] == "Bearer secret"
    assert (reply.content, reply.reasoning, reply.finish_reason) == ("42", "6*7", "stop")
    assert (reply.prompt_tokens, reply.completion_tokens) == (11, 7)
    assert reply.seconds > 0
    assert "secret" not in str(policy.settings)


@pytest.mark.parametrize("fault", [Fault(429), Fault(408), Fault(409), Fault(500), Fault(503), DROP])
def test_failures_of_the_world_are_tried_again(fault):
    with fake_endpoint(lambda body, n: fault if n < 2 else "fine") as fake:
        assert ask(EndpointPolicy(fake.base_url, "toy-model")).content == "fine"
    assert len(fake.requests) == 3


def test_a_hanging_request_is_given_up_and_tried_again():
    with fake_endpoint(lambda body, n: HANG if n == 0 else "fine") as fake:
        policy = EndpointPolicy(fake.base_url, "toy-model", request_timeout_s=0.3)
        assert ask(policy).content == "fine"


def test_retry_after_is_honoured_by_all_requests():
    times = []

    def script(body, n):
        times.append(time.monotonic())
        return Fault(429, headers={"Retry-After": "1"}) if n == 0 else "fine"

    with fake_endpoint(script) as fake:
        policy = EndpointPolicy(fake.base_url, "toy-model")

        async def two():
            first = asyncio.create_task(policy.act(ASK, 0))
            await asyncio.sleep(0.2)
            await asyncio.gather(first, policy.act(ASK, 1))
            await policy.aclose()

        asyncio.run(two())
    assert len(times) == 3
    assert min(times[1:]) - times[0] >= 0.95


def test_patience_ends_with_an_error_that_names_url_and_cause():
    with fake_endpoint(lambda body, n: Fault(503, "overloaded")) as fake:
        policy = EndpointPolicy(fake.base_url, "toy-model", patience_s=0.3)
        with pytest.raises(InfrastructureError, match=r"HTTP 503: overloaded.*patience_s=0.3") as caught:
            ask(policy)
    assert fake.base_url in str(caught.value)
    assert policy.silent


def test_an_endpoint_that_asks_for_more_than_the_patience_is_given_up_at_once():
    with fake_endpoint(lambda body, n: Fault(429, headers={"Retry-After": "3600"})) as fake:
        policy = EndpointPolicy(fake.base_url, "toy-model", patience_s=30)
        started = time.monotonic()
        with pytest.raises(InfrastructureError, match="asks to wait 3600 s"):
            ask(policy)
        with pytest.raises(InfrastructureError, match="asks to wait"):
            ask(policy)
    assert time.monotonic() - started < 5
    assert len(fake.requests) == 1
    assert policy.silent


def test_an_endpoint_that_answers_the_others_is_not_silent(unused_url, monkeypatch):
    monkeypatch.setattr("agenttuning.policies.throttle.BEAT_S", 0.1)

    async def run(here, elsewhere):
        answering = asyncio.create_task(asyncio.sleep(0))
        if elsewhere is not None:
            answering = asyncio.create_task(keep_asking(elsewhere))
        with pytest.raises(InfrastructureError, match="Cannot connect"):
            await here.act(ASK, 1)
        answering.cancel()
        await here.aclose()
        return here.silent

    async def keep_asking(policy):
        try:
            while True:
                await policy.act(ASK, 1)
                await asyncio.sleep(0.02)
        finally:
            await policy.aclose()

    def cut_off(shared):
        return EndpointPolicy(unused_url, "toy-model", patience_s=1.0, shared=shared)

    assert asyncio.run(run(cut_off(Shared()), None))
    with fake_endpoint(lambda body, n: "fine") as fake:
        shared = Shared()
        other = EndpointPolicy(fake.base_url, "toy-model", shared=shared)
        assert not asyncio.run(run(cut_off(shared), other)), "the others are answered: play it elsewhere"


def test_nonsense_is_asked_for_a_little_and_then_told():
    with fake_endpoint(lambda body, n: {"greeting": "hello"}) as fake:
        with pytest.raises(InfrastructureError, match=r"not a chat completion.*ends in /v1"):
            ask(EndpointPolicy(fake.base_url, "toy-model"))
        assert len(fake.requests) == 3
    with fake_endpoint(lambda body, n: Fault(200, "<html>") if n == 0 else "fine") as fake:
        assert ask(EndpointPolicy(fake.base_url, "toy-model")).content == "fine"


@pytest.mark.parametrize(
    ("status", "cure"),
    [
        (401, "OPENAI_API_KEY"),
        (403, "OPENAI_API_KEY"),
        (404, "policy.model"),
        (400, "policy.temperature"),
        (402, "quota"),
        (302, "login page"),
    ],
)
def test_what_only_the_user_can_mend_stops_at_once(status, cure):
    with fake_endpoint(lambda body, n: Fault(status, "no")) as fake:
        with pytest.raises(ConfigurationError, match=cure):
            ask(EndpointPolicy(fake.base_url, "toy-model"))
        assert len(fake.requests) == 1


def test_a_prompt_beyond_the_context_is_a_reply():
    long = {"error": {"message": "This model's maximum context length is 10 tokens"}}
    with fake_endpoint(lambda body, n: Fault(400, long)) as fake:
        assert ask(EndpointPolicy(fake.base_url, "toy-model")).finish_reason == "context"


def test_models_that_name_the_limit_otherwise_are_obeyed_for_good():
    def script(body, n):
        if "max_tokens" in body:
            return Fault(400, "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead.")
        return "fine"

    with fake_endpoint(script) as fake:
        replies = ask_many(EndpointPolicy(fake.base_url, "toy-model", max_tokens=9), 4)
        assert [r.content for r in replies] == ["fine"] * 4
    assert all(r["max_completion_tokens"] == 9 for r in fake.requests if "max_tokens" not in r)


def test_one_policy_answers_at_several_temperatures():
    def script(body, n):
        return Fault(400, "Use 'max_completion_tokens' instead.") if "max_tokens" in body else "fine"

    with fake_endpoint(script) as fake:
        policy = EndpointPolicy(fake.base_url, "toy-model", temperature=0.7, max_tokens=9)

        async def run():
            for temperature in (1.0, None, 0.0):
                await policy.act(ASK, 5, temperature=temperature)
            await policy.aclose()

        asyncio.run(run())
        sent = [(r["temperature"], r.get("seed"), r.get("max_completion_tokens")) for r in fake.requests]
    assert sent == [(1.0, 5, None), (1.0, 5, 9), (0.7, 5, 9), (0.0, None, 9)]


def test_many_requests_are_in_flight_at_once():
    async def slow():
        await asyncio.sleep(0.3)
        return "fine"

    with fake_endpoint(lambda body, n: slow()) as fake:
        started = time.monotonic()
        ask_many(EndpointPolicy(fake.base_url, "toy-model"), 50)
        assert time.monotonic() - started < 3
        assert fake.most_in_flight > 25


def test_failures_are_counted_by_kind():
    script = [
        Fault(429, headers={"retry-after-ms": "1"}),
        Fault(503, "overloaded"),
        Fault(500),
        DROP,
        HANG,
        Fault(200, "<html>"),
        {"choices": []},
        Fault(409),
        {"choices": [{"message": 3}]},
    ]
    with fake_endpoint(lambda body, n: script[n] if n < len(script) else "fine") as fake:
        policy = EndpointPolicy(fake.base_url, "toy-model", request_timeout_s=0.3)
        assert ask(policy).content == "fine"
    assert policy.counts == {
        "requests": 10,
        "answers": 1,
        "retries": 9,
        Kind.RATE_LIMIT: 1,
        Kind.OVERLOADED: 1,
        Kind.SERVER_ERROR: 1,
        Kind.CONNECTION: 1,
        Kind.TIME_OUT: 1,
        Kind.NOT_JSON: 1,
        Kind.NO_CHOICES: 1,
        Kind.CONFLICT: 1,
        Kind.WRONG_SHAPE: 1,
    }
    with raw_server(http("200 OK", b'{"choices": [', length=500)) as url:
        policy = EndpointPolicy(url, "toy-model")
        with pytest.raises(InfrastructureError, match="breaks off"):
            ask(policy)
    assert policy.counts[Kind.TRUNCATED] == 3


def test_what_the_endpoint_declines_is_an_outcome_and_counted():
    blocked = Fault(400, {"error": {"message": "x", "code": "content_filter"}})
    long = Fault(400, "This model's maximum context length is 10 tokens")
    with fake_endpoint(lambda body, n: [blocked, long, "fine"][n]) as fake:
        policy = EndpointPolicy(fake.base_url, "toy-model")
        replies = [ask(policy) for _ in range(3)]
    assert [r.finish_reason for r in replies] == ["content_filter", "context", "stop"]
    assert policy.counts == {"requests": 3, "answers": 1, Kind.REFUSED: 1, Kind.CONTEXT: 1}


def test_one_odd_prompt_does_not_stop_a_run_but_a_wrong_recipe_does():
    odd = Fault(400, "messages: text content blocks must be non-empty")
    with fake_endpoint(lambda body, n: odd if n == 1 or n > 2 else "fine") as fake:
        policy = EndpointPolicy(fake.base_url, "toy-model")
        assert [ask(policy).finish_reason for _ in range(3)] == ["stop", "content_filter", "stop"]
        assert policy.counts[Kind.REJECTED] == 1
        assert [ask(policy).finish_reason for _ in range(4)] == ["content_filter"] * 4
        with pytest.raises(ConfigurationError, match="must be non-empty"):
            ask(policy)
        assert len(fake.requests) == 8


def test_patience_is_not_used_up_by_waiting_for_a_slot():
    async def slow(n):
        await asyncio.sleep(0.25)
        return Fault(503) if n == 7 else "fine"

    with fake_endpoint(lambda body, n: slow(n)) as fake:
        policy = EndpointPolicy(fake.base_url, "toy-model", concurrency=1, patience_s=1.0)
        assert [r.content for r in ask_many(policy, 8)] == ["fine"] * 8
