"""What goes over the wire to an OpenAI-compatible chat endpoint, and what comes back: pure functions.

`chat_request` writes the body, `read_reply` reads an answer, `read_failure` tells what a refused request means
(wait and try again, or only the user can help), and `retry_wait` is the retry clock. Nothing here opens a connection.
"""

import email.utils
import re
import time
from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from agenttuning.errors import AgentTuningError, ConfigurationError, InfrastructureError
from agenttuning.policies.base import Reply
from agenttuning.trajectory import ToolCall, Turn

FIRST_WAIT_S = 0.5
LONGEST_WAIT_S = 30.0
RETRIED_STATUSES = frozenset({408, 409, 425, 429})
"""Beside every 5xx."""

CONTEXT = "context"
"""`Reply.finish_reason` of a request that is longer than the model's context."""
REFUSED = "content_filter"
"""`Reply.finish_reason` of a request or an answer that the provider blocked."""

_TOO_LONG = re.compile(
    r"maximum context length|context_length_exceeded|context length|context window|max_model_len", re.I
)
_FILTERED = re.compile(r"content_filter|content management policy", re.I)
_OTHER_LIMIT_NAME = re.compile(r"max_completion_tokens")


class Nonsense(InfrastructureError):
    """The endpoint answered 200 with something that is no chat completion."""


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


def read_reply(body: bytes, seconds: float) -> Reply:
    """Read a chat completion.

    Raises:
        Nonsense: not JSON, no choices, or a choice without a message.
    """
    try:
        answer = orjson.loads(body)
        choice = answer["choices"][0]
        message = choice["message"]
        content = _text(message.get("content"))
        calls = tuple(_tool_call(c) for c in message.get("tool_calls") or ())
        usage = answer.get("usage") or {}
        reasoning = message.get("reasoning_content") or message.get("reasoning")
        finish = REFUSED if message.get("refusal") else choice.get("finish_reason")
        return Reply(
            content=content or _text(message.get("refusal")),
            finish_reason=str(finish) if finish is not None else None,
            prompt_tokens=_count(usage.get("prompt_tokens")),
            completion_tokens=_count(usage.get("completion_tokens")),
            seconds=seconds,
            reasoning=str(reasoning) if reasoning else None,
            tool_calls=calls,
        )
    except (orjson.JSONDecodeError, LookupError, TypeError, AttributeError, ValueError) as error:
        raise Nonsense(f"not a chat completion ({type(error).__name__}: {error}): {excerpt(body)!r}") from error


def read_failure(status: int, headers: Mapping[str, str], body: bytes) -> Reply | AgentTuningError:
    """Return what an HTTP status other than 200 means.

    A prompt beyond the model's context, or one that the provider's filter blocks, is an answer (a `Reply` with that
    finish reason); what waiting may cure is an `InfrastructureError`; the rest is a `ConfigurationError`, whose
    message lacks the URL and the cure, which the caller knows.
    """
    text = excerpt(body)
    what = f"HTTP {status}: {text}"
    if status in RETRIED_STATUSES or status >= 500:
        if status == 429 and "insufficient_quota" in text:
            return ConfigurationError(what)
        return InfrastructureError(what, retry_after=read_retry_after(headers))
    if status == 413 or (status in (400, 422) and _TOO_LONG.search(text)):
        return Reply(content="", finish_reason=CONTEXT)
    if status in (400, 422) and _FILTERED.search(text):
        return Reply(content="", finish_reason=REFUSED)
    return ConfigurationError(what)


def wants_completion_limit(error: AgentTuningError) -> bool:
    """Whether a refusal says that the token limit must be named `max_completion_tokens`."""
    return "max_tokens" in str(error) and bool(_OTHER_LIMIT_NAME.search(str(error)))


def read_retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds that `retry-after-ms` or `Retry-After` (seconds or an HTTP date) asks to wait."""
    try:
        if (milliseconds := headers.get("retry-after-ms")) is not None:
            return max(0.0, float(milliseconds) / 1000)
        if (value := headers.get("Retry-After")) is None:
            return None
        if re.fullmatch(r"\s*\d+(\.\d+)?\s*", value):
            return float(value)
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except ValueError:
        return None


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


def _text(content: Any) -> str:
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    return "".join(part["text"] for part in content if part.get("type") == "text")


def _tool_call(call: Any) -> ToolCall:
    return ToolCall(id=call["id"], name=call["function"]["name"], arguments=call["function"]["arguments"])


def _count(value: Any) -> int | None:
    return int(value) if value is not None else None
