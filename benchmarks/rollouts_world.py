"""What the rollout benchmark plays: a trivial environment, and an endpoint with latency, a capacity and faults.

    python benchmarks/rollouts_world.py PORT LATENCY JITTER CAPACITY FAULTS

serves the endpoint on loopback until it is killed. Of its requests 2 % are refused with 429 (`Retry-After: 1`), 1 %
with 503, and 0.5 % hang until the client gives up, if FAULTS is 1. An answer takes LATENCY seconds +- JITTER of it;
more than CAPACITY at once wait for their turn, and a hanging request holds its place. `GET /v1/served` tells how many
answers went out, how many per second of the middle half, and how many requests were in flight at most.
"""

import asyncio
import json
import random
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import urlopen

from agenttuning.environments.base import Environment, Expert, Grade, Move, Parsed, Step
from agenttuning.errors import MalformedReply
from agenttuning.trajectory import Action, Task

STEPS = 5
"""Steps of an episode: as many replies of the endpoint."""
STEP_S = 0.005
"""Time of a step where schedules are compared: a command in the sandbox of the `os` environment takes as long
(`results/environments.json`)."""
CAPACITY, LATENCY, JITTER = 64, 0.2, 0.25
TIMEOUT_S = 5.0
"""Of all clients."""
REFUSED, BROKEN, HANGING = 0.02, 0.01, 0.005
RETRY_AFTER_S = 1
HANG_S = 600.0


class Count(Environment):
    """Count up to the task's number, one at a time."""

    name = "count"
    max_steps = 1_000

    def tasks(self, split: str, count: int, seed: int) -> Iterator[Task]:
        """Yield tasks by number."""
        for number in range(count):
            yield task(number)

    def description(self, task: Task) -> str:
        """Return the rules."""
        return "Count. Answer with `Act: next`."

    def reset(self, task: Task) -> str:
        """Set the task up."""
        self._left, self._step_s = int(task.payload["steps"]), float(task.payload["step_s"])
        return f"{task.instruction} {self._left} left."

    def step(self, action: Action) -> Step:
        """Count one down, in the time that the task says."""
        time.sleep(self._step_s)
        self._left -= 1
        return Step(f"{self._left} left.", done=self._left == 0)

    def close(self) -> dict[str, Any]:
        """Return what is left."""
        return {"left": getattr(self, "_left", 0)}

    @classmethod
    def grade(cls, task: Task, evidence: dict[str, Any]) -> Grade:
        """Reward an episode that is counted to its end."""
        good = float(evidence["left"] == 0)
        return Grade(reward=good, score=good)

    def parse(self, reply: str) -> Parsed:
        """Read `Act: next`."""
        if (found := re.search(r"Act: (\w+)$", reply)) is None:
            raise MalformedReply("Write `Act: next`.")
        return Parsed(None, Action(name=found[1]))

    def format(self, thought: str | None, action: Action) -> str:
        """Write an action."""
        return f"Act: {action.name}"

    def expert(self, task: Task, rng: random.Random) -> Expert:
        """Count."""
        while True:
            yield Move("", Action(name="next"))


def task(number: int, steps: int = STEPS, step_s: float = 0.0) -> Task:
    payload = {"steps": steps, "step_s": step_s}
    return Task(environment="count", split="train", instruction=f"Count task {number}.", payload=payload)


def install(root: Path) -> Path:
    """Register the environment as a package of its own would; return the directory for the path."""
    package = root / "site" / "count_environment-1.0.dist-info"
    package.mkdir(parents=True, exist_ok=True)
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: count-environment\nVersion: 1.0\n")
    (package / "entry_points.txt").write_text("[agenttuning.environments]\ncount = rollouts_world:Count\n")
    return root / "site"


@contextmanager
def endpoint(latency: float, faults: bool, capacity: int = CAPACITY) -> Iterator[str]:
    """Serve the endpoint in a process of its own; yields its URL."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [str(port), str(latency), str(JITTER), str(capacity), str(int(faults))]
    server = subprocess.Popen([sys.executable, __file__, *words])
    try:
        url = f"http://127.0.0.1:{port}/v1"
        deadline = time.monotonic() + 30
        while True:
            try:
                urlopen(f"{url}/models").close()
                break
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)
        yield url
    finally:
        server.terminate()
        server.wait()


def served(url: str) -> dict[str, Any]:
    """Return what an endpoint tells about itself."""
    told: dict[str, Any] = json.load(urlopen(f"{url}/served"))
    return told


def spec_for(url: str, concurrency: int = CAPACITY) -> Any:
    """Return our policy: the time-out and the number of requests at once are those of all."""
    from agenttuning.recipe import PolicySpec

    return PolicySpec(
        kind="endpoint", base_url=url, model="count", request_timeout_s=TIMEOUT_S, patience_s=300.0,
        concurrency=concurrency,
    )  # fmt: skip


def recipe_for(in_flight: int, **rollout: Any) -> Any:
    """Return a recipe of one actor."""
    from agenttuning.recipe import EnvironmentSpec, Recipe, Rollout

    # The endpoint always says the same, which would end an episode as repetition.
    settings = {"actors": (1, 1), "actor_cpus": 0.5, "episodes_in_flight": in_flight, "max_repeats": 1_000, **rollout}
    return Recipe(environments={"count": EnvironmentSpec()}, rollout=Rollout(**settings))


def start_ray() -> None:
    """Start a Ray of its own."""
    import ray

    quiet = {"include_dashboard": False, "log_to_driver": False, "logging_level": "ERROR"}
    ray.init(address="local", num_cpus=2, object_store_memory=300 * 2**20, **quiet)


def serve(port: int, latency: float, jitter: float, capacity: int, faults: bool) -> None:
    from aiohttp import web

    rng = random.Random(0)
    places = asyncio.Semaphore(capacity)
    state = {"in_flight": 0, "most": 0}
    answered: list[float] = []
    body = (
        b'{"choices": [{"message": {"role": "assistant", "content": "Act: next"}, "finish_reason": "stop"}], '
        b'"usage": {"prompt_tokens": 40, "completion_tokens": 4}}'
    )

    async def chat(request: web.Request) -> web.Response:
        await request.read()
        luck = rng.random() if faults else 1.0
        if luck < REFUSED:
            return web.Response(status=429, text="too many requests", headers={"Retry-After": str(RETRY_AFTER_S)})
        if luck < REFUSED + BROKEN:
            return web.Response(status=503, text="overloaded")
        async with places:
            state["in_flight"] += 1
            state["most"] = max(state["most"], state["in_flight"])
            try:
                hangs = luck < REFUSED + BROKEN + HANGING
                await asyncio.sleep(HANG_S if hangs else latency * rng.uniform(1 - jitter, 1 + jitter))
            finally:
                state["in_flight"] -= 1
        answered.append(time.monotonic())
        return web.Response(body=body, content_type="application/json")

    async def models(_: web.Request) -> web.Response:
        return web.json_response({"data": [{"id": "count"}]})

    async def tell(_: web.Request) -> web.Response:
        count = len(answered)
        middle = answered[count // 4 : count - count // 4]
        rate = (len(middle) - 1) / (middle[-1] - middle[0]) if len(middle) > 1 else 0.0
        return web.json_response({**state, "served": count, "per_second": rate})

    app = web.Application()
    app.router.add_post("/v1/chat/completions", chat)
    app.router.add_get("/v1/models", models)
    app.router.add_get("/v1/served", tell)
    web.run_app(app, host="127.0.0.1", port=port, print=None, handler_cancellation=True, access_log=None)


if __name__ == "__main__":
    serve(int(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4]), sys.argv[5] == "1")
