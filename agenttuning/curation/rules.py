"""The rules by which a trajectory is kept or dropped, each a pure function, found by name.

A rule takes a trajectory and the recipe and returns why the trajectory is dropped, or None. `curation.rules` names
the rules in the order they are asked; the first that objects drops the trajectory. A rule sees one trajectory only:
duplicates are found in `agenttuning.curation.run`.
"""

import difflib
from collections import Counter
from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import NamedTuple

import orjson

from agenttuning.errors import ConfigurationError
from agenttuning.recipe import Recipe
from agenttuning.trajectory import Outcome, Trajectory, Turn

Rule = Callable[[Trajectory, Recipe], str | None]

DUPLICATE = "duplicate"
"""Name under which repeated trajectories are dropped; always on."""


class Played(NamedTuple):
    """One agent turn and what it led to, as far as repetition is concerned."""

    reply: str
    action: bytes
    """Canonical JSON of the action; of the reply where it was not parsed."""
    observation: str | None
    """The turn that answered; None after the last."""


def reward(trajectory: Trajectory, recipe: Recipe) -> str | None:
    """Drop a trajectory whose reward is below its environment's `reward_threshold` (paper, section 2.1.3).

    Raises:
        ConfigurationError: the recipe does not list the trajectory's environment.
    """
    name = trajectory.task.environment
    spec = recipe.environments.get(name)
    if spec is None:
        known = ", ".join(recipe.environments)
        raise ConfigurationError(
            f"environments: trajectory {trajectory.id} is from {name!r}, which the recipe does not list ({known}); "
            f"add environments.{name}, whose reward_threshold decides"
        )
    if trajectory.reward >= spec.reward_threshold:
        return None
    return f"reward {trajectory.reward:g} is below {spec.reward_threshold:g}"


def form(trajectory: Trajectory, recipe: Recipe) -> str | None:
    """Drop a trajectory that did not complete, or whose trained turns do not parse or lack thoughts."""
    if trajectory.outcome is not Outcome.COMPLETED:
        return f"the episode ended as {trajectory.outcome.value}"
    trained = [(index, turn) for index, turn in enumerate(trajectory.turns) if turn.loss]
    if not trained:
        return "no turn is trained"
    for index, turn in trained:
        if turn.action is None:
            return f"trained turn {index} does not parse as an action"
    thoughtful = sum(1 for _, turn in trained if turn.thought and turn.thought.strip())
    share, least = thoughtful / len(trained), recipe.curation.require_thought
    if share < least:
        return f"{thoughtful} of {len(trained)} trained turns have a thought ({share:.0%}); {least:.0%} must"
    return None


def repetition(trajectory: Trajectory, recipe: Recipe) -> str | None:
    """Drop a trajectory that goes in circles: it would teach to.

    That is: the same action with the same observation more than `max_repeated_actions` times; the same reply twice
    running without anything new seen; a series of two or more actions with the same observations twice running.
    """
    steps = played(trajectory)
    most = recipe.curation.max_repeated_actions
    for (action, _), count in Counter((step.action, step.observation) for step in steps).items():
        if count > most:
            return f"the same action with the same observation {count} times (at most {most}): {_short(action)}"
    for previous, step in pairwise(steps):
        if previous.reply == step.reply and previous.observation == step.observation:
            return f"the same reply twice running with nothing new seen: {_short(step.action)}"
    length = _cycle([(step.action, step.observation) for step in steps])
    return f"the same {length} actions with the same observations twice running" if length else None


RULES: dict[str, Rule] = {"reward": reward, "form": form, "repetition": repetition}
"""Rules by the name that a recipe uses."""


def rules_named(names: Iterable[str]) -> dict[str, Rule]:
    """Return the rules of those names, in that order.

    Raises:
        ConfigurationError: no such rule.
    """
    chosen: dict[str, Rule] = {}
    for name in names:
        if name not in RULES:
            guess = difflib.get_close_matches(name, RULES, n=1)
            hint = f"did you mean {guess[0]!r}?" if guess else f"known rules: {', '.join(RULES)}"
            raise ConfigurationError(f"curation.rules: unknown rule {name!r}; {hint}")
        chosen[name] = RULES[name]
    return chosen


def first_objection(trajectory: Trajectory, recipe: Recipe, rules: dict[str, Rule]) -> tuple[str, str] | None:
    """Return the first rule that objects and its reason, or None when all agree to keep the trajectory."""
    for name, rule in rules.items():
        if reason := rule(trajectory, recipe):
            return name, reason
    return None


def played(trajectory: Trajectory) -> list[Played]:
    """Return the agent's own turns with what followed each: no acknowledgement, no demonstration.

    Where the calls are recorded they say which turns those are; in an imported trajectory they are the parsed or
    trained turns.
    """
    called = {call.turn for call in trajectory.calls}
    steps = []
    for index, turn in enumerate(trajectory.turns):
        own = index in called if called else turn.action is not None or bool(turn.loss)
        if turn.role != "assistant" or not own:
            continue
        follower = trajectory.turns[index + 1] if index + 1 < len(trajectory.turns) else None
        answered = follower is not None and follower.role in ("user", "tool")
        steps.append(Played(turn.content, _canonical(turn), follower.content if follower and answered else None))
    return steps


def _canonical(turn: Turn) -> bytes:
    if turn.action is None:
        return turn.content.encode()
    return orjson.dumps([turn.action.name, turn.action.arguments], option=orjson.OPT_SORT_KEYS)


def _cycle(steps: list[tuple[bytes, str | None]]) -> int:
    """Return the length (2 or more) of the shortest series that follows itself at once, or 0."""
    for length in range(2, len(steps) // 2 + 1):
        run = 0
        for first, later in zip(steps, steps[length:], strict=False):
            run = run + 1 if first == later else 0
            if run == length:
                return length
    return 0


def _short(action: bytes) -> str:
    text = action.decode(errors="replace")
    return text if len(text) <= 80 else text[:77] + "..."
