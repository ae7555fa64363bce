"""The explorer's rules: what to do next, given what was shown and what the goal says.

Search the places in the order in which the room sentence lists them, open what is closed, take the first target that is
seen, treat it where the goal asks for it, and bring it to the first listed place of the goal's type. Pure functions of
`Knowledge` and goal: they hold no state, and they do not know where things lie.
"""

from dataclasses import dataclass

from agenttuning.environments.alfworld.knowledge import Knowledge, kind
from agenttuning.environments.alfworld.rooms import LOOK, TREATMENTS, TWO
from agenttuning.environments.alfworld.scene import Goal, put_command, spoken
from agenttuning.environments.alfworld.thoughts import article

UNSETTLED = ("hasty", "blind", "give_back")
"""Situations after which the place at hand says nothing about the search."""


@dataclass(frozen=True)
class Choice:
    """A command, and the situation (a key of `thoughts.PHRASES`) that it answers."""

    command: str
    situation: str
    names: dict[str, str]


class Rules:
    """What to do in a known situation, for one goal. Holds no state of an episode."""

    def __init__(self, goal: Goal, wording: str) -> None:
        self.goal = goal
        self.wording = wording
        self.target = spoken(goal.object)
        self.lamp = spoken(goal.lamp or "")
        self.treatment = TREATMENTS.get(goal.type)

    def destination(self, known: Knowledge) -> str:
        """Return the place where the target goes: the first listed of its type."""
        return known.first(spoken(self.goal.receptacle or ""))

    def names(self, known: Knowledge) -> dict[str, str]:
        """Return the names that every thought may use."""
        here = known.here or ""
        names = {
            "target": self.target,
            "a_target": article(self.target),
            "here": here,
            "at_here": f"{'in' if here in known.doors else 'on'} {here}",
            "thing": known.holding or "",
        }
        if self.goal.type == LOOK:
            return {**names, "lamp": self.lamp, "a_lamp": article(self.lamp)}
        names["goal"] = self.destination(known)
        if self.treatment is not None:
            names["appliance"] = known.first(spoken(self.treatment.appliance))
            names |= {"verb": self.treatment.verb, "state": self.treatment.state}
        return names

    def decide(self, known: Knowledge, *, last: str = "", forget: bool = False) -> Choice:
        """Return the next command.

        Args:
            known: what was shown.
            last: situation of the previous choice, for the wording.
            forget: act as if the object needed no cleaning, heating or cooling (a deliberate mistake).
        """
        names = self.names(known)
        if known.holding is None:
            return self._find_target(known, names, last)
        if kind(known.holding) != self.target:
            return self._give_back(known, names)
        if self.goal.type == LOOK:
            return self._light(known, names, last)
        if self.treatment is not None and known.holding not in known.treated and not forget:
            if known.here == names["appliance"]:
                command = f"{self.treatment.verb} {known.holding} with {names['appliance']}"
                return Choice(command, "treat", names)
            return Choice(f"go to {names['appliance']}", "to_appliance", names)
        if known.here != names["goal"]:
            treated = self.treatment is not None and not forget
            return Choice(f"go to {names['goal']}", "to_goal_treated" if treated else "to_goal", names)
        if known.here in known.closed:
            return Choice(f"open {known.here}", "open_goal", names)
        return Choice(put_command(known.holding, known.here, self.wording), "place", names)

    def _find_target(self, known: Knowledge, names: dict[str, str], last: str) -> Choice:
        for name, place in known.where(self.target):
            if self.goal.type == TWO and name in known.placed:
                continue
            if place == known.here:
                return Choice(f"take {name} from {place}", self.taking(known, name), {**names, "thing": name})
            situation = "second_known" if last == "place" else "to_target"
            return Choice(f"go to {place}", situation, {**names, "other": name, "place": place})
        if known.here in known.closed and known.here not in known.seen:
            return Choice(f"open {known.here}", "uncover", names)
        situation = "second_search" if last == "place" else "empty_handed" if last in UNSETTLED else "next"
        return self._search(known, names, "begin", situation)

    def taking(self, known: Knowledge, thing: str) -> str:
        """Return the situation of taking a target."""
        if self.treatment is not None:
            return "take_again" if thing in known.placed else "take_treat"
        return "take_look" if self.goal.type == LOOK else "take_place"

    def _search(self, known: Knowledge, names: dict[str, str], begin: str, following: str) -> Choice:
        place = known.unsearched()
        if place is None:  # Everything was seen, and what is needed is in no known place: look around again.
            return Choice("look", "look_around", names)
        return Choice(f"go to {place}", begin if known.here is None else following, {**names, "place": place})

    def _light(self, known: Knowledge, names: dict[str, str], last: str) -> Choice:
        for name, place in known.where(self.lamp):
            if place == known.here:
                return Choice(f"use {name}", "use_lamp", {**names, "other": name})
            return Choice(f"go to {place}", "to_lamp", {**names, "other": name, "place": place})
        if known.here in known.closed and known.here not in known.seen:
            return Choice(f"open {known.here}", "uncover_lamp", names)
        return self._search(known, names, "seek_lamp", "seek_lamp" if last == "take_look" else "next_lamp")

    def _give_back(self, known: Knowledge, names: dict[str, str]) -> Choice:
        if known.here in known.closed:
            return Choice(f"open {known.here}", "open_back", names)
        return Choice(put_command(str(known.holding), str(known.here), self.wording), "give_back", names)
