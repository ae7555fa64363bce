"""What the rollout benchmark plays: a trivial environment, and an endpoint with latency, a capacity and faults.

    python benchmarks/rollouts_world.py PORT LATENCY JITTER CAPACITY FAULTS

serves the endpoint on loopback until it is killed. Of its requests 2 % are refused with 429 (`Retry-After: 1`), 1 %
with 503, and 0.5 % hang until the client gives up, if FAULTS is 1. An answer takes LATENCY seconds +- JITTER of it;
more than CAPACITY at once wait for their turn, and a hanging request holds its place. `GET /v1/served` tells how many
answers went out, and how many requests were in flight at most.
"""

import asyncio
import random
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from agenttuning.environments.base import Environment, Expert, Grade, Move, Parsed, Step
from agenttuning.errors import MalformedReply
from agenttuning.trajectory import Action, Task

STEPS = 5
"""Steps of an episode: as many replies of the endpoint."""
REFUSED, BROKEN, HANGING = 0.02, 0.01, 0.005
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
        self._left = int(task.payload["steps"])
        return f"{task.instruction} {self._left} left."

    def step(self, action: Action) -> Step:
        """Count one down."""
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


def task(number: int, steps: int = STEPS) -> Task:
    return Task(environment="count", split="train", instruction=f"Count task {number}.", payload={"steps": steps})


def install(root: Path) -> Path:
    """Register the environment as a package of its own would; return the directory for the path."""
    package = root / "site" / "count_environment-1.0.dist-info"
    package.mkdir(parents=True, exist_ok=True)
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: count-environment\nVersion: 1.0\n")
    (package / "entry_points.txt").write_text("[agenttuning.environments]\ncount = rollouts_world:Count\n")
    return root / "site"


def serve(port: int, latency: float, jitter: float, capacity: int, faults: bool) -> None:
    from aiohttp import web

    rng = random.Random(0)
    places = asyncio.Semaphore(capacity)
    state = {"served": 0, "in_flight": 0, "most": 0}
    body = (
        b'{"choices": [{"message": {"role": "assistant", "content": "Act: next"}, "finish_reason": "stop"}], '
        b'"usage": {"prompt_tokens": 40, "completion_tokens": 4}}'
    )

    async def chat(request: web.Request) -> web.Response:
        await request.read()
        luck = rng.random() if faults else 1.0
        if luck < REFUSED:
            return web.Response(status=429, text="too many requests", headers={"Retry-After": "1"})
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
        state["served"] += 1
        return web.Response(body=body, content_type="application/json")

    async def models(_: web.Request) -> web.Response:
        return web.json_response({"data": [{"id": "count"}]})

    async def served(_: web.Request) -> web.Response:
        return web.json_response(state)

    app = web.Application()
    app.router.add_post("/v1/chat/completions", chat)
    app.router.add_get("/v1/models", models)
    app.router.add_get("/v1/served", served)
    web.run_app(app, host="127.0.0.1", port=port, print=None, handler_cancellation=True, access_log=None)


if __name__ == "__main__":
    serve(int(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4]), sys.argv[5] == "1")
