"""CPU time of one request through `EndpointPolicy`, with 1,000 of them in flight.

    python benchmarks/endpoint_overhead.py

A server on loopback, in a process of its own, answers every request after two seconds. This process keeps 1,000
episodes of ten turns in flight through one policy and counts its own CPU time (user and system, all threads) over a
span that begins when all are in flight, divided by the answers in that span. So the number holds everything on the
client's side: the request's body, HTTP, the throttle, the budget, reading the answer, and asyncio itself.

Compared are `bare` (aiohttp alone with a body that is ready), `policy` (no limits), `policy_auto` (which finds its
concurrency itself), `policy_budget` (requests, tokens and money limited, in this process) and `policy_shared` (the same
limits in a Ray actor). `parts_us` are the pieces alone, in microseconds. Writes
benchmarks/results/endpoint_overhead.json; other sizes or `--no-ray` make it a trial, see `bench`.
"""

import argparse
import asyncio
import json
import multiprocessing
import time
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
import orjson
from bench import add_options, idle_load, machine, write_result

from agenttuning.policies.budget import Limits
from agenttuning.policies.endpoint import EndpointPolicy
from agenttuning.policies.replies import read_answer
from agenttuning.policies.sharing import shared_limits
from agenttuning.policies.wire import chat_request
from agenttuning.recipe import PolicySpec, Prices
from agenttuning.trajectory import Turn

IN_FLIGHT, SPAN_S = 1000, 10.0
ANSWER_S = 2.0
PRICES = Prices(prompt=2.5, completion=10.0, cached=1.25)
LIMITS = Limits(requests_per_minute=1_000_000, tokens_per_minute=2_000_000_000, money=1e9)
SAMPLING = {"temperature": 0.7, "top_p": 1.0, "max_tokens": 512}
COMPLETION = orjson.dumps(
    {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "model": "toy",
        "choices": [
            {
                "index": 0,
                "message": {
                    "role": "assistant",
                    "content": "Thought: I should look around.\nAction: go to desk 1. " * 4,
                },
                "finish_reason": "stop",
            }
        ],
        "usage": {"prompt_tokens": 1000, "completion_tokens": 60, "prompt_tokens_details": {"cached_tokens": 900}},
    }
)

Ask = Callable[[], Awaitable[Any]]


class Server(asyncio.Protocol):
    """As little HTTP as a keep-alive client needs, so that the server leaves the machine to the client."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the connection."""
        assert isinstance(transport, asyncio.Transport)
        self._transport, self._buffer, self._missing = transport, bytearray(), -1

    def data_received(self, data: bytes) -> None:
        """Answer each whole request after `ANSWER_S`."""
        self._buffer += data
        if self._missing < 0:
            end = self._buffer.find(b"\r\n\r\n")
            if end < 0:
                return
            head = bytes(self._buffer[:end]).lower()
            length = int(head.split(b"content-length:")[1].split(b"\r\n")[0])
            self._missing = end + 4 + length
        if len(self._buffer) >= self._missing:
            del self._buffer[: self._missing]
            self._missing = -1
            asyncio.get_running_loop().call_later(ANSWER_S, self._answer)

    def _answer(self) -> None:
        if not self._transport.is_closing():
            head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(COMPLETION)
            self._transport.write(head + COMPLETION)


def serve(port: Any) -> None:
    """Run the server; tell its port."""

    async def run() -> None:
        server = await asyncio.get_running_loop().create_server(Server, "127.0.0.1", 0, backlog=4096)
        port.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(run())


def transcript() -> tuple[Turn, ...]:
    """Return an episode's turns before its tenth request: about 4,500 characters."""
    opening = "Interact with a household to solve a task. " * 24
    turns = [Turn(role="user", content=opening)]
    for number in range(9):
        turns.append(
            Turn(role="assistant", content=f"Thought: next I open drawer {number}.\nAction: open drawer", loss=True)
        )
        turns.append(
            Turn(role="user", content=f"Observation: drawer {number} is open. In it, you see " + "a pen, " * 25)
        )
    return tuple(turns)


async def measure(ask: Ask, in_flight: int, warm_s: float, span_s: float) -> dict[str, float]:
    """Keep `in_flight` callers busy; return CPU milliseconds per answer, and answers per second, after the warm-up."""
    answers = 0
    over = False

    async def caller() -> None:
        nonlocal answers
        while not over:
            await ask()
            answers += 1

    callers = [asyncio.create_task(caller()) for _ in range(in_flight)]
    await asyncio.sleep(warm_s)
    cpu, wall, before = time.process_time(), time.perf_counter(), answers
    await asyncio.sleep(span_s)
    cpu, wall, done = time.process_time() - cpu, time.perf_counter() - wall, answers - before
    over = True
    await asyncio.gather(*callers)
    return {"cpu_ms": round(1000 * cpu / done, 4), "answers_per_s": round(done / wall, 1)}


async def bare(url: str, in_flight: int, span_s: float) -> dict[str, float]:
    """Measure aiohttp alone."""
    body = chat_request("toy", transcript(), SAMPLING, 1)
    headers = {"Content-Type": "application/json"}
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), headers=headers) as session:

        async def ask() -> None:
            async with session.post(f"{url}/chat/completions", data=body) as response:
                await response.read()

        return await measure(ask, in_flight, 2 * ANSWER_S, span_s)


async def through_policy(policy: EndpointPolicy, in_flight: int, warm_s: float, span_s: float) -> dict[str, float]:
    """Measure a policy."""
    turns = transcript()
    try:
        return await measure(lambda: policy.act(turns, 1), in_flight, warm_s, span_s)
    finally:
        await policy.aclose()


def parts() -> dict[str, float]:
    """Return microseconds of the pieces that are the policy's own."""
    turns = transcript()

    def micro(work: Callable[[], Any], times: int = 2000) -> float:
        started = time.process_time()
        for _ in range(times):
            work()
        return round(1e6 * (time.process_time() - started) / times, 1)

    return {
        "write_request": micro(lambda: chat_request("toy", turns, SAMPLING, 1)),
        "read_answer": micro(lambda: read_answer(200, {}, COMPLETION, 2.0)),
    }


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--in-flight", type=int, default=IN_FLIGHT)
    parser.add_argument("--seconds", type=float, default=SPAN_S, help="length of each measured span")
    parser.add_argument("--no-ray", action="store_true", help="leave out policy_shared")
    add_options(parser)
    arguments = parser.parse_args()
    load = idle_load(arguments)
    ours, theirs = multiprocessing.Pipe(duplex=False)
    server = multiprocessing.get_context("spawn").Process(target=serve, args=(theirs,), daemon=True)
    server.start()
    url = f"http://127.0.0.1:{ours.recv()}/v1"
    n, span, warm = arguments.in_flight, arguments.seconds, 2 * ANSWER_S

    def run(warm_s: float = warm, **settings: Any) -> dict[str, float]:
        async def once() -> dict[str, float]:
            policy = EndpointPolicy(url, "toy", prices=PRICES, **settings)
            result = await through_policy(policy, n, warm_s, span)
            return result | {"concurrency": policy.concurrency}

        return asyncio.run(once())

    results: dict[str, Any] = {"bare": asyncio.run(bare(url, n, span)), "policy": run(concurrency=n)}
    results["policy_auto"] = run(concurrency="auto", warm_s=10 * ANSWER_S)
    results["policy_budget"] = run(concurrency=n, limits=LIMITS)
    if not arguments.no_ray:
        import ray

        ray.init("local", num_cpus=1, include_dashboard=False, object_store_memory=100 * 2**20, log_to_driver=False)
        budget = {"requests_per_minute": LIMITS.requests_per_minute, "tokens_per_minute": LIMITS.tokens_per_minute}
        spec = PolicySpec(prices=PRICES, budget={**budget, "money": LIMITS.money})
        with shared_limits(spec, "benchmark") as actor:
            results["policy_shared"] = run(concurrency=n, limits=LIMITS, shared=actor)
        ray.shutdown()
    server.terminate()
    report = {
        "in_flight": n,
        "answer_s": ANSWER_S,
        "seconds": span,
        "load_before": load,
        **machine("cores", "python"),
        "aiohttp": aiohttp.__version__,
        "request_bytes": len(chat_request("toy", transcript(), SAMPLING, 1)),
        "results": results,
        "parts_us": parts(),
    }
    write_result(report, "endpoint_overhead", arguments, full=(n, span) == (IN_FLIGHT, SPAN_S) and not arguments.no_ray)
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
