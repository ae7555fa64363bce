"""The HTTP side of an endpoint: the session, one chat request, and the list of its models. Decides nothing itself."""

import asyncio
import time
from urllib.parse import urlsplit

import aiohttp
import orjson

from agenttuning.errors import InfrastructureError
from agenttuning.policies.base import Reply
from agenttuning.policies.failures import Failure, Kind, from_exception
from agenttuning.policies.replies import read_answer
from agenttuning.policies.slowness import LEAST_S, Slowness

LIST_SECONDS = 5.0
"""How long the list of models is waited for."""
POLL_SECONDS = 0.5


def open_session(url: str, key: str | None, timeout_s: float) -> aiohttp.ClientSession:
    """Open an HTTP session for an endpoint; a proxy from the environment is used unless it is on this machine."""
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0),
        timeout=aiohttp.ClientTimeout(total=timeout_s),
        headers=headers,
        trust_env=urlsplit(url).hostname not in ("localhost", "127.0.0.1", "::1"),
    )


async def post_chat(
    session: aiohttp.ClientSession, url: str, body: bytes, timeout_s: float, slowness: Slowness | None = None
) -> Reply | Failure:
    """Send one chat request and read what comes back.

    Args:
        session: where.
        url: of the chat completions.
        body: the request as JSON.
        timeout_s: the session's, for the message.
        slowness: decides whether a request is dropped that has waited far longer than others; None: it is not.
    """
    limit = slowness.limit() if slowness is not None else None
    if slowness is None or limit is None:
        return await _post(session, url, body, timeout_s)
    loop = asyncio.get_running_loop()
    timer: asyncio.TimerHandle | None = None
    try:
        async with asyncio.timeout(None) as scope:

            def give_up() -> None:
                nonlocal timer
                if slowness.drop():
                    scope.reschedule(loop.time())
                else:
                    timer = loop.call_later(LEAST_S, give_up)

            timer = loop.call_later(limit, give_up)
            try:
                return await _post(session, url, body, timeout_s)
            finally:
                timer.cancel()
    except TimeoutError:
        return Failure(Kind.SLOW, f"no answer in {limit:.1f} s, far beyond all others", may_cost=True)


async def _post(session: aiohttp.ClientSession, url: str, body: bytes, timeout_s: float) -> Reply | Failure:
    started = time.monotonic()
    try:
        async with session.post(url, data=body, allow_redirects=False) as response:
            answer = await response.read()
            status, headers = response.status, response.headers
    except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
        return from_exception(error, timeout_s)
    return read_answer(status, headers, answer, time.monotonic() - started)


async def list_models(base_url: str, api_key: str | None = None, timeout_s: float = LIST_SECONDS) -> list[str]:
    """Return the names of the models that an endpoint says it serves; none where it does not say."""
    try:
        async with (
            open_session(base_url, api_key, timeout_s) as session,
            session.get(base_url.rstrip("/") + "/models") as response,
        ):
            if response.status != 200:
                return []
            listed = orjson.loads(await response.read())
            return [str(entry["id"]) for entry in listed["data"]]
    except (aiohttp.ClientError, OSError, TimeoutError, ValueError, LookupError, TypeError):
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
            await asyncio.sleep(POLL_SECONDS)
        return names

    return asyncio.run(poll())
