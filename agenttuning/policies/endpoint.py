"""`EndpointPolicy`: any OpenAI-compatible chat endpoint, and the one layer that retries.

Requests go through one aiohttp session per event loop, and through the process's `Throttle`: few enough at once, within
the run's budget, episodes in progress first. What went wrong is classified by `replies` and `failures`, counted in
`counts`, and met by kind: the world's failures are tried again with back-off and jitter, Retry-After honoured, for the
request's patience; nonsense a few times; what only the user can mend stops the run at once; what the endpoint declines
is a reply. It holds no state of an episode and sends no tools: environments speak text.
"""

import asyncio
import contextlib
import difflib
import os
import random
import time
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Self

import aiohttp

from agenttuning.errors import ConfigurationError, InfrastructureError, StorageError
from agenttuning.policies.allowance import HOLD_S
from agenttuning.policies.base import Reply
from agenttuning.policies.budget import Amount, Limits
from agenttuning.policies.concurrency import Concurrency
from agenttuning.policies.connection import list_models, open_session, post_chat
from agenttuning.policies.costs import price, worst_price
from agenttuning.policies.failures import NONSENSE, STRAIN, USER, Failure, Kind, cure
from agenttuning.policies.replies import outcome_kind
from agenttuning.policies.sharing import Sharing, actor_link, limits_of, local_link
from agenttuning.policies.slowness import Slowness
from agenttuning.policies.spending import Spending
from agenttuning.policies.throttle import End, Throttle, Ticket
from agenttuning.policies.wire import REFUSED, chat_request, retry_wait
from agenttuning.recipe import PolicySpec, Prices
from agenttuning.trajectory import Turn

NONSENSE_TRIES = 3
"""An answer that is no chat completion is asked for this often in a row."""
NONSENSE_SECONDS = 60.0
"""After so long without a usable answer the endpoint counts as silent."""
REJECTIONS = 5
"""An endpoint that has answered may reject so many prompts in a row before the recipe is at fault."""
CHECK_TOKENS = 16
"""Completion tokens that `check_endpoint` asks for; some models refuse less."""
CHECK_SECONDS = 30.0
"""How long it waits for an answer, at most."""
CHECK_PATIENCE_S = 2.0
"""How long it tries again after a failure."""
TEMPLATE_TOKENS = 64
"""Prompt tokens that a chat template may add beyond the bytes of a request."""
UNLIMITED = 1_000_000
FIRST_TOKENS_PER_BYTE = 0.4
"""Guess of a prompt's tokens per byte of the request, until the endpoint's own counts tell."""


@dataclass
class _Tries:
    """How one request of an episode has fared so far."""

    started: float = field(default_factory=time.monotonic)
    waited: float = 0.0
    """Seconds that it waited for a slot, which use up no patience."""
    failures: int = 0
    dropped: bool = False
    """It was dropped once as slow, and is not again."""
    nonsense: int = 0
    """Answers in a row that were no chat completion."""


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
        patience_s: seconds for which failures of one request are retried; waiting for a slot does not count.
        drop_slow: ask a request again, once, that has waited many times as long as any answer took (`slowness`).
        send_seed: pass each request's seed on; a greedy request (temperature 0) never carries one.
        concurrency: requests in flight: `auto`, a number over all processes, or None for as many as are asked for.
        prices: what the endpoint charges.
        limits: the run's budget.
        shared: the Ray actor of `sharing.shared_limits`; unset, this process is alone.
        spending: where this process is alone: the note of the money, and of what earlier starts have spent.
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
        drop_slow: bool = True,
        concurrency: Literal["auto"] | int | None = None,
        prices: Prices | None = None,
        limits: Limits | None = None,
        shared: Any = None,
        spending: Spending | None = None,
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
        self.counts: Counter[str] = Counter()
        """`requests`, `answers`, `retries`, and each `failures.Kind` that was met."""
        self.silent = False
        """A request was given up, and nobody in the run was answered in all that time: others will fare no better."""
        self.last_failure = ""
        """What went wrong last."""
        self._send_seed = send_seed
        self._key = api_key
        self._key_env = api_key_env
        self._timeout_s = request_timeout_s
        self._temperature, self._top_p, self._max_tokens = temperature, top_p, max_tokens
        self._limit_name = "max_tokens"
        self._prices = prices
        limits = limits or Limits()
        counted = shared is None and (limits or prices is not None)
        self._sharing = Sharing(limits, hold_s=HOLD_S, spending=spending) if counted else None
        link = actor_link(shared) if shared is not None else local_link(self._sharing) if self._sharing else None
        fixed = concurrency if isinstance(concurrency, int) else None
        most = fixed or UNLIMITED
        state = Concurrency() if concurrency == "auto" else Concurrency(most, most, most)
        self._throttle = Throttle(state, limits, link, fixed)
        self._slowness = Slowness() if drop_slow else None
        self._session: aiohttp.ClientSession | None = None
        self._rejections = 0
        self._tokens_per_byte = FIRST_TOKENS_PER_BYTE

    @classmethod
    def from_spec(
        cls, spec: PolicySpec, api_key: str | None = None, shared: Any = None, spending: Spending | None = None
    ) -> Self:
        """Build the policy that a recipe names.

        Args:
            spec: an endpoint; a `local` policy is given as the endpoint that serves it.
            api_key: unset, it is read from the environment variable that the recipe names.
            shared: the Ray actor of `sharing.shared_limits`, where several processes play one run.
            spending: the note of what the run spends, where there is no `shared`.

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
            drop_slow=spec.drop_slow,
            concurrency=spec.concurrency,
            prices=spec.prices,
            limits=limits_of(spec),
            shared=shared,
            spending=spending,
        )

    async def act(self, turns: tuple[Turn, ...], seed: int, *, temperature: float | None = None) -> Reply:
        """Ask for the next assistant turn.

        A prompt beyond the model's context comes back as a reply with `finish_reason="context"`, one that the provider
        declines with `finish_reason="content_filter"`.

        Args:
            turns: what the policy sees.
            seed: decides the sample, where the endpoint heeds it.
            temperature: instead of the policy's own, so that attempts at several share one throttle and one budget.

        Raises:
            InfrastructureError: the endpoint failed for longer than `patience_s`, or keeps answering nonsense.
            ConfigurationError: refused key, unknown model, refused request; names the cure.
            BudgetExceeded: the money that the recipe allows is spent.
        """
        tries = _Tries()
        while True:
            limit_name = self._limit_name
            body = self._body(turns, seed, self._temperature if temperature is None else temperature)
            asked_at = time.monotonic()
            ticket = await self._admit(len(turns), body)
            tries.waited += ticket.sent_at - asked_at
            result = await self._request(ticket, body, self._slowness if not tries.dropped else None)
            if isinstance(result, Reply):
                return result
            if result.kind is Kind.SLOW:
                tries.dropped = True
            elif result.kind not in USER:
                await asyncio.sleep(self._wait_after(result, tries))
            elif (reply := self._refused(result, limit_name)) is not None:
                return reply

    async def aclose(self) -> None:
        """Close the connections, and note what is spent."""
        await self._throttle.aclose()
        if self._sharing is not None:
            with contextlib.suppress(StorageError):  # The note before is not below.
                self._sharing.settle(time.monotonic())
        if self._session is not None:
            await self._session.close()
            self._session = None

    @property
    def concurrency(self) -> int:
        """Requests that this process may have in flight now: what `auto` has found, or its part of a fixed number."""
        return self._throttle.concurrency.limit

    @property
    def waiting(self) -> int:
        """Requests that wait to be sent: while there are any, a new episode only makes others wait."""
        return self._throttle.waiting

    def _body(self, turns: tuple[Turn, ...], seed: int, temperature: float) -> bytes:
        sampling = {"temperature": temperature, "top_p": self._top_p, self._limit_name: self._max_tokens}
        return chat_request(self.name, turns, sampling, seed if self._send_seed and temperature > 0 else None)

    async def _admit(self, progress: int, body: bytes) -> Ticket:
        """Wait for a slot; give up at once where the endpoint asks all requests to wait longer than the patience."""
        pause = self._throttle.resume_at - time.monotonic()
        if pause > self.patience_s:
            self.silent = True
            raise InfrastructureError(
                f"policy: {self.url} asks to wait {pause:.0f} s, longer than policy.patience_s={self.patience_s:g}; "
                "run the same command again later, or raise the patience"
            )
        try:
            return await self._throttle.admit(progress, self._need(body))
        except InfrastructureError:
            self.silent = True
            raise

    def _need(self, body: bytes) -> Amount:
        """Return the most that a request can use; a token is at least one byte, so the money is an upper bound."""
        bound = len(body) + TEMPLATE_TOKENS
        tokens = min(bound, int(len(body) * self._tokens_per_byte) + TEMPLATE_TOKENS)
        return Amount(1, tokens + self._max_tokens, worst_price(self._prices, bound, self._max_tokens))

    async def _request(self, ticket: Ticket, body: bytes, slowness: Slowness | None) -> Reply | Failure:
        """Send one request, and book and count what came of it; it may be dropped where `slowness` is given."""
        self.counts["requests"] += 1
        result: Reply | Failure | None = None
        try:
            result = await post_chat(self._connect(), self.url, body, self._timeout_s, slowness)
            if isinstance(result, Reply):
                result = self._priced(result)
        finally:
            self._settle(ticket, result)
        if isinstance(result, Reply):
            if self._slowness is not None:
                self._slowness.answered(time.monotonic() - ticket.sent_at)
            self._answered(result, body)
            return result
        self.counts[result.kind.value] += 1
        self.last_failure = result.message
        if result.retry_after is not None:
            self._throttle.hold(result.retry_after)
        return result

    def _priced(self, reply: Reply) -> Reply:
        if self._prices is None:
            return reply
        cost = price(self._prices, reply.prompt_tokens, reply.completion_tokens, reply.cached_tokens)
        return replace(reply, cost=cost)

    def _settle(self, ticket: Ticket, result: Reply | Failure | None) -> None:
        """Book what a request used; None is one that was cancelled, and may have been charged."""
        tokens: int | None = None
        money: float | None = None
        end: End | None = None
        if isinstance(result, Failure):
            end = End.STRAINED if result.kind in STRAIN else End.FAILED
            if not result.may_cost:
                tokens, money = 0, 0.0
        elif result is not None:
            end = End.ANSWERED
            if result.prompt_tokens is not None:
                tokens, money = result.prompt_tokens + (result.completion_tokens or 0), result.cost
            elif outcome_kind(result) is not None:
                tokens, money = 0, 0.0
        self._throttle.done(ticket, end, tokens=tokens, money=money)

    def _answered(self, reply: Reply, body: bytes) -> None:
        self.silent = False
        self._rejections = 0
        kind = outcome_kind(reply)
        self.counts[kind.value if kind else "answers"] += 1
        if reply.prompt_tokens:
            self._tokens_per_byte += 0.1 * (1.1 * reply.prompt_tokens / len(body) - self._tokens_per_byte)

    def _wait_after(self, failure: Failure, tries: _Tries) -> float:
        """Return the seconds after which a request is tried again.

        Raises:
            InfrastructureError: its patience is over, or the endpoint keeps answering nonsense.
        """
        tries.failures += 1
        self.counts["retries"] += 1
        tries.nonsense = tries.nonsense + 1 if failure.kind in NONSENSE else 0
        now, answered_at = time.monotonic(), self._throttle.answered_at
        if tries.nonsense >= NONSENSE_TRIES:
            self.silent = now - answered_at > NONSENSE_SECONDS
            raise InfrastructureError(
                f"policy: {self.url} answers, but {failure.message}; check that policy.base_url is an "
                "OpenAI-compatible endpoint and ends in /v1"
            )
        wait = retry_wait(tries.failures, failure.retry_after, random.random())
        spent = now - tries.started - tries.waited
        if spent + wait > self.patience_s:
            asked = failure.retry_after or 0.0
            self.silent = answered_at < tries.started or asked > self.patience_s
            raise InfrastructureError(
                f"policy: {self.url} failed {tries.failures} times in {spent:.0f} s (last: "
                f"{failure.message}{f', asks to wait {asked:.0f} s' if asked else ''}) and policy.patience_s="
                f"{self.patience_s:g} is over; see to the endpoint, or raise the patience"
            )
        return wait

    def _refused(self, failure: Failure, limit_name: str) -> Reply | None:
        """Meet a refusal that waiting does not cure, of a request that named its token limit so.

        Returns a reply where only this prompt is refused, and None where the request is to be sent again in the way
        that the endpoint asked for.

        Raises:
            ConfigurationError: nothing but the user can help.
        """
        if failure.kind is Kind.REQUEST:
            if failure.parameter == "max_completion_tokens" and limit_name == "max_tokens":
                self._limit_name = "max_completion_tokens"
                return None
            self._rejections += 1
            if failure.parameter is None and self.counts["answers"] and self._rejections < REJECTIONS:
                self.counts[Kind.REJECTED.value] += 1
                return Reply(content="", finish_reason=REFUSED)
        advice = cure(failure, model=self.name, key_env=self._key_env, has_key=bool(self._key))
        raise ConfigurationError(f"policy: {self.url} refuses ({failure.message}); {advice}")

    def _connect(self) -> aiohttp.ClientSession:
        if self._session is None or self._session.closed:
            self._session = open_session(self.url, self._key, self._timeout_s)
        return self._session


def key_of(spec: PolicySpec) -> str | None:
    """Return the API key from the environment variable that the recipe names, or None."""
    return os.environ.get(spec.api_key_env, "").strip() or None


async def check_endpoint(spec: PolicySpec, api_key: str | None = None) -> None:
    """Ask the endpoint for a few tokens, so that what is wrong shows before any episode is started.

    Raises:
        ConfigurationError: nothing answers there, the key is refused, the model is unknown, or the answer is no chat
            completion; names the URL and the cure.
    """
    timeout = min(spec.request_timeout_s, CHECK_SECONDS)
    quick = {
        "max_tokens": min(CHECK_TOKENS, spec.max_tokens),
        "patience_s": CHECK_PATIENCE_S,
        "request_timeout_s": timeout,
    }
    policy = EndpointPolicy.from_spec(spec.model_copy(update=quick), api_key)
    try:
        await policy.act((Turn(role="user", content="Hello"),), seed=0)
    except InfrastructureError as error:
        raise ConfigurationError(
            f"policy.base_url: no chat model answers at {policy.url} ({policy.last_failure}); start the server there, "
            "or correct policy.base_url"
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
