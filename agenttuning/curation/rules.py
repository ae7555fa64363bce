"""The rules by which a trajectory is kept or dropped, each a pure function, found by name.

A rule takes a trajectory and the recipe and returns an objection or None. `curation.rules` names the rules in the
order they are asked. Rules that need more than one trajectory are functions of other modules: `scrub`,
`contamination`, `minhash` and `quota`.
"""

import difflib
import re
from collections import Counter
from collections.abc import Iterable
from itertools import pairwise

from agenttuning.conversations.importing import IMPORTED
from agenttuning.curation.steps import Objection, Played, Rule, own_turns, played
from agenttuning.curation.thoughts import hindsight, misalignment
from agenttuning.errors import ConfigurationError
from agenttuning.recipe import PAPER_THRESHOLDS, Recipe
from agenttuning.trajectory import Outcome, Trajectory

__all__ = ["ALL_RULES", "RULES", "Played", "check_rules", "first_objection", "played"]

SCRUB, CONTAMINATION, QUOTA = "scrub", "contamination", "quota"
DUPLICATE, NEAR_DUPLICATE, NEAR_TASK = "duplicate", "near_duplicate", "near_task"
SPECIAL_RULES = (SCRUB, CONTAMINATION, DUPLICATE, NEAR_DUPLICATE, NEAR_TASK)
"""Rules that change a trajectory, need the evaluation splits, or compare trajectories with each other."""


def reward(trajectory: Trajectory, recipe: Recipe) -> Objection | None:
    """Drop a trajectory whose reward is below its environment's `reward_threshold` (paper, section 2.1.3).

    An imported trajectory of an environment that the recipe does not list has the paper's threshold.

    Raises:
        ConfigurationError: the recipe does not list the trajectory's environment.
    """
    name = trajectory.task.environment
    spec = recipe.environments.get(name)
    imported = bool(trajectory.diagnostics.get(IMPORTED))
    if spec is None and not imported:
        known = ", ".join(recipe.environments)
        raise ConfigurationError(
            f"environments: trajectory {trajectory.id} is from {name!r}, which the recipe does not list ({known}); "
            f"add environments.{name}, whose reward_threshold decides"
        )
    threshold = spec.reward_threshold if spec is not None else PAPER_THRESHOLDS.get(name, 1.0)
    if trajectory.reward >= threshold - 1e-9:
        return None
    return Objection(f"reward {trajectory.reward:g} is below {threshold:g}")


def form(trajectory: Trajectory, recipe: Recipe) -> Objection | None:
    """Drop a trajectory that did not complete, or whose trained turns do not parse or lack thoughts."""
    if trajectory.outcome is not Outcome.COMPLETED:
        return Objection(f"the episode ended as {trajectory.outcome.value}")
    trained = [(index, turn) for index, turn in enumerate(trajectory.turns) if turn.loss]
    if not trained:
        return Objection("no turn is trained")
    if unread := tuple(index for index, turn in trained if turn.action is None):
        return Objection(f"trained turn {unread[0]} does not parse as an action", unread)
    silent = tuple(index for index, turn in trained if not (turn.thought and turn.thought.strip()))
    thoughtful = len(trained) - len(silent)
    share, least = thoughtful / len(trained), recipe.curation.require_thought
    if least is None:
        least = 0.0 if trajectory.diagnostics.get(IMPORTED) else 1.0
    if share < least:
        told = f"{thoughtful} of {len(trained)} trained turns have a thought ({share:.0%}); {least:.0%} must"
        return Objection(told, silent)
    return None


def repetition(trajectory: Trajectory, recipe: Recipe) -> Objection | None:
    """Drop a trajectory that goes in circles: it would teach to.

    That is: the same action with the same observation more than `max_repeated_actions` times; the same reply twice
    running without anything new seen; a series of two or more actions with the same observations twice running.
    """
    steps, own = played(trajectory), own_turns(trajectory)
    most = recipe.curation.max_repeated_actions
    seen: Counter[tuple[bytes, str | None]] = Counter()
    over = []
    for index, step in zip(own, steps, strict=True):
        seen[step.action, step.observation] += 1
        if seen[step.action, step.observation] > most:
            over.append(index)
    if over:
        (action, _), count = seen.most_common(1)[0]
        told = f"the same action with the same observation {count} times (at most {most}): {_short(action)}"
        return Objection(told, tuple(over))
    for (_, previous), (index, step) in pairwise(zip(own, steps, strict=True)):
        if previous.reply == step.reply and previous.observation == step.observation:
            return Objection(f"the same reply twice running with nothing new seen: {_short(step.action)}", (index,))
    start, length = _cycle([(step.action, step.observation) for step in steps])
    if length:
        told = f"the same {length} actions with the same observations twice running"
        return Objection(told, tuple(own[start : start + length]))
    return None


def truncated(trajectory: Trajectory, recipe: Recipe) -> Objection | None:
    """Object to a last turn that concludes from an observation that was cut: what decided may not have been shown.

    An agent that asks again, more narrowly, is not objected to.
    """
    own = own_turns(trajectory)
    last = own[-1] if own else 0
    if last and trajectory.turns[last].loss and (found := _CUT.search(trajectory.turns[last - 1].content)):
        return Objection(f"turn {last} concludes from an observation that was cut: {found[0]}", (last,))
    return None


RULES: dict[str, Rule] = {
    "reward": reward,
    "form": form,
    "repetition": repetition,
    "hindsight": hindsight,
    "misalignment": misalignment,
    "truncated": truncated,
}
"""Rules of one trajectory, by the name that a recipe uses."""
ALL_RULES = (*RULES, *SPECIAL_RULES)
"""Every rule that a recipe may name."""


def check_rules(names: Iterable[str], key: str = "curation.rules") -> tuple[str, ...]:
    """Return the names, each once.

    Raises:
        ConfigurationError: no such rule.
    """
    chosen = tuple(dict.fromkeys(names))
    for name in chosen:
        if name not in ALL_RULES:
            guess = difflib.get_close_matches(name, ALL_RULES, n=1)
            hint = f"did you mean {guess[0]!r}?" if guess else f"known rules: {', '.join(ALL_RULES)}"
            raise ConfigurationError(f"{key}: unknown rule {name!r}; {hint}")
    return chosen


def first_objection(trajectory: Trajectory, recipe: Recipe, names: Iterable[str]) -> tuple[str, Objection] | None:
    """Return the first rule of one trajectory that objects, and its objection; None when all agree to keep it."""
    for name in names:
        if name in RULES and (objection := RULES[name](trajectory, recipe)):
            return name, objection
    return None


def _cycle(steps: list[tuple[bytes, str | None]]) -> tuple[int, int]:
    """Return where the shortest series (2 or more) that follows itself at once begins again, and its length, or 0."""
    for length in range(2, len(steps) // 2 + 1):
        run = 0
        for place, (first, later) in enumerate(zip(steps, steps[length:], strict=False)):
            run = run + 1 if first == later else 0
            if run == length:
                return place + 1, length
    return 0, 0


_CUT = re.compile(
    r"\[(?:output )?(?:truncated|cut at)\b[^\]\n]{0,80}(?:\]|$)|\[TRUNCATED\b|\.\.\. ?\(truncated\)", re.IGNORECASE
)
"""How environments, ours and the published ones, say that an observation was cut."""


def _short(action: bytes) -> str:
    text = action.decode(errors="replace")
    return text if len(text) <= 80 else text[:77] + "..."
