"""Draws scenes and goals from a seed: the embedded default, without any data file and without a planner.

A game is solvable by construction: its target lies where it can be seen or uncovered, its destination may hold it, its
appliance is there. The search is short: whatever is needed lies among the first places that the room sentence lists.

`train` and `test` share no scene and no goal under any seeds: the hash of a scene's content, and that of what is to be
done with which object and where, say to which of the two they belong, and not the seed. `shifted` has rooms, object
types and goal sentences of its own.
"""

import random
from collections.abc import Iterator, Sequence

from agenttuning.environments.alfworld.rooms import (
    CLEAN,
    COOL,
    HEAT,
    LOOK,
    PICK,
    ROOMS,
    SHIFTED,
    TREATMENTS,
    TWO,
    TYPES,
    Room,
    allows,
    holds,
)
from agenttuning.environments.alfworld.scene import MAX_STEPS, Goal, Scene, places, solution, spoken
from agenttuning.environments.difficulty import from_steps
from agenttuning.environments.families import chosen_families
from agenttuning.errors import ConfigurationError
from agenttuning.trajectory import Task, content_hash

TEST_SHARE = 4
"""One scene in so many, and one goal, belong to `test`."""
SEARCHED = 3
"""Targets lie among the first so many places of the room sentence."""
FEWEST, MOST = 6, 9
"""Receptacles of a room."""
CROWD = 2
"""Distractors are added to a place only while it holds fewer objects than this."""

SENTENCES = {
    PICK: ("put a {obj} in {recep}", "find a {obj} and leave it in {recep}"),
    LOOK: ("look at {obj} under the {toggle}", "find a {obj} and look at it under the {toggle}"),
    CLEAN: ("put a clean {obj} in {recep}", "find a {obj}, clean it and leave it in {recep}"),
    HEAT: ("put a hot {obj} in {recep}", "find a {obj}, heat it and leave it in {recep}"),
    COOL: ("put a cool {obj} in {recep}", "find a {obj}, cool it and leave it in {recep}"),
    TWO: ("put two {obj} in {recep}", "find a pair of {obj} and leave both in {recep}"),
}
"""Goals of `train` and `test`: the first of ALFWorld's two templates, and one wording of this project."""

SHIFTED_SENTENCES = {
    PICK: ("put some {obj} on {recep}", "bring a {obj} to the {recep}"),
    LOOK: ("examine the {obj} with the {toggle}", "inspect a {obj} in the light of the {toggle}"),
    CLEAN: ("clean some {obj} and put it in {recep}", "bring a washed {obj} to the {recep}"),
    HEAT: ("heat some {obj} and put it in {recep}", "bring a warmed {obj} to the {recep}"),
    COOL: ("cool some {obj} and put it in {recep}", "bring a chilled {obj} to the {recep}"),
    TWO: ("find two {obj} and put them in {recep}", "bring two {obj} to the {recep}"),
}
"""Goals of `shifted`: the second of ALFWorld's templates, and another wording of this project."""


def scene_split(scene: Scene) -> str:
    """Return `train` or `test`, decided by what the scene contains."""
    return "test" if int(scene.key, 16) % TEST_SHARE == 0 else "train"


def goal_split(goal: Goal) -> str:
    """Return `train` or `test`, decided by what is asked for, however it is worded."""
    return "test" if int(content_hash([goal.type, goal.object, goal.receptacle], 8), 16) % TEST_SHARE == 0 else "train"


def generated_tasks(
    split: str, count: int, seed: int, environment: str, families: Sequence[str] | None = None
) -> Iterator[Task]:
    """Yield `count` tasks of a split, the task types in turn, the same for the same seed.

    Args:
        split: `train`, `test` or `shifted`.
        count: how many.
        seed: decides the tasks.
        environment: the registered name that the tasks carry.
        families: the task types to draw; None: all six.

    Raises:
        ConfigurationError: an unknown split or task type.
    """
    if split not in ("train", "test", "shifted"):
        raise ConfigurationError(f"alfworld has the splits train, test and shifted, not {split!r}")
    types = chosen_families(environment, TYPES, families)
    rng = random.Random(f"alfworld/{split}/{seed}")
    seen: set[str] = set()
    for index in range(count):
        while True:
            scene, goal = draw(rng, types[index % len(types)], shifted=split == "shifted")
            if scene.key not in seen and (split == "shifted" or {scene_split(scene), goal_split(goal)} == {split}):
                break
        seen.add(scene.key)
        yield Task(
            environment=environment,
            split=split,
            instruction=goal.text,
            payload={"source": "generated", "scene": scene.model_dump(mode="json"), "goal": goal.model_dump()},
            family=goal.type,
            difficulty=from_steps(len(solution(scene, goal, "put")), MAX_STEPS),
        )


def draw(rng: random.Random, kind: str, *, shifted: bool) -> tuple[Scene, Goal]:
    """Draw a scene and a goal of a task type, from the rooms and sentences of the split's family."""
    rooms = [room for room in (SHIFTED if shifted else ROOMS) if kind in room.types]
    sentences = (SHIFTED_SENTENCES if shifted else SENTENCES)[kind]
    while True:
        room = rng.choice(rooms)
        standing = _furnish(rng, room)
        if (chosen := _choose(rng, room, kind, standing)) is None:
            continue
        target, destination = chosen
        objects = _arrange(rng, room, kind, standing, target, destination)
        if objects is None:
            continue
        lamp = room.lamp if kind == LOOK else None
        text = rng.choice(sentences).format(
            obj=spoken(target), recep=spoken(destination or ""), toggle=spoken(lamp or "")
        )
        goal = Goal(type=kind, object=target, receptacle=destination, lamp=lamp, text=text)
        return Scene(room=room.name, receptacles=standing, objects=tuple(objects)), goal


def _furnish(rng: random.Random, room: Room) -> dict[str, int]:
    while True:
        drawn = {name: rng.randint(*bounds) for name, bounds in room.receptacles.items()}
        if FEWEST <= sum(drawn.values()) <= MOST:
            return {name: count for name, count in drawn.items() if count}


def _choose(rng: random.Random, room: Room, kind: str, standing: dict[str, int]) -> tuple[str, str | None] | None:
    """Return target and destination type, or None where this room has no sensible pair."""
    treatment = TREATMENTS.get(kind)
    targets = [name for name in room.objects if treatment is None or allows(name, treatment.affordance)]
    target = rng.choice(targets)
    if kind == LOOK:
        return (target, None) if set(room.lamp_places) & set(standing) else None
    destinations = [
        name for name in standing if holds(name, target) and (treatment is None or name != treatment.appliance)
    ]
    return (target, rng.choice(destinations)) if destinations else None


def _arrange(
    rng: random.Random, room: Room, kind: str, standing: dict[str, int], target: str, destination: str | None
) -> list[tuple[str, str]] | None:
    """Return every object with its place, or None where the target has no near place to lie."""
    listed = {name: found for name, (found, _) in places(Scene(room="", receptacles=standing, objects=())).items()}
    spots = [name for name, found in listed.items() if holds(found, target) and found != destination]
    near = [name for name in spots if name in list(listed)[:SEARCHED]]
    if not near:
        return None

    def early() -> str:
        """Draw a near place, the first ones more often."""
        return near[min(rng.randrange(len(near)), rng.randrange(len(near)))]

    first = early()
    objects = [(target, first)]
    if kind == TWO:
        objects.append((target, first if rng.random() < 0.5 else early()))
    elif rng.random() < 0.25:
        objects.append((target, rng.choice(spots)))
    if kind == LOOK:
        objects.append((room.lamp, rng.choice([name for name, found in listed.items() if found in room.lamp_places])))
    others = [name for name in room.objects if name != target]
    for name in rng.choices(others, k=rng.randint(4, 6)):
        free = [p for p, found in listed.items() if holds(found, name) and [q for _, q in objects].count(p) < CROWD]
        if free:
            objects.append((name, rng.choice(free)))
    rng.shuffle(objects)
    return objects
