"""Other ways of playing episodes, each written plainly around the same environment.

- `sequential`, AgentGym's evaluator: one episode after another, on one kept connection.
- `agentbench`: a pool of threads, each playing one episode after another, with the waits of AgentBench's HTTP agent,
  which no setting changes: after a failure of any kind 2, 3 and 4 s, and after three the episode is lost.
- `fireact`: a batch of episodes takes each step together on one event loop, and the next batch begins when all are
  done, with the wait of FireAct's client: 10 s after a failure of any kind, for as long as it takes.
- `threads`, `threads_openai`, `lock_step`: the same two ways with better clients than the tools have, which know this
  endpoint's faults. `requests` and `aiohttp` retry at once after a first failure and then with exponential back-off
  and jitter (urllib3's rule), and wait as long as `Retry-After` asks; the `openai` client does so by its own rule,
  0.5 s at first. None loses an episode.

All have the endpoint's 64 places as their number of requests at once, a time-out of 5 s, kept connections (which
AgentBench's own agent has not) and the cheapest client measured. Nothing here is durable or counted: what these do not
do, costs them nothing. What is left is the way itself: a thread that waits out a refusal leaves its place at the
endpoint empty, a batch waits for its slowest.
"""

import asyncio
import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from rollouts_world import Count

from agenttuning.trajectory import Task, Turn

MODEL, TEMPERATURE, MAX_TOKENS = "count", 0.7, 512
RETRIES = 1000
"""More than any request needs."""
FIRST_WAIT_S, LONGEST_WAIT_S = 0.5, 30.0
AGENTBENCH_WAITS_S = (2.0, 3.0, 4.0)
FIREACT_WAIT_S = 10.0
TRANSIENT = (408, 409, 429, 500, 502, 503, 504, 529)

Messages = list[Any]
Ask = Callable[[Messages], str]
Wait = Callable[[int, float], float]
"""Seconds to wait after so many failures of a request, where `Retry-After` asked for so many (0: for none)."""


class Lost(Exception):
    """A client gave an episode up."""


class Episode:
    """One episode by hand: what to send next, and what to do with the answer."""

    def __init__(self, task: Task) -> None:
        self._environment = Count(Count.Settings())
        observation = self._environment.reset(task)
        opening = (("user", self._environment.description(task)), ("assistant", "Ok."), ("user", observation))
        self.turns = [Turn(role=role, content=content) for role, content in opening]
        self.done = False

    def messages(self) -> Messages:
        """Return the conversation so far."""
        return [{"role": turn.role, "content": turn.content} for turn in self.turns]

    def take(self, content: str) -> None:
        """Carry a reply out."""
        step = self._environment.step(self._environment.parse(content).action)
        self.turns += [Turn(role="assistant", content=content), Turn(role="user", content=step.observation)]
        self.done = step.done


def timed(way: str, tasks: list[Task], url: str, at_once: int, timeout_s: float) -> dict[str, Any]:
    """Play the tasks in one of the ways and return episodes that came to their end, and seconds."""
    started = time.monotonic()
    lost = WAYS[way](tasks, url, at_once, timeout_s) or 0
    return {"episodes": len(tasks) - lost, "lost": lost, "seconds": time.monotonic() - started}


def sequential(tasks: list[Task], url: str, at_once: int, timeout_s: float) -> None:
    ask = requests_client(url, timeout_s, RETRIES)
    for task in tasks:
        play(task, ask)


def agentbench(tasks: list[Task], url: str, at_once: int, timeout_s: float) -> int:
    import requests

    def patient(ask: Ask) -> Ask:
        def inference(messages: Messages) -> str:
            for wait in AGENTBENCH_WAITS_S:
                try:
                    return ask(messages)
                except requests.RequestException:
                    time.sleep(wait)
            raise Lost

        return inference

    return pooled(tasks, at_once, lambda: patient(requests_client(url, timeout_s, retries=0)))


def threads(tasks: list[Task], url: str, at_once: int, timeout_s: float) -> None:
    pooled(tasks, at_once, lambda: requests_client(url, timeout_s, RETRIES))


def pooled(tasks: list[Task], at_once: int, client: Callable[[], Ask]) -> int:
    """Play on threads, each with a client of its own; return how many episodes were lost."""
    mine = threading.local()

    def play_one(task: Task) -> int:
        if not hasattr(mine, "ask"):
            mine.ask = client()
        try:
            play(task, mine.ask)
        except Lost:
            return 1
        return 0

    with ThreadPoolExecutor(at_once) as pool:
        return sum(pool.map(play_one, tasks))


def threads_openai(tasks: list[Task], url: str, at_once: int, timeout_s: float) -> None:
    from openai import OpenAI

    with OpenAI(base_url=url, api_key="none", timeout=timeout_s, max_retries=RETRIES) as client:

        def ask(messages: Messages) -> str:
            answer = client.chat.completions.create(
                model=MODEL, messages=messages, temperature=TEMPERATURE, max_tokens=MAX_TOKENS
            )
            return str(answer.choices[0].message.content)

        with ThreadPoolExecutor(at_once) as pool:
            list(pool.map(lambda task: play(task, ask), tasks))


def fireact(tasks: list[Task], url: str, at_once: int, timeout_s: float) -> None:
    batches(tasks, url, at_once, timeout_s, lambda failures, asked: FIREACT_WAIT_S)


def lock_step(tasks: list[Task], url: str, at_once: int, timeout_s: float) -> None:
    batches(tasks, url, at_once, timeout_s, urllib3_wait)


def batches(tasks: list[Task], url: str, at_once: int, timeout_s: float, wait: Wait) -> None:
    """Play batch after batch, each step of all episodes together."""
    import aiohttp

    async def play_all() -> None:
        connector, timeout = aiohttp.TCPConnector(limit=at_once), aiohttp.ClientTimeout(total=timeout_s)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
            for first in range(0, len(tasks), at_once):
                batch = [Episode(task) for task in tasks[first : first + at_once]]
                while going := [e for e in batch if not e.done]:
                    replies = await asyncio.gather(*(aiohttp_ask(session, url, e.messages(), wait) for e in going))
                    steps = zip(going, replies, strict=True)
                    await asyncio.gather(*(asyncio.to_thread(e.take, reply) for e, reply in steps))

    asyncio.run(play_all())


def play(task: Task, ask: Ask) -> None:
    """Play one episode to its end."""
    episode = Episode(task)
    while not episode.done:
        episode.take(ask(episode.messages()))


def body(messages: Messages) -> dict[str, Any]:
    return {"model": MODEL, "messages": messages, "temperature": TEMPERATURE, "max_tokens": MAX_TOKENS}


def requests_client(url: str, timeout_s: float, retries: int) -> Ask:
    """Return a function that asks on one kept connection, with urllib3's own retries."""
    import requests
    from requests.adapters import HTTPAdapter
    from urllib3.util import Retry

    rule = Retry(
        total=retries, backoff_factor=FIRST_WAIT_S, backoff_jitter=FIRST_WAIT_S / 2, backoff_max=LONGEST_WAIT_S,
        status_forcelist=TRANSIENT, allowed_methods=None, respect_retry_after_header=True,
    )  # fmt: skip
    session = requests.Session()
    session.trust_env = False  # Looking for proxies costs time in every request.
    session.mount("http://", HTTPAdapter(pool_connections=1, pool_maxsize=1, max_retries=rule))

    def ask(messages: Messages) -> str:
        answer = session.post(f"{url}/chat/completions", json=body(messages), timeout=timeout_s)
        answer.raise_for_status()
        return str(answer.json()["choices"][0]["message"]["content"])

    return ask


def urllib3_wait(failures: int, asked: float) -> float:
    """Return the seconds to wait after a failure, by the rule of `requests_client`."""
    if asked or failures == 1:
        return asked
    return min(LONGEST_WAIT_S, FIRST_WAIT_S * 2 ** (failures - 1) + random.uniform(0, FIRST_WAIT_S / 2))


async def aiohttp_ask(session: Any, url: str, messages: Messages, wait: Wait) -> str:
    """Ask until there is an answer."""
    import aiohttp

    for failures in range(1, RETRIES):
        asked = 0.0
        try:
            async with session.post(f"{url}/chat/completions", json=body(messages)) as answer:
                if answer.status == 200:
                    return str((await answer.json())["choices"][0]["message"]["content"])
                if answer.status not in TRANSIENT:
                    answer.raise_for_status()
                asked = float(answer.headers.get("Retry-After", 0))
        except (aiohttp.ClientConnectionError, TimeoutError):
            pass
        await asyncio.sleep(wait(failures, asked))
    raise RuntimeError(f"no answer in {RETRIES} tries")


WAYS: dict[str, Callable[[list[Task], str, int, float], int | None]] = {
    "sequential": sequential,
    "agentbench": agentbench,
    "fireact": fireact,
    "threads": threads,
    "threads_openai": threads_openai,
    "lock_step": lock_step,
}
