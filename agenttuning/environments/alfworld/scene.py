"""A scene: one small room with a goal, from which the game's names, its PDDL problem and a solution follow.

Pure functions of the scene. Names and their order are those that the engine will show (`AlfredDemangler` numbers
things of a type downwards along their sorted ids), so that a solution can be written down without playing.
"""

from pydantic import BaseModel, ConfigDict

from agenttuning.environments.alfworld.rooms import LOOK, TREATMENTS, TWO, allows, holds, opens
from agenttuning.environments.alfworld.wheel import quiet_home
from agenttuning.trajectory import content_hash

MAX_STEPS = 35
"""Turns that a game may take (AgentBench's limit)."""


class Goal(BaseModel):
    """What is to be done, and how it is worded."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    type: str
    """One of `rooms.TYPES`."""
    object: str
    """Object type, as ALFRED spells it (`SoapBar`)."""
    receptacle: str | None = None
    """Receptacle type where the object goes; None for looking."""
    lamp: str | None = None
    """Lamp type, for looking."""
    text: str
    """The sentence that the agent is given, without its full stop."""


class Scene(BaseModel):
    """One room: what stands in it and where everything lies."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    room: str
    receptacles: dict[str, int]
    """How many of each receptacle type."""
    objects: tuple[tuple[str, str], ...]
    """(object type, name of its place), in the order of their numbers within a type."""

    @property
    def key(self) -> str:
        """Hash of what stands and lies where: equal for equal rooms, whatever the goal. Decides the split."""
        return content_hash([self.receptacles, sorted(self.objects)])


def spoken(name: str) -> str:
    """Return a type as the game says it: `SinkBasin` is `sinkbasin`."""
    return name.lower()


def thing_id(name: str, number: int, count: int) -> str:
    """Return the PDDL id of the thing that the game will call `<name> <number>`, one of `count`."""
    rank = f"{count - number + 1:02d}"
    # The wheel names a basin by what comes before the first `_bar_` and adds `basin`.
    return f"{name.removesuffix('Basin')}_bar_{rank}_bar_{name}" if name.endswith("Basin") else f"{name}_bar_{rank}"


def places(scene: Scene) -> dict[str, tuple[str, str]]:
    """Return name -> (type, id) of every receptacle, in the order in which the game lists them."""
    found = {
        f"{spoken(name)} {number}": (name, thing_id(name, number, count))
        for name, count in scene.receptacles.items()
        for number in range(1, count + 1)
    }
    return dict(sorted(found.items(), key=lambda item: item[1][1].lower()))


def things(scene: Scene) -> dict[str, tuple[str, str, str]]:
    """Return name -> (type, id, place) of every object."""
    types = [name for name, _ in scene.objects]
    found: dict[str, tuple[str, str, str]] = {}
    for position, (name, place) in enumerate(scene.objects):
        number = types[: position + 1].count(name)
        found[f"{spoken(name)} {number}"] = (name, thing_id(name, number, types.count(name)), place)
    return found


def problem(scene: Scene, goal: Goal) -> str:
    """Return the PDDL problem of a scene and a goal, in the terms of the wheel's domain."""
    with quiet_home():
        from alfworld.gen.goal_library import gdict

    standing, lying = places(scene), things(scene)
    # The domain names these types itself, so they must exist even where the room has no such thing.
    object_types = {"Knife", "ButterKnife", *(name for name, _ in scene.objects)}
    receptacle_types = {"Fridge", "Microwave", "SinkBasin", *scene.receptacles}
    where = {name: f"loc_bar_{number:02d}" for number, name in enumerate(standing, start=1)}
    declared = ["agent1 - agent", "loc_bar_00 - location", *(f"{place} - location" for place in where.values())]
    declared += [f"{name}Type - otype" for name in sorted(object_types)]
    declared += [f"{name}Type - rtype" for name in sorted(receptacle_types)]
    facts = ["= (total-cost) 0", "atLocation agent1 loc_bar_00"]
    for name, (kind, identifier) in standing.items():
        declared.append(f"{identifier} - receptacle")
        facts += [f"receptacleType {identifier} {kind}Type", f"receptacleAtLocation {identifier} {where[name]}"]
        facts += [f"openable {identifier}"] if opens(kind) else []
    facts += [
        f"canContain {receptacle}Type {thing}Type"
        for receptacle in sorted(scene.receptacles)
        for thing in sorted(object_types)
        if holds(receptacle, thing)
    ]
    for kind, identifier, place in lying.values():
        declared.append(f"{identifier} - object")
        facts += [f"objectType {identifier} {kind}Type", f"inReceptacle {identifier} {standing[place][1]}"]
        facts += [f"objectAtLocation {identifier} {where[place]}"]
        facts.append(f"{'toggleable' if allows(kind, 'Toggleable') else 'pickupable'} {identifier}")
        facts += [
            f"{affordance.lower()} {identifier}"
            for affordance in ("Cleanable", "Heatable", "Coolable")
            if allows(kind, affordance)
        ]
    wanted = gdict[goal.type]["pddl"].replace("#", "-")
    wanted = wanted.format(obj=goal.object, recep=goal.receptacle, toggle=goal.lamp)
    listed = "\n".join(declared), "\n".join(f"({fact})" for fact in facts)
    # The wheel's goals bring the closing parenthesis of the problem with them.
    return f"(define (problem {scene.room})\n(:domain alfred)\n(:objects\n{listed[0]})\n(:init\n{listed[1]})\n{wanted}"


def solution(scene: Scene, goal: Goal, wording: str) -> list[str]:
    """Return the commands that win the game, for one who knows where everything lies."""
    standing, lying = places(scene), things(scene)
    commands: list[str] = []
    visited: list[str] = []

    def visit(place: str) -> None:
        """Stand before the open place; the engine admits no way to where one is."""
        if visited[-1:] != [place]:
            commands.append(f"go to {place}")
        if opens(standing[place][0]) and place not in visited:
            commands.append(f"open {place}")
        visited.append(place)

    targets = [(name, place) for name, (kind, _, place) in lying.items() if kind == goal.object]
    for name, place in targets[: 2 if goal.type == TWO else 1]:
        visit(place)
        commands.append(f"take {name} from {place}")
        if (treatment := TREATMENTS.get(goal.type)) is not None:
            appliance = first_of(standing, treatment.appliance)
            if visited[-1] != appliance:
                commands.append(f"go to {appliance}")
            visited.append(appliance)
            commands.append(f"{treatment.verb} {name} with {appliance}")
        if goal.type == LOOK:
            lamp, spot = next((n, p) for n, (kind, _, p) in lying.items() if kind == goal.lamp)
            visit(spot)
            commands.append(f"use {lamp}")
        else:
            destination = first_of(standing, str(goal.receptacle))
            visit(destination)
            commands.append(put_command(name, destination, wording))
    return commands


def first_of(standing: dict[str, tuple[str, str]], kind: str) -> str:
    """Return the first listed place of a type."""
    return next(name for name, (found, _) in standing.items() if found == kind)


def put_command(thing: str, place: str, wording: str) -> str:
    """Return the command that places a carried object, in a wording (`put` or `move`)."""
    return f"put {thing} in/on {place}" if wording == "put" else f"move {thing} to {place}"
