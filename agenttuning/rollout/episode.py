"""The episode loop: one task, one environment, one policy, to one trajectory.

The opening is the environment's description, its acknowledgement, a worked example where the recipe asks for one, and
the first observation; then assistant and user turns alternate. Whatever happens in it becomes an `Outcome`: a bad
episode is data. Only `InfrastructureError` of the policy or of the world and `ConfigurationError` leave the loop.

An environment whose own code raises, or returns what cannot be used, ends the episode as `ENVIRONMENT_FAILURE`. One
that hangs or dies is a failure of the world (`EnvironmentLost`): it leaves the loop, and the episode is played again.
"""

import time
from dataclasses import dataclass, field
from typing import Any

from agenttuning.environments.base import Grade
from agenttuning.policies.base import Reply
from agenttuning.policies.wire import CONTEXT, REFUSED
from agenttuning.rollout.expert import Act
from agenttuning.rollout.host import Closed, EnvironmentFailed, ExpertFailed, Opening, Played
from agenttuning.rollout.isolation import Seat
from agenttuning.rollout.text_checks import is_refusal
from agenttuning.trajectory import UNGRADED, Call, Outcome, Task, Trajectory, Turn, content_hash, trajectory_id

CHARACTERS_PER_TOKEN = 3.5
TOKENS_PER_TURN = 6
"""What a chat template adds to a turn, for the estimate of a prompt's length."""


@dataclass(frozen=True)
class Limits:
    """What ends an episode early."""

    max_steps: int | None = None
    """Agent turns; None: the environment's own limit."""
    context_tokens: int = 4096
    max_malformed: int = 3
    max_repeats: int = 3


@dataclass(frozen=True)
class Attempt:
    """Which attempt of which policy an episode is: with the task it makes the trajectory's id."""

    policy: str
    settings: dict[str, Any]
    number: int = 0
    seed: int = 0


@dataclass
class _Record:
    """What an episode has gathered so far."""

    turns: list[Turn] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=dict)
    steps: int = 0
    malformed: int = 0
    truncated: int = 0
    error_steps: list[int] = field(default_factory=list)
    notes: list[dict[str, Any]] = field(default_factory=list)
    last_error: str | None = None
    closed: Closed | None = None
    ungraded: Outcome | None = None
    cost: float | None = None
    cached_tokens: int | None = None

    def pay(self, reply: Reply) -> None:
        if reply.cost is not None:
            self.cost = reply.cost + (self.cost or 0.0)
        if reply.cached_tokens is not None:
            self.cached_tokens = reply.cached_tokens + (self.cached_tokens or 0)

    def say(self, content: str | None) -> None:
        self.turns.append(Turn(role="user", content=content or ""))

    def close(self, closed: Closed, outcome: Outcome) -> Outcome:
        """Take in how the episode ended for the environment; return its outcome, which needs a grade."""
        self.closed = closed
        if not closed.ungraded:
            return outcome
        self.ungraded, self.last_error = outcome, closed.ungraded
        return Outcome.ENVIRONMENT_FAILURE

    def diagnostics(self) -> dict[str, Any]:
        found: dict[str, Any] = {"malformed": self.malformed, "truncated_observations": self.truncated}
        found["replaced_actions"] = sum("replaced_by" in note for note in self.notes)
        found["error_steps"] = self.error_steps
        optional = {"notes": self.notes, "last_error": self.last_error, UNGRADED: self.ungraded}
        paid = {"cost": self.cost, "cached_tokens": self.cached_tokens}
        found |= {key: value for key, value in paid.items() if value is not None}
        return found | {key: value for key, value in optional.items() if value}


async def play_episode(
    seat: Seat, task: Task, act: Act, limits: Limits, attempt: Attempt, *, demonstration: bool = False
) -> Trajectory:
    """Play one episode and return its trajectory, graded from the environment's evidence.

    Args:
        seat: the environment; reset here and closed here.
        task: what to play.
        act: what answers.
        limits: what ends the episode early.
        attempt: the policy's identity, the attempt's number and its seed.
        demonstration: put the environment's worked example before the task.

    Raises:
        InfrastructureError: the policy's patience is over, the environment was lost, or says that its world broke.
        ConfigurationError: nothing works until the user changes something.
    """
    started = time.monotonic()
    record = _Record()
    outcome = Outcome.ENVIRONMENT_FAILURE
    try:
        try:
            opening = await seat.open(task, demonstration)
            _begin(record, opening)
            outcome = await _loop(seat, act, limits, attempt, opening, record)
        except ExpertFailed as error:
            outcome, record.last_error = Outcome.POLICY_FAILURE, str(error)
        outcome = record.close(await seat.close(), outcome)
    except EnvironmentFailed as error:
        outcome, record.last_error = Outcome.ENVIRONMENT_FAILURE, str(error)
    finally:
        if record.closed is None:
            seat.discard()
    closed = record.closed or Closed(evidence={}, grade=Grade(reward=0.0, score=0.0))
    return Trajectory(
        id=trajectory_id(task, attempt.policy, attempt.settings, attempt.number),
        task=task,
        attempt=attempt.number,
        turns=tuple(record.turns),
        evidence=closed.evidence,
        reward=closed.grade.reward,
        score=closed.grade.score,
        outcome=outcome,
        policy=attempt.policy,
        settings=attempt.settings,
        seed=attempt.seed,
        versions=record.versions,
        seconds=round(time.monotonic() - started, 4),
        steps=record.steps,
        calls=tuple(record.calls),
        diagnostics=record.diagnostics(),
    )


def _begin(record: _Record, opening: Opening) -> None:
    record.say(opening.description)
    record.turns.append(Turn(role="assistant", content=opening.acknowledgement, loss=False))
    for turn in opening.demonstration:
        record.turns.append(turn.model_copy(update={"loss": False}) if turn.role == "assistant" else turn)
    shown = [t.model_dump(mode="json") for t in record.turns]
    record.versions.update({"environment": opening.version, "prompt": content_hash(shown)})
    record.say(opening.observation)


async def _loop(seat: Seat, act: Act, limits: Limits, attempt: Attempt, opening: Opening, record: _Record) -> Outcome:
    max_steps = limits.max_steps or opening.max_steps
    malformed = repeats = 0
    previous: str | None = None
    while record.steps < max_steps:
        if _prompt_tokens(record) > limits.context_tokens:
            return Outcome.CONTEXT_LIMIT
        reply = await act(tuple(record.turns), (attempt.seed + record.steps) & 0x7FFFFFFF)
        if reply.finish_reason == CONTEXT:
            return Outcome.CONTEXT_LIMIT
        record.steps += 1
        record.calls.append(_call(reply, len(record.turns)))
        record.pay(reply)
        repeats = repeats + 1 if reply.content == previous else 1
        previous = reply.content
        repeated, refused = repeats >= limits.max_repeats, reply.finish_reason == REFUSED
        played = await (seat.parse(reply.content) if repeated or refused else seat.play(reply.content))
        _note(record, reply, played)
        malformed = malformed + 1 if played.malformed is not None else 0
        if refused:
            return Outcome.REFUSED
        if malformed and (opening.ends_on_malformed or malformed >= limits.max_malformed):
            return Outcome.REFUSED if is_refusal(reply.content) else Outcome.INVALID_ACTION
        if repeated:
            return Outcome.REPETITION
        if played.step is not None and played.step.done:
            return Outcome.COMPLETED
        if record.steps < max_steps:
            record.say(played.malformed if played.step is None else played.step.observation)
    return Outcome.STEP_LIMIT


def _note(record: _Record, reply: Reply, played: Played) -> None:
    """Append the assistant turn and keep what curation reads about it."""
    index = len(record.turns)
    loss = reply.loss and played.malformed is None
    turn = Turn(
        role="assistant",
        content=reply.content,
        loss=loss,
        thought=played.thought,
        action=played.action,
        reasoning=reply.reasoning,
    )
    record.turns.append(turn)
    if played.malformed is not None:
        record.malformed += 1
        record.last_error = played.malformed
    if played.step is not None:
        if played.step.error:
            record.error_steps.append(index)
        if played.step.note:
            record.notes.append({"turn": index, **played.step.note})
            record.truncated += bool(played.step.note.get("truncated"))


def _call(reply: Reply, turn: int) -> Call:
    return Call(
        turn=turn,
        finish_reason=reply.finish_reason,
        prompt_tokens=reply.prompt_tokens,
        completion_tokens=reply.completion_tokens,
        seconds=round(reply.seconds, 4),
        token_ids=reply.token_ids,
        logprobs=reply.logprobs,
    )


def _prompt_tokens(record: _Record) -> float:
    """Estimate the next prompt's tokens: from the last call's usage where it is known, else from characters."""
    known, start = 0, 0
    if record.calls and (last := record.calls[-1]).prompt_tokens is not None:
        known, start = last.prompt_tokens + (last.completion_tokens or 0), last.turn + 1
    rest = record.turns[start:]
    return known + sum(len(t.content) for t in rest) / CHARACTERS_PER_TOKEN + TOKENS_PER_TURN * len(rest)
