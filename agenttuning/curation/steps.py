"""What a rule looks at in a trajectory, and what it answers.

A rule takes a trajectory and the recipe and returns an `Objection` or None. An objection that names turns can be met
in three ways (`curation.on_bad_turn`): drop the trajectory, cut it before the first of them, or mask them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import orjson

from agenttuning.recipe import Recipe
from agenttuning.trajectory import Trajectory, Turn


@dataclass(frozen=True)
class Objection:
    """Why a rule objects to a trajectory."""

    reason: str
    turns: tuple[int, ...] = ()
    """Indices of the bad turns, ascending; empty where the trajectory as a whole is bad."""


Rule = Callable[[Trajectory, Recipe], Objection | None]


class Played(NamedTuple):
    """One agent turn and what it led to, as far as repetition is concerned."""

    reply: str
    action: bytes
    """Canonical JSON of the action; of the reply where it was not parsed."""
    observation: str | None
    """The turn that answered; None after the last."""


def own_turns(trajectory: Trajectory) -> list[int]:
    """Return the indices of the agent's own turns: no acknowledgement, no demonstration.

    Where the calls are recorded they say which turns those are; in an imported trajectory they are the parsed or
    trained turns.
    """
    called = {call.turn for call in trajectory.calls}
    return [
        index
        for index, turn in enumerate(trajectory.turns)
        if turn.role == "assistant" and (index in called if called else turn.action is not None or bool(turn.loss))
    ]


def first_task_turn(trajectory: Trajectory) -> int:
    """Return the index of the turn that shows the task; what stands before it is prompt, the same for many tasks."""
    own = own_turns(trajectory)
    return max(0, own[0] - 1) if own else 0


def played(trajectory: Trajectory) -> list[Played]:
    """Return the agent's own turns with what followed each."""
    steps = []
    for index in own_turns(trajectory):
        turn = trajectory.turns[index]
        follower = trajectory.turns[index + 1] if index + 1 < len(trajectory.turns) else None
        answered = follower is not None and follower.role in ("user", "tool")
        steps.append(Played(turn.content, canonical_action(turn), follower.content if follower and answered else None))
    return steps


def canonical_action(turn: Turn) -> bytes:
    """Return the turn's action as canonical JSON, or its text where it has none."""
    if turn.action is None:
        return turn.content.encode()
    return orjson.dumps([turn.action.name, turn.action.arguments], option=orjson.OPT_SORT_KEYS)
