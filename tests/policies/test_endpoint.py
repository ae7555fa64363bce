import asyncio
import time

import pytest
from fake_endpoint import DROP, HANG, Fault, completion, fake_endpoint

from agenttuning.errors import ConfigurationError, InfrastructureError
from agenttuning.policies.endpoint import EndpointPolicy, check_endpoint, list_models, wait_until_ready
from agenttuning.recipe import PolicySpec
from agenttuning.trajectory import Turn

ASK = (Turn(role="user", content="What is 6 times 7?"),)


def ask(policy, turns=ASK, seed=1):
    async def once():
        try:
            return await policy.act(turns, seed)
        finally:
            await policy.aclose()

    return asyncio.run(once())


def ask_many(policy, count):
    async def many():
        try:
            return await asyncio.gather(*(policy.act(ASK, i) for i in range(count)))
        finally:
            await policy.aclose()

    return asyncio.run(many())


@pytest.fixture(autouse=True)
def _fast(monkeypatch):
    monkeypatch.setattr("agenttuning.policies.wire.FIRST_WAIT_S", 0.02)


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


def test_many_requests_are_in_flight_at_once():
    async def slow():
        await asyncio.sleep(0.3)
        return "fine"

    with fake_endpoint(lambda body, n: slow()) as fake:
        started = time.monotonic()
        ask_many(EndpointPolicy(fake.base_url, "toy-model"), 50)
        assert time.monotonic() - started < 3
        assert fake.most_in_flight > 25


def test_an_endpoint_that_is_down_is_named_with_the_cure(unused_url):
    spec = PolicySpec(kind="endpoint", base_url=unused_url, model="toy-model")
    with pytest.raises(ConfigurationError, match="start the server") as caught:
        asyncio.run(check_endpoint(spec))
    assert unused_url in str(caught.value)


def test_a_check_tells_an_unknown_model_and_nonsense_apart():
    missing = Fault(404, {"error": {"message": "The model does not exist"}})
    with fake_endpoint(lambda body, n: missing, models=("toy-large", "other")) as fake:
        spec = PolicySpec(kind="endpoint", base_url=fake.base_url, model="toy-larg")
        with pytest.raises(ConfigurationError, match="did you mean 'toy-large'"):
            asyncio.run(check_endpoint(spec))
        with pytest.raises(ConfigurationError, match="it serves: toy-large, other"):
            asyncio.run(check_endpoint(spec.model_copy(update={"model": "zzz"})))
    with fake_endpoint(lambda body, n: Fault(200, "<html>welcome</html>")) as fake:
        spec = PolicySpec(kind="endpoint", base_url=fake.base_url, model="toy-model")
        with pytest.raises(ConfigurationError, match="no chat model answers"):
            asyncio.run(check_endpoint(spec))
    with fake_endpoint(lambda body, n: "Hello!") as fake:
        asyncio.run(check_endpoint(PolicySpec(kind="endpoint", base_url=fake.base_url, model="toy-model")))
        assert fake.requests[0]["max_tokens"] == 1


def test_the_key_comes_from_the_variable_that_the_recipe_names(monkeypatch):
    monkeypatch.setenv("MY_KEY", "from-environment")
    with fake_endpoint(lambda body, n: "Hello!") as fake:
        spec = PolicySpec(kind="endpoint", base_url=fake.base_url, model="toy-model", api_key_env="MY_KEY")
        asyncio.run(check_endpoint(spec))
        assert fake.headers[0]["Authorization"] == "Bearer from-environment"


def test_a_spec_without_url_or_model_is_refused():
    with pytest.raises(ConfigurationError, match=r"policy.base_url \(got None\)"):
        EndpointPolicy.from_spec(PolicySpec(kind="local"))


def test_waiting_for_an_endpoint(unused_url):
    with fake_endpoint(lambda body, n: "x", models=("a", "b")) as fake:
        assert wait_until_ready(fake.base_url, 5) == ["a", "b"]
        assert asyncio.run(list_models(fake.base_url)) == ["a", "b"]
    with pytest.raises(InfrastructureError, match="lists no model"):
        wait_until_ready(unused_url, 0.1)


@pytest.fixture
def unused_url():
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    return f"http://127.0.0.1:{port}/v1"
