"""What a stranger's environment gives, checked where it is given: plain values that can be stored and sent.

An episode is stored as JSON and crosses processes, so what an environment returns is made plain here before anything
else reads it. What its contract forbids is `Unusable` and costs that episode, no other. Two things are mended instead:
a text that holds undecodable bytes as lone surrogates, and a reward that rounding has carried past 0 or 1.
"""

import json
import math
import traceback
from collections.abc import Generator
from typing import Any

import orjson

from agenttuning.environments.base import Expert, Grade, Parsed, Step
from agenttuning.errors import AgentTuningError, InfrastructureError, MalformedReply
from agenttuning.trajectory import Action, Turn

ROUNDING = 1e-6
"""So far beyond 0 or 1 a reward is taken for what rounding left."""


class Unusable(Exception):
    """An environment returned what its contract forbids; the text states the rule, the value and the cure."""


def text(what: str, given: object) -> str:
    """Return a plain text that UTF-8 can hold: surrogates are joined in pairs, and a lone one becomes U+FFFD."""
    if not isinstance(given, str):
        raise Unusable(f"{what} must be a text (got {_shown(given)}); return a str")
    plain = str.__str__(given)
    try:
        plain.encode()
    except UnicodeEncodeError:
        return plain.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return plain


def as_stored(what: str, given: Any) -> dict[str, Any]:
    """Return a JSON object as it will be read back."""
    if not isinstance(given, dict):
        raise Unusable(f"{what} must be a dict (got {_shown(given)}); return one, empty where there is nothing to say")
    try:
        return orjson.loads(orjson.dumps(given))  # type: ignore[no-any-return]
    except TypeError:
        pass  # Lone surrogates, keys that are no texts, whole numbers beyond 64 bits: the slower way has them.
    try:
        found: dict[str, Any] = orjson.loads(text(what, json.dumps(given, ensure_ascii=False)))
        orjson.dumps(found)
    except (TypeError, ValueError, RecursionError) as error:
        raise Unusable(f"{what} must be JSON ({said(error)}; got {_shown(given)}); return plain values") from error
    return found


def step_of(given: object) -> Step:
    """Return what `step` gave."""
    if not isinstance(given, Step):
        raise Unusable(f"`step` must return a Step (got {_shown(given)}); return Step(observation, done)")
    note = as_stored("the note of a Step", given.note) if given.note else {}
    return Step(text("the observation of a Step", given.observation), bool(given.done), bool(given.error), note)


def parsed_of(given: object) -> Parsed:
    """Return what `parse` gave."""
    if not isinstance(given, Parsed) or not isinstance(given.action, Action):
        raise Unusable(f"`parse` must return a Parsed with an Action (got {_shown(given)}); or raise MalformedReply")
    thought = None if given.thought is None else text("the thought of a Parsed", given.thought)
    arguments = as_stored("the arguments of an Action", given.action.arguments)
    return Parsed(thought, Action(name=text("the name of an Action", given.action.name), arguments=arguments))


def grade_of(given: object) -> Grade:
    """Return what `grade` gave."""
    if not isinstance(given, Grade):
        raise Unusable(f"`grade` must return a Grade (got {_shown(given)}); return Grade(reward, score)")
    return Grade(_within("reward", given.reward), _within("score", given.score))


def expert_of(given: object) -> Expert:
    """Return what `expert` gave."""
    if not isinstance(given, Generator):
        raise Unusable(f"`expert` must be a generator (got {_shown(given)}); yield each Move")
    return given


def turns_of(given: Any) -> tuple[Turn, ...]:
    """Return what `demonstration` gave."""
    turns = tuple(given)
    if not all(isinstance(turn, Turn) for turn in turns):
        raise Unusable(f"`demonstration` must return Turns (got {_shown(given)}); return a tuple of Turn, or ()")
    return tuple(Turn.model_validate(as_stored("a demonstration", turn.model_dump())) for turn in turns)


def steps_of(given: object) -> int:
    """Return an environment's `max_steps`."""
    if not isinstance(given, int) or given < 1:
        raise Unusable(f"max_steps must be a whole number from 1 on (got {_shown(given)}); correct the class")
    return int(given)


def ours(error: BaseException) -> AgentTuningError | None:
    """Return a failure of our own vocabulary, or None where `error` is the environment's own.

    It is an object of the vocabulary's class itself, which any process can read. A `MalformedReply` is none: it has a
    meaning in `parse` and `step` alone.
    """
    if not isinstance(error, AgentTuningError) or isinstance(error, MalformedReply):
        return None
    if isinstance(error, InfrastructureError):
        after = error.retry_after
        usable = isinstance(after, int | float) and 0 <= after < math.inf
        return InfrastructureError(said(error), after if usable else None)
    kind = next(cls for cls in type(error).__mro__ if cls.__module__ == AgentTuningError.__module__)
    plain: AgentTuningError = kind(said(error))
    return plain


def said(error: BaseException) -> str:
    """Return an error's text, whatever its class makes of it."""
    try:
        return text("an error", str(error))
    except Exception as other:
        return f"its own text raised {type(other).__name__}"


def told(error: BaseException, frames: int = 3) -> str:
    """Return an error with its class and the end of its traceback."""
    where = " < ".join(
        f"{frame.filename.rsplit('/', 1)[-1]}:{frame.lineno}"
        for frame in reversed(traceback.extract_tb(error.__traceback__)[-frames:])
    )
    return f"{type(error).__name__}: {said(error)} (at {where})"


def _within(what: str, given: Any) -> float:
    try:
        value = float(given)
    except (TypeError, ValueError):
        value = math.nan
    if not -ROUNDING <= value <= 1 + ROUNDING:
        raise Unusable(f"the {what} of a Grade must lie within 0 and 1 (got {_shown(given)}); mend `grade`")
    return min(1.0, max(0.0, value))


def _shown(given: object) -> str:
    return f"{type(given).__name__}: {repr(given)[:200]}"
