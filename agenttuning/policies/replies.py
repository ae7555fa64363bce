"""What comes back from an OpenAI-compatible chat endpoint: a `Reply`, or a `Failure` with its kind. Pure functions.

`read_answer` is the one way in. A prompt beyond the model's context, or one that the provider's filter blocks, is a
reply with that finish reason: the episode ends there, as an outcome. Some gateways answer 200 with an error object;
it is read as the status that it names.
"""

import email.utils
import math
import re
import time
from collections.abc import Mapping
from typing import Any

import orjson

from agenttuning.policies.base import Reply
from agenttuning.policies.failures import Failure, Kind
from agenttuning.policies.wire import CONTEXT, LENGTH, REFUSED, excerpt
from agenttuning.trajectory import ToolCall

_KINDS = {
    **dict.fromkeys((408, 504), Kind.TIME_OUT),
    **dict.fromkeys((409, 425), Kind.CONFLICT),
    **dict.fromkeys((503, 529), Kind.OVERLOADED),
    **dict.fromkeys((401, 403), Kind.KEY),
    **dict.fromkeys((404, 405), Kind.MODEL),
    402: Kind.QUOTA,
    429: Kind.RATE_LIMIT,
}
"""Beside them: 3xx is a redirect, other 5xx are server errors, the rest are refused requests."""
_MAY_COST = frozenset({408, 504})

_TOO_LONG = re.compile(
    r"maximum context length|context_length_exceeded|context length|context window|max_model_len|(prompt|input) is too"
    r" long|input (length|token count)[^.]{0,40} exceeds|`?inputs`? tokens \+|string_above_max_length"
    r"|request too large",
    re.I,
)
_CUT = re.compile(r"(max_tokens|max_completion_tokens) or model output limit was reached", re.I)
"""Reasoning models answer so, with status 400, when they spend their whole token limit on thoughts."""
_FILTERED = re.compile(r"content_filter|content_policy|content management policy|safety system", re.I)
_OVERLOADED = re.compile(r"overloaded|server is busy|too busy|at capacity", re.I)
_NO_QUOTA = re.compile(r"insufficient_quota|billing_hard_limit|credit balance", re.I)
_PARAMETER = re.compile(r"\b(max_tokens|temperature|top_p|seed)\b")
_WORDS = (
    (re.compile(r"insufficient_quota|billing|payment", re.I), 402),
    (re.compile(r"rate.?limit|too.?many.?requests|resource.?exhausted", re.I), 429),
    (re.compile(r"overloaded|unavailable|capacity|busy", re.I), 503),
    (re.compile(r"authentication|unauthori[sz]ed|api.?key|permission|forbidden", re.I), 401),
    (re.compile(r"not.?found|does not exist", re.I), 404),
    (re.compile(r"invalid.?request|bad.?request|validation|context.?length|content.?(filter|policy)", re.I), 400),
    (re.compile(r"server.?error|internal|time.?out|upstream", re.I), 500),
)
_DURATION = re.compile(r"\s*(?:(\d+)h)?(?:(\d+)m(?!s))?(?:(\d+(?:\.\d+)?)(ms|s)?)?\s*")


def read_answer(status: int, headers: Mapping[str, str], body: bytes, seconds: float) -> Reply | Failure:
    """Return what an HTTP answer means.

    Args:
        status: HTTP status.
        headers: its headers; any case.
        body: its body.
        seconds: how long it took; goes into the reply.
    """
    if not 200 <= status < 300:
        return _read_status(status, headers, body, seconds)
    try:
        answer = orjson.loads(body)
    except orjson.JSONDecodeError:
        what = "an HTML page" if body.lstrip()[:1] == b"<" else "not JSON"
        return _nonsense(Kind.NOT_JSON, what, body)
    if not isinstance(answer, dict):
        return _nonsense(Kind.WRONG_SHAPE, "not a JSON object", body)
    if not answer.get("choices"):
        if answer.get("error"):
            return _read_error(answer["error"], headers, body, seconds)
        return _nonsense(Kind.NO_CHOICES, "no choices", body)
    try:
        return _read_completion(answer, headers, body, seconds)
    except (LookupError, TypeError, AttributeError, ValueError) as error:
        return _nonsense(Kind.WRONG_SHAPE, f"a choice of another shape ({type(error).__name__}: {error})", body)


def outcome_kind(reply: Reply) -> Kind | None:
    """Return the kind under which a reply that declines is counted, or None for an answer."""
    return {CONTEXT: Kind.CONTEXT, REFUSED: Kind.REFUSED}.get(reply.finish_reason or "")


def read_retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds that an answer asks to wait, or None.

    Read are `retry-after-ms`, `x-ms-retry-after-ms` and `Retry-After` in seconds, with a unit (`1500ms`, `6m0s`) or
    as an HTTP date, which is taken relative to the answer's own `Date`, so that a wrong clock here does no harm.
    """
    for name in ("retry-after-ms", "x-ms-retry-after-ms"):
        if (milliseconds := _number(headers.get(name))) is not None:
            return milliseconds / 1000
    value = headers.get("Retry-After")
    if value is None or not value.strip():
        return None
    if found := _DURATION.fullmatch(value):
        hours, minutes, rest, unit = found.groups()
        return int(hours or 0) * 3600 + int(minutes or 0) * 60 + float(rest or 0) / (1000 if unit == "ms" else 1)
    until, now = _date(value), _date(headers.get("Date", ""))
    return None if until is None else max(0.0, until - (time.time() if now is None else now))


def _read_completion(
    answer: dict[str, Any], headers: Mapping[str, str], body: bytes, seconds: float
) -> Reply | Failure:
    choice = answer["choices"][0]
    if choice.get("finish_reason") == "error":
        return _read_error(choice.get("error") or "server_error", headers, body, seconds)
    message = choice["message"]
    content = _text(message.get("content"))
    usage = answer.get("usage") or {}
    reasoning = message.get("reasoning_content") or message.get("reasoning")
    finish = REFUSED if message.get("refusal") else choice.get("finish_reason")
    return Reply(
        content=content or _text(message.get("refusal")),
        finish_reason=str(finish) if finish is not None else None,
        prompt_tokens=_count(usage.get("prompt_tokens")),
        completion_tokens=_count(usage.get("completion_tokens")),
        cached_tokens=_cached(usage),
        seconds=seconds,
        reasoning=str(reasoning) if reasoning else None,
        tool_calls=tuple(_tool_call(c) for c in message.get("tool_calls") or ()),
    )


def _read_status(status: int, headers: Mapping[str, str], body: bytes, seconds: float) -> Reply | Failure:
    text = excerpt(body)
    what = f"HTTP {status}: {text}"
    if 300 <= status < 400:
        return Failure(Kind.REDIRECT, f"HTTP {status}: redirects to {headers.get('Location', 'another page')!r}")
    if status in (400, 413, 422, 429) and (status == 413 or _TOO_LONG.search(text)):
        return Reply(content="", finish_reason=CONTEXT, seconds=seconds)
    if status == 400 and _CUT.search(text):
        return Reply(content="", finish_reason=LENGTH, seconds=seconds)
    if status in (400, 403, 422) and _FILTERED.search(text):
        return Reply(content="", finish_reason=REFUSED, seconds=seconds)
    if status in (403, 429) and _NO_QUOTA.search(text):
        return Failure(Kind.QUOTA, what)
    kind = _KINDS.get(status, Kind.SERVER_ERROR if status >= 500 else Kind.REQUEST)
    if kind in (Kind.SERVER_ERROR, Kind.REQUEST) and _OVERLOADED.search(text):
        kind = Kind.OVERLOADED
    parameter = _refused_parameter(body) if kind is Kind.REQUEST else None
    return Failure(kind, what, read_retry_after(headers), status in _MAY_COST, parameter)


def _read_error(error: Any, headers: Mapping[str, str], body: bytes, seconds: float) -> Reply | Failure:
    """Read the error object of an answer whose status says that all is well."""
    fields = error if isinstance(error, dict) else {"message": error}
    for name in ("code", "status"):
        status = fields.get(name)
        if isinstance(status, int | str) and str(status).isdecimal() and 400 <= int(status) < 600:
            return _read_status(int(status), headers, body, seconds)
    said = " ".join(str(fields.get(name) or "") for name in ("code", "type", "status", "message"))
    for words, status in _WORDS:
        if words.search(said):
            return _read_status(status, headers, body, seconds)
    return _nonsense(Kind.WRONG_SHAPE, "an error without a code", body)


def _refused_parameter(body: bytes) -> str | None:
    """Return the sampling parameter that an error names, or the name that it wants for the token limit."""
    try:
        error = orjson.loads(body)["error"]
        named = error.get("param")
        text = str(error.get("message") or "")
    except (orjson.JSONDecodeError, LookupError, TypeError, AttributeError):
        named, text = None, body.decode("utf-8", "replace")
    if "max_completion_tokens" in text:
        return "max_completion_tokens"
    found = _PARAMETER.search(named if isinstance(named, str) else text)
    return found[1] if found else None


def _nonsense(kind: Kind, what: str, body: bytes) -> Failure:
    return Failure(kind, f"not a chat completion ({what}): {excerpt(body)!r}", may_cost=True)


def _text(content: Any) -> str:
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    return "".join(part["text"] for part in content if part.get("type") == "text")


def _tool_call(call: Any) -> ToolCall:
    return ToolCall(id=call["id"], name=call["function"]["name"], arguments=call["function"]["arguments"])


def _cached(usage: Mapping[str, Any]) -> int | None:
    """Return the prompt tokens that came from the provider's cache, under the names that providers use."""
    details = usage.get("prompt_tokens_details") or {}
    for value in (details.get("cached_tokens"), usage.get("prompt_cache_hit_tokens"), usage.get("cached_tokens")):
        if value is not None:
            return _count(value)
    return None


def _count(value: Any) -> int | None:
    if value is None:
        return None
    count = int(value)
    if count < 0:
        raise ValueError(f"a negative count of tokens ({count})")
    return count


def _number(value: str | None) -> float | None:
    try:
        number = float(value or "")
    except ValueError:
        return None
    return number if math.isfinite(number) and number >= 0 else None


def _date(value: str) -> float | None:
    try:
        return email.utils.parsedate_to_datetime(value).timestamp()
    except (ValueError, TypeError, OverflowError, IndexError):
        return None
