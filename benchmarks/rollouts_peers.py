"""Three ways in which others play episodes, written plainly around the same environment and the same client.

- `sequential`: one episode after another (AgentGym's evaluator);
- `threads`: a pool of threads, each playing one episode (AgentBench's task workers);
- `lock_step`: a batch of episodes takes each step together, and the next batch begins when all are done (FireAct).

The client, with its retries, its limit of requests in flight and its time-out, is `EndpointPolicy` for all: what is
compared is how episodes are scheduled around it. Nothing here is durable: what the others do not do, costs them
nothing.
"""

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from rollouts_world import Count

from agenttuning.policies.base import Reply
from agenttuning.policies.endpoint import EndpointPolicy
from agenttuning.recipe import PolicySpec
from agenttuning.trajectory import Task, Turn


class Episode:
    """One episode by hand: what to send next, and what to do with the answer."""

    def __init__(self, task: Task) -> None:
        self._environment = Count(Count.Settings())
        observation = self._environment.reset(task)
        self.turns = [
            Turn(role="user", content=self._environment.description(task)),
            Turn(role="assistant", content="Ok."),
            Turn(role="user", content=observation),
        ]
        self.done = False

    def take(self, reply: Reply) -> None:
        """Carry a reply out."""
        step = self._environment.step(self._environment.parse(reply.content).action)
        self.turns += [Turn(role="assistant", content=reply.content), Turn(role="user", content=step.observation)]
        self.done = step.done


def timed(way: str, tasks: list[Task], spec: PolicySpec, at_once: int) -> dict[str, Any]:
    """Play the tasks in one of the ways and return episodes and seconds."""
    started = time.monotonic()
    {"sequential": sequential, "threads": threads, "lock_step": lock_step}[way](tasks, spec, at_once)
    return {"episodes": len(tasks), "seconds": time.monotonic() - started}


def sequential(tasks: list[Task], spec: PolicySpec, at_once: int) -> None:
    async def play() -> None:
        policy = EndpointPolicy.from_spec(spec)
        for task in tasks:
            episode = Episode(task)
            while not episode.done:
                episode.take(await policy.act(tuple(episode.turns), 0))
        await policy.aclose()

    asyncio.run(play())


def lock_step(tasks: list[Task], spec: PolicySpec, at_once: int) -> None:
    async def play() -> None:
        policy = EndpointPolicy.from_spec(spec)
        for first in range(0, len(tasks), at_once):
            batch = [Episode(task) for task in tasks[first : first + at_once]]
            while going := [e for e in batch if not e.done]:
                replies = await asyncio.gather(*(policy.act(tuple(e.turns), 0) for e in going))
                for episode, reply in zip(going, replies, strict=True):
                    episode.take(reply)
        await policy.aclose()

    asyncio.run(play())


def threads(tasks: list[Task], spec: PolicySpec, at_once: int) -> None:
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, daemon=True).start()
    policy = EndpointPolicy.from_spec(spec)

    def play(task: Task) -> None:
        episode = Episode(task)
        while not episode.done:
            asked = policy.act(tuple(episode.turns), 0)
            episode.take(asyncio.run_coroutine_threadsafe(asked, loop).result())

    with ThreadPoolExecutor(at_once) as pool:
        list(pool.map(play, tasks))
    asyncio.run_coroutine_threadsafe(policy.aclose(), loop).result()
    loop.call_soon_threadsafe(loop.stop)
