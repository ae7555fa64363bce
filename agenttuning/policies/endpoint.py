"""`EndpointPolicy`: any OpenAI-compatible chat endpoint, and the one layer that retries.

Requests go through one aiohttp session per event loop (0.2 ms of CPU per call, where many episodes are in flight).
A failure of the world (time-out, connection, 408, 409, 429, 5xx) is tried again with exponential back-off and jitter,
Retry-After honoured, until the request's patience is over; what only the user can mend stops the run at once.
It holds no state of an episode and sends no tools: environments speak text.
"""

import asyncio
import difflib
import os
import random
import time
from typing import Any, Self
from urllib.parse import urlsplit

import aiohttp
import orjson

from agenttuning.errors import ConfigurationError, InfrastructureError
from agenttuning.policies.base import Reply
from agenttuning.policies.wire import (
    Nonsense,
    chat_request,
    read_failure,
    read_reply,
    retry_wait,
    wants_completion_limit,
)
from agenttuning.recipe import PolicySpec
from agenttuning.trajectory import Turn

NONSENSE_TRIES = 3
"""An answer that is no chat completion is asked for this often in a row."""
NONSENSE_SECONDS = 60.0
"""After so long without a usable answer the endpoint counts as silent."""
CHECK_SECONDS = 30.0
"""How long `check_endpoint` waits for an answer."""
CHECK_PATIENCE_S = 2.0
"""How long it tries again after a failure."""


class EndpointPolicy:
    """A chat model behind a URL. Share one object among all episodes of a worker.

    Args:
        base_url: the URL up to `/v1`.
        model: the model's name there.
        api_key: sent as a bearer token; never part of `settings`.
        api_key_env: name of the variable that the key came from, for messages.
        temperature: sampling temperature.
        top_p: nucleus sampling.
        max_tokens: completion tokens of one reply.
        request_timeout_s: seconds of one request.
        patience_s: seconds for which failures of one request are retried.
        send_seed: pass each request's seed on; a greedy request (temperature 0) never carries one.
    """

    def __init__(
        self,
        base_url: str,
        model: str,
        *,
        api_key: str | None = None,
        api_key_env: str = "OPENAI_API_KEY",
        temperature: float = 0.7,
        top_p: float = 1.0,
        max_tokens: int = 512,
        request_timeout_s: float = 120.0,
        patience_s: float = 600.0,
        send_seed: bool = True,
    ) -> None:
        self.name = model
        self.url = base_url.rstrip("/") + "/chat/completions"
        self.settings: dict[str, Any] = {
            "model": model,
            "temperature": temperature,
            "top_p": top_p,
            "max_tokens": max_tokens,
        }
        self.patience_s = patience_s
        self._send_seed = send_seed and temperature > 0
        self._key = api_key
        self._key_env = api_key_env
        self._timeout = aiohttp.ClientTimeout(total=request_timeout_s)
        self._sampling = {"temperature": temperature, "top_p": top_p, "max_tokens": max_tokens}
        self._session: aiohttp.ClientSession | None = None
        self._resume_at = 0.0
        self._last_answer = time.monotonic()
        self.silent = False
        """A request has been given up and nothing was answered all that time: other requests will fare no better."""

    @classmethod
    def from_spec(cls, spec: PolicySpec, api_key: str | None = None) -> Self:
        """Build the policy that a recipe names.

        Args:
            spec: an endpoint; a `local` policy is given as the endpoint that serves it.
            api_key: unset, it is read from the environment variable that the recipe names.

        Raises:
            ConfigurationError: the URL or the model's name is missing.
        """
        if not spec.base_url or not spec.model:
            raise ConfigurationError(
                f"policy.kind={spec.kind} needs policy.base_url (got {spec.base_url!r}) and policy.model "
                f"(got {spec.model!r})"
            )
        return cls(
            spec.base_url,
            spec.model,
            api_key=api_key or key_of(spec),
            api_key_env=spec.api_key_env,
            temperature=spec.temperature,
            top_p=spec.top_p,
            max_tokens=spec.max_tokens,
            request_timeout_s=spec.request_timeout_s,
            patience_s=spec.patience_s,
            send_seed=spec.send_seed,
        )

    async def act(self, turns: tuple[Turn, ...], seed: int) -> Reply:
        """Ask for the next assistant turn.

        A prompt beyond the model's context comes back as a reply with `finish_reason="context"`.

        Raises:
            InfrastructureError: the endpoint failed for longer than `patience_s`, or keeps answering nonsense.
            ConfigurationError: refused key, unknown model, refused request; names the cure.
        """
        deadline = time.monotonic() + self.patience_s
        started = time.monotonic()
        failures = nonsense = 0
        while True:
            await self._wait_turn(deadline)
            try:
                return await self._request(turns, seed)
            except InfrastructureError as error:
                failures += 1
                nonsense = nonsense + 1 if isinstance(error, Nonsense) else 0
                if nonsense >= NONSENSE_TRIES:
                    self.silent = time.monotonic() - self._last_answer > NONSENSE_SECONDS
                    raise InfrastructureError(
                        f"policy: {self.url} answers, but {error}; check that policy.base_url is an OpenAI-compatible "
                        "endpoint and ends in /v1"
                    ) from error
                wait = retry_wait(failures, error.retry_after, random.random())
                if error.retry_after is not None:
                    self._resume_at = max(self._resume_at, time.monotonic() + error.retry_after)
                if time.monotonic() + wait > deadline:
                    asked = error.retry_after or 0.0
                    self.silent = self._last_answer < started or asked > self.patience_s
                    raise InfrastructureError(
                        f"policy: {self.url} failed {failures} times in {time.monotonic() - started:.0f} s (last: "
                        f"{error}{f', asks to wait {asked:.0f} s' if asked else ''}) and policy.patience_s="
                        f"{self.patience_s:g} is over; see to the endpoint, or raise the patience"
                    ) from error
                await asyncio.sleep(wait)

    async def aclose(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def _wait_turn(self, deadline: float) -> None:
        """Hold back while the endpoint has asked all requests to wait."""
        pause = self._resume_at - time.monotonic()
        if pause <= 0:
            return
        if time.monotonic() + pause > deadline:
            self.silent = True
            raise InfrastructureError(
                f"policy: {self.url} asks to wait {pause:.0f} s, longer than policy.patience_s={self.patience_s:g}; "
                "run the same command again later, or raise the patience"
            )
        await asyncio.sleep(pause + random.uniform(0, 0.5))

    async def _request(self, turns: tuple[Turn, ...], seed: int) -> Reply:
        sampling = self._sampling
        body = chat_request(self.name, turns, sampling, seed if self._send_seed else None)
        started = time.monotonic()
        try:
            async with self._connect().post(self.url, data=body) as response:
                answer = await response.read()
                status, headers = response.status, response.headers
        except (aiohttp.InvalidURL, aiohttp.ClientConnectorCertificateError) as error:
            raise ConfigurationError(f"policy.base_url: {self.url} cannot be used ({error}); correct it") from error
        except TimeoutError as error:
            raise InfrastructureError(f"no answer within policy.request_timeout_s={self._timeout.total:g}") from error
        except (aiohttp.ClientError, OSError) as error:
            raise InfrastructureError(f"{type(error).__name__}: {error}") from error
        seconds = time.monotonic() - started
        outcome = read_reply(answer, seconds) if status == 200 else read_failure(status, headers, answer)
        if isinstance(outcome, Reply):
            self._last_answer = time.monotonic()
            self.silent = False
            return outcome
        if isinstance(outcome, ConfigurationError):
            if "max_tokens" in sampling and wants_completion_limit(outcome):
                limit = {"max_completion_tokens": sampling["max_tokens"]}
                self._sampling = {k: v for k, v in sampling.items() if k != "max_tokens"} | limit
                return await self._request(turns, seed)
            raise ConfigurationError(f"policy: {self.url} refuses ({outcome}); {self._cure(status)}")
        raise outcome

    def _cure(self, status: int) -> str:
        if status in (401, 403):
            state = "its key is not accepted" if self._key else "it is not set"
            return f"put a valid key into the environment variable {self._key_env} ({state})"
        if status in (404, 405):
            return f"check policy.model ({self.name!r}) and policy.base_url, which ends in /v1"
        if status in (402, 429):
            return "the account's quota is used up: add credit, or use another key or endpoint"
        return "correct policy.model, policy.temperature, policy.top_p or policy.max_tokens"

    def _connect(self) -> aiohttp.ClientSession:
        if self._session is None or self._session.closed:
            headers = {"Content-Type": "application/json"}
            if self._key:
                headers["Authorization"] = f"Bearer {self._key}"
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0),
                timeout=self._timeout,
                headers=headers,
                trust_env=not _is_local(self.url),
            )
        return self._session


def key_of(spec: PolicySpec) -> str | None:
    """Return the API key from the environment variable that the recipe names, or None."""
    return os.environ.get(spec.api_key_env) or None


async def check_endpoint(spec: PolicySpec, api_key: str | None = None) -> None:
    """Ask the endpoint for one token, so that what is wrong shows before any episode is started.

    Raises:
        ConfigurationError: nothing answers there, the key is refused, the model is unknown, or the answer is no chat
            completion; names the URL and the cure.
    """
    quick = {"max_tokens": 1, "patience_s": CHECK_PATIENCE_S, "request_timeout_s": CHECK_SECONDS}
    policy = EndpointPolicy.from_spec(spec.model_copy(update=quick), api_key)
    try:
        await policy.act((Turn(role="user", content="Hello"),), seed=0)
    except InfrastructureError as error:
        raise ConfigurationError(
            f"policy.base_url: no chat model answers at {policy.url} ({error.__cause__ or error}); start the server "
            "there, or correct policy.base_url"
        ) from error
    except ConfigurationError as error:
        names = await list_models(str(spec.base_url), api_key) if "HTTP 404" in str(error) else []
        if not names:
            raise
        guess = difflib.get_close_matches(str(spec.model), names, n=1)
        hint = f"did you mean {guess[0]!r}?" if guess else f"it serves: {', '.join(names[:10])}"
        raise ConfigurationError(f"policy.model: {policy.url} has no model {spec.model!r}; {hint}") from error
    finally:
        await policy.aclose()


async def list_models(base_url: str, api_key: str | None = None, timeout_s: float = 5.0) -> list[str]:
    """Return the names of the models that an endpoint says it serves; none where it does not say."""
    headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
    timeout = aiohttp.ClientTimeout(total=timeout_s)
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout, headers=headers, trust_env=not _is_local(base_url)) as session,
            session.get(base_url.rstrip("/") + "/models") as response,
        ):
            if response.status != 200:
                return []
            listed = orjson.loads(await response.read())
            return [str(entry["id"]) for entry in listed["data"]]
    except (aiohttp.ClientError, OSError, TimeoutError, orjson.JSONDecodeError, LookupError, TypeError):
        return []


def wait_until_ready(base_url: str, timeout_s: float) -> list[str]:
    """Wait until the endpoint lists its models, and return their names.

    Raises:
        InfrastructureError: it does not within `timeout_s`.
    """

    async def poll() -> list[str]:
        deadline = time.monotonic() + timeout_s
        while not (names := await list_models(base_url)):
            if time.monotonic() > deadline:
                raise InfrastructureError(f"{base_url} lists no model after {timeout_s:.0f} s; see the server's log")
            await asyncio.sleep(0.5)
        return names

    return asyncio.run(poll())


def _is_local(url: str) -> bool:
    return urlsplit(url).hostname in ("localhost", "127.0.0.1", "::1")
