"""Derivation: from a task with a gold program to a trajectory, or from a question and a gold program to a task.

A trajectory's actions execute the gold program step by step (SQL, a shell script in steps, a walkthrough, any
environment's expert). Its thoughts are a policy's, each written before the action's outcome is known: the policy sees
the opening, the turns so far and the next action, and nothing that comes later. A thought that breaks the action
grammar, or cites a number of two digits or more or a quoted text that was never shown, is asked for again; an answer
that was never shown ends the attempt, for the policy would see it too early.

`derived_runs` derives many. It also makes tasks of questions with gold programs, to be played by any policy: what
solves such a task is what the gold program gives in a fresh world.
"""

import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from agenttuning.environments.base import Environment, Move, Step
from agenttuning.errors import MalformedReply
from agenttuning.instructions.trials import MAX_ACTIONS, Solution
from agenttuning.instructions.validation import stands_in
from agenttuning.policies.base import Policy, Reply
from agenttuning.trajectory import Action, Call, Outcome, Task, Trajectory, Turn, content_hash, trajectory_id

ANSWER = "answer"
"""Name of the actions that end an episode with values; they may hold only what was shown."""
LONGEST_THOUGHT = 700
EDIT = "derived: the next action was shown, and its thought asked for"
MISTAKE = "derived: a deliberate mistake with its own thought"

_REQUEST = """\
Your next action is:

{action}

Write the thought that leads to this action, in one to three sentences, in the first person: what you know so far and \
why this is the next thing to do. You have not seen what the action gives; do not guess it. Do not write the action. \
Reply with the thought alone."""
_NUMBER = re.compile(r"(?<![\w.])\d+(?:[.,]\d+)*(?![\w])")
_QUOTED = re.compile(r"`([^`\n]{2,80})`|\"([^\"\n]{2,80})\"")
_ESCAPE = re.compile(r"\\(?:[nrt]|x[0-9a-f]{2}|u[0-9a-f]{4})")
"""How a result shows a line break and other unseen characters within a text; a word of an answer may follow one."""


@dataclass(frozen=True)
class NotDerived:
    """Why a task has no derived trajectory; `reason` is a name to count by."""

    task: Task
    reason: str
    detail: str = ""


@dataclass
class _Record:
    turns: list[Turn]
    calls: list[Call]
    seen: str
    steps: int = 0
    rewritten: int = 0
    errors: list[int] | None = None


async def derive_trajectory(
    environment: Environment,
    task: Task,
    solution: Solution,
    policy: Policy,
    *,
    seed: int = 0,
    tries: int = 3,
    threshold: float = 1.0,
) -> Trajectory | NotDerived:
    """Play a task's gold program with thoughts that a policy writes.

    Args:
        environment: plays the task; reset here and closed here.
        task: what to play.
        solution: the gold program; see `trials.Solution`. A move of it with `loss=False` keeps its own thought.
        policy: writes the thoughts.
        seed: of the first request; later ones count on.
        tries: how often one thought is asked for.
        threshold: reward from which the trajectory is good.

    Raises:
        InfrastructureError: the world broke, or the policy's patience is over.
    """
    started = time.monotonic()
    try:
        observation = environment.reset(task)
        opening = [
            Turn(role="user", content=environment.description(task)),
            Turn(role="assistant", content=environment.acknowledgement, loss=False),
        ]
        prompt = content_hash([turn.model_dump(mode="json") for turn in opening])
        opening.append(Turn(role="user", content=observation))
        record = _Record(opening, [], "\n".join(turn.content for turn in opening))
        problem = await _play(environment, solution, policy, record, seed, tries)
    finally:
        evidence = environment.close()
    if problem is not None:
        return NotDerived(task, *problem)
    grade = environment.grade(task, evidence)
    if grade.reward < threshold:
        return NotDerived(task, "gold_fails", f"the gold program's reward is {grade.reward:g}")
    name, settings = f"derived:{policy.name}", dict(policy.settings)
    return Trajectory(
        id=trajectory_id(task, name, settings, 0),
        task=task,
        attempt=0,
        turns=tuple(record.turns),
        evidence=evidence,
        reward=grade.reward,
        score=grade.score,
        outcome=Outcome.COMPLETED,
        policy=name,
        settings=settings,
        seed=seed,
        versions={"environment": environment.version, "prompt": prompt},
        seconds=round(time.monotonic() - started, 4),
        steps=record.steps,
        calls=tuple(record.calls),
        diagnostics={"malformed": 0, "thoughts_rewritten": record.rewritten, "error_steps": record.errors or []},
    )


async def _play(
    environment: Environment, solution: Solution, policy: Policy, record: _Record, seed: int, tries: int
) -> tuple[str, str] | None:
    """Play to the end; return reason and detail where it cannot go on."""
    moves = solution(environment)
    move: Move | None = next(moves, None)
    while move is not None:
        if record.steps >= min(environment.max_steps, MAX_ACTIONS):
            return "too_long", f"the gold program takes more than {environment.max_steps} actions"
        if hidden := hidden_answer(move.action, record.seen):
            return "answer_not_shown", f"{hidden!r} was never shown before the answer"
        written = await _thought(environment, move, policy, record, seed, tries)
        if isinstance(written, tuple):
            return written
        content = environment.format(written, move.action)
        index = len(record.turns)
        turn = Turn(role="assistant", content=content, loss=move.loss, thought=written, action=move.action)
        step = environment.step(move.action)
        record.turns.append(turn)
        record.steps += 1
        record.seen += f"\n{content}\n{step.observation}"
        if step.error:
            record.errors = [*(record.errors or []), index]
        if step.done:
            return None
        record.turns.append(Turn(role="user", content=step.observation))
        move = _following(moves, step)
    return "gold_stops", "the gold program ended before the episode did"


def _following(moves: Any, step: Step) -> Move | None:
    try:
        following: Move = moves.send(step)
    except StopIteration:
        return None
    return following


async def _thought(
    environment: Environment, move: Move, policy: Policy, record: _Record, seed: int, tries: int
) -> str | tuple[str, str]:
    """Return a thought, or reason and detail where the policy writes none that will do."""
    if not move.loss:
        # The policy did not write it, but it is a turn of the agent: what reads the calls must find it.
        record.calls.append(Call(turn=len(record.turns), edit=MISTAKE))
        return move.thought
    shown = environment.format(None, move.action)
    last = record.turns[-1]
    asked = last.model_copy(update={"content": f"{last.content}\n\n{_REQUEST.format(action=shown)}"})
    problem = ""
    for attempt in range(tries):
        reply = await policy.act((*record.turns[:-1], asked), (seed + record.steps * tries + attempt) & 0x7FFFFFFF)
        thought = " ".join(reply.content.split())
        problem = thought_problem(environment, thought, move.action, f"{record.seen}\n{shown}") or ""
        if not problem:
            record.rewritten += attempt > 0
            record.calls.append(_call(reply, len(record.turns)))
            return thought
    return "no_thought", problem


def thought_problem(environment: Environment, thought: str, action: Action, shown: str) -> str | None:
    """Say what is wrong with a thought, or None.

    Args:
        environment: whose grammar the reply must follow.
        thought: as the policy wrote it, on one line.
        action: the action that follows it.
        shown: everything that the policy may know.
    """
    if not thought:
        return "it is empty"
    if len(thought) > LONGEST_THOUGHT:
        return f"it has {len(thought)} characters, at most {LONGEST_THOUGHT} are taken"
    try:
        parsed = environment.parse(environment.format(thought, action))
    except (MalformedReply, ValueError) as error:
        return f"it breaks the action grammar: {error}"
    if parsed.thought != thought or parsed.action != action:
        return "it holds an action of its own"
    for match in _NUMBER.finditer(thought):
        # One digit is a word.
        if len(match[0]) > 1 and not stands_in(match[0], shown):
            return f"it cites {match[0]!r}, which was not shown"
    for match in _QUOTED.finditer(thought):
        text = match[1] or match[2]
        if text.casefold() not in shown.casefold():
            return f"it cites {text!r}, which was not shown"
    return None


def hidden_answer(action: Action, shown: str) -> str | None:
    """Return a value of a final answer that was never shown, or None."""
    if action.name != ANSWER:
        return None
    plain = _ESCAPE.sub(" ", shown)
    for text in _leaves(action.arguments):
        for line in filter(None, map(str.strip, text.splitlines())):
            if not (stands_in(line, shown) or stands_in(line, plain)):
                return line
    return None


def _leaves(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for inner in value.values():
            yield from _leaves(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _leaves(inner)
    else:
        yield str(value)


def _call(reply: Reply, turn: int) -> Call:
    return Call(
        turn=turn,
        edit=EDIT,
        finish_reason=reply.finish_reason,
        prompt_tokens=reply.prompt_tokens,
        completion_tokens=reply.completion_tokens,
        seconds=round(reply.seconds, 4),
        token_ids=reply.token_ids,
        logprobs=reply.logprobs,
    )
