"""Which conditions of a goal hold, read from the engine's facts: for reports, never for the reward."""

from collections.abc import Iterable, Sequence

from agenttuning.environments.alfworld.rooms import LOOK, TREATMENTS, TWO
from agenttuning.environments.alfworld.scene import Goal

_STATES = {"clean": "isclean", "hot": "ishot", "cool": "iscool"}


def conditions(facts: Iterable[Sequence[str]], goal: Goal) -> dict[str, bool]:
    """Return each condition of the goal by name, and whether some one object fulfils it.

    Args:
        facts: (predicate, argument, ...), lower-cased.
        goal: what the task asks.
    """
    true = {tuple(fact) for fact in facts}
    kind = f"{goal.object.lower()}type"
    targets = {fact[1] for fact in true if fact[0] == "objecttype" and fact[2] == kind}
    if goal.type == LOOK:
        lamp = f"{(goal.lamp or '').lower()}type"
        lamps = {fact[1] for fact in true if fact[0] == "objecttype" and fact[2] == lamp}
        return {
            "held": any(fact[0] == "holds" and fact[2] in targets for fact in true),
            "lit": any(("istoggled", name) in true for name in lamps),
        }
    place = f"{(goal.receptacle or '').lower()}type"
    there = {fact[1] for fact in true if fact[0] == "receptacletype" and fact[2] == place}
    inside = [fact for fact in true if fact[0] == "inreceptacle" and fact[1] in targets and fact[2] in there]
    found = {"placed": bool(inside)}
    if goal.type == TWO:
        found["both"] = any(sum(fact[2] == name for fact in inside) >= 2 for name in there)
    if (treatment := TREATMENTS.get(goal.type)) is not None:
        found[treatment.state] = any((_STATES[treatment.state], name) in true for name in targets)
    return found
