"""`check_endpoint`, waiting for an endpoint, and what is said where one is wrong."""

import asyncio
import re
import time

import orjson
import pytest
from fake_endpoint import Fault, fake_endpoint
from raw_server import http, raw_server, self_signed

from agenttuning.errors import ConfigurationError, InfrastructureError
from agenttuning.policies.connection import list_models, wait_until_ready
from agenttuning.policies.endpoint import EndpointPolicy, check_endpoint
from agenttuning.recipe import PolicySpec

pytestmark = pytest.mark.usefixtures("fast_retries")


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
