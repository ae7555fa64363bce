"""What goes over the wire to an OpenAI-compatible chat endpoint, and the retry clock: pure functions.

`chat_request` writes a body, `retry_wait` says how long to wait after a failure, `excerpt` shortens what an error body
says. What comes back is read in `replies`. Nothing here opens a connection.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from agenttuning.trajectory import Turn

FIRST_WAIT_S = 0.5
LONGEST_WAIT_S = 30.0

CONTEXT = "context"
"""`Reply.finish_reason` of a request that is longer than the model's context."""
LENGTH = "length"
"""`Reply.finish_reason` of an answer that reached its token limit."""
REFUSED = "content_filter"
"""`Reply.finish_reason` of a request or an answer that the provider blocked."""


def chat_request(model: str, turns: Sequence[Turn], sampling: Mapping[str, Any], seed: int | None) -> bytes:
    """Return the JSON body of one chat completion request.

    Args:
        model: the model's name at the endpoint.
        turns: what the policy sees; reasoning of earlier turns is not sent back, as providers ask.
        sampling: `temperature`, `top_p` and the token limit under the name the endpoint takes.
        seed: passed on, unless it is None; whether it decides the sample is the endpoint's affair.
    """
    seeded = {} if seed is None else {"seed": seed}
    return orjson.dumps({"model": model, "messages": [_message(t) for t in turns], **sampling, **seeded})


def retry_wait(failures: int, retry_after: float | None, spread: float) -> float:
    """Return the seconds to wait after the n-th failure in a row.

    Exponential back-off from `FIRST_WAIT_S` to `LONGEST_WAIT_S`, never less than the endpoint asked for, and spread
    so that requests that failed together do not come back together.

    Args:
        failures: failures so far, 1 or more.
        retry_after: what the endpoint asked for, in seconds.
        spread: a uniform random number in [0, 1).
    """
    backoff = min(LONGEST_WAIT_S, FIRST_WAIT_S * 2.0 ** min(failures - 1, 16))
    if retry_after is not None and retry_after >= backoff:
        return retry_after + spread * FIRST_WAIT_S
    return max(retry_after or 0.0, backoff * (0.5 + 0.5 * spread))


def excerpt(body: bytes, length: int = 300) -> str:
    """Return the error message inside an error body, or the body's beginning."""
    try:
        value = orjson.loads(body)
        error = value.get("error", value)
        if isinstance(error, dict):
            code = f" [{error['code']}]" if isinstance(error.get("code"), str) else ""
            value = str(error.get("message") or error.get("detail") or error) + code
        else:
            value = str(error)
    except (orjson.JSONDecodeError, AttributeError):
        value = body.decode("utf-8", "replace")
    text = " ".join(value.split())
    return text if len(text) <= length else text[: length - 3] + "..."


def _message(turn: Turn) -> dict[str, Any]:
    message: dict[str, Any] = {"role": turn.role, "content": turn.content}
    if turn.tool_calls:
        message["tool_calls"] = [
            {"id": c.id, "type": "function", "function": {"name": c.name, "arguments": c.arguments}}
            for c in turn.tool_calls
        ]
    if turn.tool_call_id is not None:
        message["tool_call_id"] = turn.tool_call_id
    if turn.name is not None:
        message["name"] = turn.name
    return message
