import asyncio
import re
import time

import orjson
import pytest
from fake_endpoint import DROP, HANG, Fault, completion, fake_endpoint
from raw_server import http, raw_server, self_signed

from agenttuning.errors import BudgetExceeded, ConfigurationError, InfrastructureError
from agenttuning.policies.budget import Limits
from agenttuning.policies.connection import list_models, wait_until_ready
from agenttuning.policies.endpoint import EndpointPolicy, check_endpoint
from agenttuning.policies.failures import Kind
from agenttuning.policies.sharing import Sharing, local_link
from agenttuning.recipe import PolicySpec, Prices
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
    monkeypatch.setattr("agenttuning.policies.wire.LONGEST_WAIT_S", 0.2)
    monkeypatch.setattr("agenttuning.policies.endpoint.CHECK_PATIENCE_S", 0.5)


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

    class Shared:
        """The run's shared state in this process, called as a Ray actor is."""

        def __init__(self):
            self.exchange = self
            self.remote = local_link(Sharing(Limits()))

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
        assert fake.requests[0]["max_tokens"] == 16


def test_a_check_accepts_a_model_that_only_thinks():
    body = {"error": {"message": "Could not finish the message because max_tokens or model output limit was reached."}}
    with raw_server(http("400 Bad Request", orjson.dumps(body))) as url:
        asyncio.run(check_endpoint(PolicySpec(kind="endpoint", base_url=url, model="toy-model")))


def test_the_key_comes_from_the_variable_that_the_recipe_names(monkeypatch):
    monkeypatch.setenv("MY_KEY", "from-environment")
    with fake_endpoint(lambda body, n: "Hello!") as fake:
        spec = PolicySpec(kind="endpoint", base_url=fake.base_url, model="toy-model", api_key_env="MY_KEY")
        asyncio.run(check_endpoint(spec))
        assert fake.headers[0]["Authorization"] == "Bearer from-environment"


def test_a_key_with_a_line_break_is_mended_at_its_end_and_refused_inside(monkeypatch):
    with fake_endpoint(lambda body, n: "Hello!") as fake:
        spec = PolicySpec(kind="endpoint", base_url=fake.base_url, model="toy-model", api_key_env="MY_KEY")
        monkeypatch.setenv("MY_KEY", "from-a-file\n")
        asyncio.run(check_endpoint(spec))
        assert fake.headers[0]["Authorization"] == "Bearer from-a-file"
        monkeypatch.setenv("MY_KEY", "two\nlines")
        assert re.search(r"cannot be sent in a header.*variable MY_KEY", check(fake.base_url, api_key_env="MY_KEY"))


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


def check(base_url, model="toy-model", **more):
    spec = PolicySpec(kind="endpoint", base_url=base_url, model=model, request_timeout_s=0.5, **more)
    with pytest.raises(ConfigurationError) as caught:
        asyncio.run(check_endpoint(spec))
    return str(caught.value)


HTML = http("200 OK", b"<html><title>Sign in</title></html>", "Content-Type: text/html")
WRONG = {
    "hangs": (None, r"http://127.* \(no answer within policy.request_timeout_s=0.5\); start the server"),
    "html": (HTML, r"not a chat completion \(an HTML page\).*Sign in.*correct policy.base_url"),
    "error in 200": (
        http("200 OK", b'{"error": {"message": "The model toy does not exist", "code": "model_not_found"}}'),
        r"The model toy does not exist.*check policy.model \('toy-model'\)",
    ),
    "no key": (
        http("401 Unauthorized", b'{"error": {"message": "Missing bearer"}}'),
        r"HTTP 401: Missing bearer.*environment variable OPENAI_API_KEY \(it is not set\)",
    ),
    "login": (
        http("302 Found", b"", "Location: https://login.example/?next=%2F"),
        r"redirects to 'https://login.example/\?next=%2F'.*set policy.base_url to where the chat API itself is",
    ),
    "truncated": (
        http("200 OK", b'{"choices": [', length=500),
        r"the answer breaks off.*correct policy.base_url",
    ),
    "no http": (b"SSH-2.0-OpenSSH_9.2\r\n", r"no chat model answers at http.*SSH-2.0.*correct policy.base_url"),
    "parameter": (
        http(
            "400 Bad Request",
            b'{"error": {"message": "Only the default (1) is supported", "param": "temperature"}}',
        ),
        r"Only the default \(1\).*correct policy.temperature",
    ),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_is_wrong_with_an_endpoint_is_told_with_its_cure(what, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    answer, message = WRONG[what]
    with raw_server(answer) as url:
        started = time.monotonic()
        assert re.search(message, check(url), re.S), check(url)
        assert time.monotonic() - started < 8


def test_tls_mistakes_are_told_with_their_cure(tmp_path):
    with raw_server(HTML, self_signed(tmp_path)) as url:
        assert re.search(r"certificate is not accepted.*SSL_CERT_FILE", check(url))
        assert re.search(r"no chat model answers.*correct policy.base_url", check(url.replace("https", "http")))
    with raw_server(HTML) as url:
        assert re.search(r"does not speak TLS.*http:// in policy.base_url", check(url.replace("http", "https")))


@pytest.mark.parametrize(
    "url", ["localhost:8000/v1", "ftp://localhost/v1", "http://", "http://localhost:99999/v1", "/v1"]
)
def test_what_is_no_url_is_told_with_its_cure(url):
    assert re.search(r"not a usable URL.*correct policy.base_url: http:// or https://", check(url))


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


def test_tokens_and_cost_are_in_the_reply_and_in_the_budget():
    usage = {"prompt_tokens": 1000, "completion_tokens": 10, "prompt_tokens_details": {"cached_tokens": 600}}
    with fake_endpoint(lambda body, n: completion("42") | {"usage": usage}) as fake:
        spec = PolicySpec(
            kind="endpoint",
            base_url=fake.base_url,
            model="toy-model",
            prices={"prompt": 2.0, "completion": 8.0, "cached": 1.0},
            budget={"money": 100.0, "requests_per_minute": 600},
        )
        policy = EndpointPolicy.from_spec(spec, spent=1.0)
        reply = ask(policy)
    assert (reply.prompt_tokens, reply.completion_tokens, reply.cached_tokens) == (1000, 10, 600)
    assert reply.cost == pytest.approx((400 * 2 + 600 * 1 + 10 * 8) / 1e6)
    reading = policy.spending()
    assert reading.spent == pytest.approx(1.0 + reply.cost)
    assert (reading.held, reading.unconfirmed, reading.exhausted) == (0.0, 0.0, False)


def test_the_money_ends_the_run_and_is_never_exceeded():
    usage = {"prompt_tokens": 20, "completion_tokens": 100}
    cost = (20 * 1000 + 100 * 1000) / 1e6

    async def slow(n):
        await asyncio.sleep(0.02)
        return Fault(500) if n % 7 == 3 else completion("42") | {"usage": usage}

    with fake_endpoint(lambda body, n: slow(n)) as fake:
        spec = PolicySpec(
            kind="endpoint",
            base_url=fake.base_url,
            model="toy-model",
            max_tokens=100,
            prices={"prompt": 1000.0, "completion": 1000.0},
            budget={"money": 3.0},
        )
        policy = EndpointPolicy.from_spec(spec)

        async def run():
            answers = await asyncio.gather(*(policy.act(ASK, i) for i in range(60)), return_exceptions=True)
            await policy.aclose()
            return answers

        answers = asyncio.run(run())
    done = [a for a in answers if not isinstance(a, BaseException)]
    assert all(isinstance(a, BudgetExceeded) for a in answers if isinstance(a, BaseException))
    assert len(done) < 60
    assert 2.5 < len(done) * cost <= 3.0
    assert policy.spending().spent == pytest.approx(len(done) * cost)
    assert policy.counts["answers"] == len(done)


def test_a_request_that_is_cancelled_gives_its_slot_back_and_counts_at_its_worst_case():
    with fake_endpoint(lambda body, n: HANG if n == 0 else "fine") as fake:
        policy = EndpointPolicy(
            fake.base_url, "toy-model", prices=Prices(prompt=1000.0, completion=1000.0), max_tokens=10, concurrency=1
        )

        async def run():
            hanging = asyncio.create_task(policy.act(ASK, 1))
            await asyncio.sleep(0.3)
            waiting = asyncio.create_task(policy.act(ASK, 2))
            await asyncio.sleep(0.05)
            assert policy.waiting == 1
            hanging.cancel()
            reply = await waiting
            await policy.aclose()
            return reply

        reply = asyncio.run(run())
    reading = policy.spending()
    assert (reading.held, reading.exhausted) == (0.0, False)
    assert reading.unconfirmed > reply.cost
    assert reading.spent == pytest.approx(reading.unconfirmed + reply.cost)


def test_a_request_that_may_have_been_charged_counts_at_its_worst_case():
    with fake_endpoint(lambda body, n: HANG if n == 0 else "fine") as fake:
        prices = Prices(prompt=1000.0, completion=1000.0)
        policy = EndpointPolicy(
            fake.base_url, "toy-model", prices=prices, limits=Limits(money=50.0), max_tokens=10, request_timeout_s=0.3
        )
        reply = ask(policy)
    reading = policy.spending()
    assert reading.unconfirmed > 0.05
    assert reading.spent == pytest.approx(reading.unconfirmed + reply.cost)
