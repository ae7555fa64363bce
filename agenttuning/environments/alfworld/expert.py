"""The demonstrators: an explorer for generated games, a guide along the stored walkthrough for published ones.

Both word their thoughts from `Knowledge`, that is from what was shown. The explorer follows `Rules` and makes, in a
share of the episodes, one plausible mistake that is not trained (`Move.loss` is false); the same rules recover from it:

- `hasty`: it goes to the destination before it has anything to put there;
- `wrong`: it takes an object that the task is not about;
- `blind`: it takes from a closed place;
- `forget`: it places the object without cleaning, heating or cooling it.

The guide goes straight to the target, since the walkthrough knows where it lies; its thoughts do not say why. Its
mistakes are `hasty`, `wrong` and `forget`, each with the moves that bring it back to the walkthrough.
"""

import random
from collections.abc import Sequence
from itertools import takewhile

from agenttuning.environments.alfworld.grammar import command_text, structured
from agenttuning.environments.alfworld.knowledge import Knowledge, kind
from agenttuning.environments.alfworld.rooms import LOOK, may_hold
from agenttuning.environments.alfworld.rules import Choice, Rules
from agenttuning.environments.alfworld.scene import Goal, put_command, spoken
from agenttuning.environments.alfworld.thoughts import MANNERS, word
from agenttuning.environments.base import Expert, Move
from agenttuning.trajectory import Action


def explore(observation: str, goal: Goal, wording: str, rng: random.Random, mistake_rate: float) -> Expert:
    """Play a game from its first observation, deciding by `Rules`.

    Args:
        observation: the room sentence and the task.
        goal: what the task asks, as its sentence says it.
        wording: `put` or `move`.
        rng: draws manner and mistake.
        mistake_rate: share of the episodes in which a mistake is tried; a room that offers no occasion has none.
    """
    rules, known, manner = Rules(goal, wording), Knowledge.begin(observation), rng.randrange(MANNERS)
    mistakes = _drawn(rules, rng) if rng.random() < mistake_rate else ()
    forgetting, last = False, ""
    while True:
        choice = rules.decide(known, last=last, forget=forgetting)
        if mistakes and choice.situation == "take_treat":
            forgetting, mistakes = True, ()
        slip = _slip(mistakes, choice, rules, known, rng)
        if slip is not None:
            choice, mistakes = slip, ()
        erring = slip is not None or (forgetting and known.holding is not None)
        step = yield Move(word(choice.situation, manner, **choice.names), structured(choice.command), loss=not erring)
        if step.done:
            return
        known.update(step.observation)
        forgetting = forgetting and choice.situation != "place"
        last = choice.situation


def _drawn(rules: Rules, rng: random.Random) -> tuple[str, ...]:
    """Return the kinds of mistake that this episode may make, at the first occasion for one of them."""
    kinds: list[tuple[str, ...]] = [("wrong", "blind")]
    if rules.goal.type != LOOK:
        kinds.append(("hasty",))
    if rules.treatment is not None:
        kinds.append(("forget",))
    return rng.choice(kinds)


def _slip(mistakes: Sequence[str], choice: Choice, rules: Rules, known: Knowledge, rng: random.Random) -> Choice | None:
    """Return the mistake for which the moment of `choice` is the occasion, or None."""
    names, here = rules.names(known), str(known.here)
    searching = choice.situation in ("begin", "next")
    if (
        "hasty" in mistakes
        and searching
        and names["goal"] not in known.seen
        and not choice.command.endswith(names["goal"])
    ):
        return Choice(f"go to {names['goal']}", "hasty", names)
    if "blind" in mistakes and choice.situation == "uncover":
        thing = f"{rules.target} 1"
        return Choice(f"take {thing} from {here}", "blind", {**names, "thing": thing})
    others = [name for name in known.seen.get(here, []) if kind(name) != rules.lamp and _fits(name, here)]
    if "wrong" in mistakes and choice.situation == "next" and others:
        thing = rng.choice(others)
        return Choice(f"take {thing} from {here}", "wrong", {**names, "thing": thing})
    return None


def guide(
    observation: str,
    goal: Goal,
    wording: str,
    walkthrough: Sequence[str],
    rng: random.Random,
    mistake_rate: float = 0.0,
) -> Expert:
    """Follow a stored walkthrough (in the wheel's wording), with thoughts from what was shown.

    Args:
        observation: the room sentence and the task.
        goal: what the task asks, as its sentence says it.
        wording: `put` or `move`.
        walkthrough: the commands that win.
        rng: draws manner and mistake.
        mistake_rate: share of the episodes with a mistake and its recovery; a game that offers no occasion has none.
    """
    rules, known, manner = Rules(goal, wording), Knowledge.begin(observation), rng.randrange(MANNERS)
    mistakes = _drawn(rules, rng) if rng.random() < mistake_rate else ()
    actions = [structured(command) for command in direct(walkthrough)]
    # Where several places would do, the thoughts must name those that the walkthrough uses.
    ends = {action.name: str(action.arguments.get("receptacle", "")) for action in actions}
    chosen = {"goal": ends.get("move") or ends.get("put") or ""}
    if not chosen["goal"] or direct(walkthrough) != list(walkthrough):
        # The target shares a location with its destination, or another place: from one there is no way to the other.
        mistakes = tuple(mistake for mistake in mistakes if mistake == "wrong")
    if rules.treatment is not None:
        chosen["appliance"] = ends.get(rules.treatment.verb, "")
    last = ""
    for action in actions:
        names = {**rules.names(known), **{key: place for key, place in chosen.items() if place}}
        detour = _detour(mistakes, action, rules, known, names, rng)
        mistakes = () if detour else mistakes
        for choice, loss in (*detour, (None, True)):
            if choice is None:
                names = {**rules.names(known), **{key: place for key, place in chosen.items() if place}}
                choice = _explained(action, rules, known, names, last)
            step = yield Move(word(choice.situation, manner, **choice.names), structured(choice.command), loss=loss)
            if step.done:
                return
            known.update(step.observation)
            last = choice.situation


def _detour(
    mistakes: Sequence[str], action: Action, rules: Rules, known: Knowledge, names: dict[str, str], rng: random.Random
) -> list[tuple[Choice, bool]]:
    """Return a mistake before a walkthrough's command and the moves back to it, each with whether it is trained."""
    place, here = str(action.arguments.get("receptacle", "")), str(known.here)
    goal = names.get("goal", "")
    if "hasty" in mistakes and known.here is None and goal and goal != place:
        return [(Choice(f"go to {goal}", "hasty", names), False)]
    seen = [name for name in known.seen.get(here, []) if kind(name) not in (rules.target, rules.lamp)]
    others = [name for name in seen if _fits(name, here)]
    if "wrong" in mistakes and action.name == "take" and others:
        thing = rng.choice(others)
        back = {**names, "thing": thing}
        return [
            (Choice(f"take {thing} from {here}", "wrong", back), False),
            (Choice(put_command(thing, here, rules.wording), "give_back", back), True),
        ]
    if "forget" in mistakes and action.name == "go_to" and place == names.get("appliance") and known.holding:
        thing = known.holding
        if kind(goal) in _WITH_DOORS or goal == here:
            return []
        return [
            (Choice(f"go to {goal}", "to_goal", names), False),
            (Choice(put_command(thing, goal, rules.wording), "place", names), False),
            (Choice(f"take {thing} from {goal}", "take_again", {**names, "thing": thing}), True),
        ]
    return []


def _fits(thing: str, place: str) -> bool:
    """Say whether a thing may be put where it was found: some published games begin with things that may not."""
    return may_hold(kind(place), kind(thing))


_WITH_DOORS = frozenset({"cabinet", "drawer", "fridge", "microwave", "safe"})
"""Places that may be closed: a walkthrough opens them itself, and must find them as it left them."""


def direct(walkthrough: Sequence[str]) -> list[str]:
    """Return a walkthrough that goes to the places it then uses.

    Several receptacles may stand at one location, and the planner names any of them; the observation shows only the one
    that was named.
    """
    commands = list(walkthrough)
    for index, command in enumerate(commands):
        if command.startswith("go to "):
            stay = takewhile(lambda later: not later.startswith("go to "), commands[index + 1 :])
            used = (structured(later).arguments.get("receptacle") for later in stay)
            if place := next((place for place in used if place), None):
                commands[index] = f"go to {place}"
    return commands


def _explained(action: Action, rules: Rules, known: Knowledge, names: dict[str, str], last: str) -> Choice:
    """Return the situation that a walkthrough's command answers."""
    command, held = command_text(action), known.holding
    place = str(action.arguments.get("receptacle", ""))
    thing = str(action.arguments.get("object", ""))
    if action.name == "go_to":
        situation, more = _going(place, rules, known, last)
        return Choice(command, situation, {**names, **more, "place": place})
    if action.name == "open":
        return Choice(command, "open_goal" if held else "uncover", {**names, "goal": place})
    if action.name in ("put", "move"):
        return Choice(put_command(thing, place, rules.wording), "place", {**names, "goal": place})
    if action.name in ("clean", "heat", "cool"):
        return Choice(command, "treat", names)
    if thing and thing not in known.seen.get(known.here or "", []):
        return Choice(command, "plain", names)
    if action.name == "take":
        return Choice(command, rules.taking(known, thing), {**names, "thing": thing})
    if action.name == "use":
        return Choice(command, "use_lamp" if held else "use_first", {**names, "other": thing})
    return Choice(command, "plain", names)


def _going(place: str, rules: Rules, known: Knowledge, last: str) -> tuple[str, dict[str, str]]:
    """Return the situation of a walk to `place`, and the names that it adds."""
    wanted = rules.target if known.holding is None else rules.lamp
    other = next((name for name, spot in known.where(wanted) if spot == place and name not in known.placed), None)
    if known.holding is None:
        if other is not None:
            return ("second_known" if last == "place" else "to_target"), {"other": other}
        if last == "place":
            return "second_search", {}
        barren = known.here in known.seen and not any(spot == known.here for _, spot in known.where(wanted))
        return ("begin" if known.here is None else "next" if barren else "empty_handed"), {}
    if rules.goal.type == LOOK:
        return ("to_lamp", {"other": other}) if other is not None else ("seek_lamp", {})
    if rules.treatment is not None:
        if known.holding in known.treated:
            return "to_goal_treated", {"goal": place}
        if kind(place) == spoken(rules.treatment.appliance):
            return "to_appliance", {"appliance": place}
    return "to_goal", {"goal": place}
