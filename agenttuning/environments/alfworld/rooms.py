"""What the generated households are made of: rooms with their receptacles and objects.

Which receptacle may hold what, and what can be cleaned, heated, cooled or opened, comes from the wheel. The rooms of
`SHIFTED` share no object type with those of `ROOMS`, nor any receptacle type but the three appliances that cleaning,
heating and cooling need; so a task there shows a layout that no train task has.
"""

from dataclasses import dataclass, field

from agenttuning.environments.alfworld.wheel import constants

PICK = "pick_and_place_simple"
LOOK = "look_at_obj_in_light"
CLEAN = "pick_clean_then_place_in_recep"
HEAT = "pick_heat_then_place_in_recep"
COOL = "pick_cool_then_place_in_recep"
TWO = "pick_two_obj_and_place"
TYPES = (PICK, LOOK, CLEAN, HEAT, COOL, TWO)
"""ALFWorld's six task types, by their published names."""


@dataclass(frozen=True)
class Treatment:
    """What three of the task types do to an object before it is placed."""

    verb: str
    state: str
    appliance: str
    affordance: str
    """Key of the wheel's `VAL_ACTION_OBJECTS`."""


TREATMENTS = {
    CLEAN: Treatment("clean", "clean", "SinkBasin", "Cleanable"),
    HEAT: Treatment("heat", "hot", "Microwave", "Heatable"),
    COOL: Treatment("cool", "cool", "Fridge", "Coolable"),
}


@dataclass(frozen=True)
class Room:
    """A kind of room."""

    name: str
    receptacles: dict[str, tuple[int, int]]
    """Fewest and most of each receptacle type."""
    objects: tuple[str, ...]
    types: tuple[str, ...]
    """Task types that make sense here."""
    lamp: str = ""
    lamp_places: tuple[str, ...] = field(default=())


ROOMS = (
    Room(
        "kitchen",
        {
            "Cabinet": (0, 2), "CounterTop": (1, 2), "DiningTable": (0, 1), "Drawer": (0, 2), "Fridge": (1, 1),
            "GarbageCan": (0, 1), "Microwave": (1, 1), "SinkBasin": (1, 1), "StoveBurner": (0, 1),
        },
        ("Apple", "Bowl", "Bread", "Cup", "Egg", "Fork", "Knife", "Mug", "Pan", "PepperShaker", "Plate", "SaltShaker",
         "Spoon"),
        (PICK, CLEAN, HEAT, COOL, TWO),
    ),
    Room(
        "bathroom",
        {
            "BathtubBasin": (0, 1), "Cabinet": (0, 2), "CounterTop": (1, 1), "Drawer": (0, 1), "GarbageCan": (1, 1),
            "HandTowelHolder": (0, 1), "Shelf": (0, 1), "SinkBasin": (1, 1), "Toilet": (1, 1),
        },
        ("Candle", "Cloth", "HandTowel", "SoapBar", "SoapBottle", "SprayBottle", "ToiletPaper"),
        (PICK, CLEAN, TWO),
    ),
    Room(
        "bedroom",
        {
            "ArmChair": (0, 1), "Bed": (1, 1), "Cabinet": (0, 1), "Desk": (1, 1), "Drawer": (1, 2),
            "GarbageCan": (0, 1), "Shelf": (1, 2),
        },
        ("Book", "CD", "CellPhone", "CreditCard", "KeyChain", "Laptop", "Pencil", "Pillow"),
        (PICK, LOOK, TWO),
        lamp="DeskLamp",
        lamp_places=("Desk", "Shelf"),
    ),
    Room(
        "livingroom",
        {
            "ArmChair": (1, 2), "Cabinet": (0, 1), "Desk": (1, 1), "DiningTable": (0, 1), "Drawer": (1, 2),
            "Shelf": (0, 1), "Sofa": (1, 1),
        },
        ("Book", "CreditCard", "KeyChain", "Laptop", "Newspaper", "RemoteControl", "Statue", "Vase"),
        (PICK, LOOK, TWO),
        lamp="DeskLamp",
        lamp_places=("Desk", "DiningTable", "Shelf"),
    ),
)  # fmt: skip
"""Rooms of `train` and `test`."""

SHIFTED = (
    Room(
        "pantry",
        {
            "CoffeeTable": (1, 2), "Dresser": (0, 1), "Fridge": (1, 1), "Microwave": (1, 1), "SideTable": (1, 2),
            "SinkBasin": (1, 1),
        },
        ("ButterKnife", "Glassbottle", "Kettle", "Ladle", "Lettuce", "Pot", "Potato", "Spatula", "Tomato",
         "WineBottle"),
        (PICK, CLEAN, HEAT, COOL, TWO),
    ),
    Room(
        "study",
        {"CoffeeTable": (1, 1), "Dresser": (1, 2), "Ottoman": (0, 1), "Safe": (1, 1), "SideTable": (1, 2)},
        ("AlarmClock", "BasketBall", "Box", "Pen", "TennisRacket", "TissueBox", "Watch", "WateringCan"),
        (PICK, LOOK, TWO),
        lamp="FloorLamp",
        lamp_places=("Dresser", "SideTable"),
    ),
)  # fmt: skip
"""Rooms of `shifted` alone."""


def holds(receptacle: str, thing: str) -> bool:
    """Say whether ALFWorld lets the receptacle type hold the object type."""
    return thing in constants().VAL_RECEPTACLE_OBJECTS.get(receptacle, ())


def may_hold(place: str, thing: str) -> bool:
    """Say the same of types as the game names them, in lower case."""
    for receptacle, held in constants().VAL_RECEPTACLE_OBJECTS.items():
        if receptacle.lower() == place:
            return any(name.lower() == thing for name in held)
    return False


def opens(receptacle: str) -> bool:
    """Say whether the receptacle type has a door that starts closed."""
    return receptacle in constants().OPENABLE_CLASS_SET


def allows(thing: str, affordance: str) -> bool:
    """Say whether an object type is `Cleanable`, `Heatable`, `Coolable` or `Toggleable`."""
    return thing in constants().VAL_ACTION_OBJECTS[affordance]
