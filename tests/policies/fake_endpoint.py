"""A chat endpoint on loopback whose answers, and faults, a test decides."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web


@dataclass
class Fault:
    status: int
    body: Any = ""
    headers: dict[str, str] = field(default_factory=dict)


HANG = object()
DROP = object()
Script = Callable[[dict[str, Any], int], Any]


def completion(content: str | None, **message: Any) -> dict[str, Any]:
    finish = message.pop("finish_reason", "stop")
    return {
        "choices": [{"message": {"role": "assistant", "content": content, **message}, "finish_reason": finish}],
        "usage": {"prompt_tokens": 11, "completion_tokens": 7},
    }


class FakeEndpoint:
    def __init__(self, script: Script, models: list[str]) -> None:
        self.script = script
        self.models = models
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.in_flight = self.most_in_flight = 0
        self.base_url = ""

    async def chat(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        number = len(self.requests)
        self.requests.append(body)
        self.headers.append(dict(request.headers))
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            answer = self.script(body, number)
            if asyncio.iscoroutine(answer):
                answer = await answer
            if answer is HANG:
                await asyncio.sleep(30)
            if answer is DROP:
                assert request.transport is not None
                request.transport.close()
                return web.Response()
        finally:
            self.in_flight -= 1
        if isinstance(answer, Fault):
            if isinstance(answer.body, str):
                return web.Response(status=answer.status, text=answer.body, headers=answer.headers)
            return web.json_response(answer.body, status=answer.status, headers=answer.headers)
        return web.json_response(completion(answer) if isinstance(answer, str) else answer)

    async def list_models(self, _: web.Request) -> web.Response:
        return web.json_response({"data": [{"id": m} for m in self.models]})


@contextmanager
def fake_endpoint(script: Script, models: tuple[str, ...] = ("toy-model",), port: int = 0) -> Iterator[FakeEndpoint]:
    fake = FakeEndpoint(script, list(models))
    app = web.Application()
    app.router.add_post("/v1/chat/completions", fake.chat)
    app.router.add_get("/v1/models", fake.list_models)
    loop = asyncio.new_event_loop()
    runner = web.AppRunner(app, shutdown_timeout=0.1)

    async def start() -> None:
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", port)
        await site.start()
        fake.base_url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"

    loop.run_until_complete(start())
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield fake
    finally:
        asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(timeout=10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(timeout=5)
        loop.close()
