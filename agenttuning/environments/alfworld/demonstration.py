"""One worked game as turns, for prompts that show an example.

Its room has fewer places than any generated one, so it is in no split. A test plays it in the engine, word for word.
"""

from agenttuning.environments.alfworld.grammar import format_reply, structured
from agenttuning.environments.alfworld.rooms import PICK
from agenttuning.environments.alfworld.scene import Goal, Scene, put_command
from agenttuning.trajectory import Turn

SCENE = Scene(
    room="closet",
    receptacles={"CounterTop": 1, "Drawer": 1, "Shelf": 1},
    objects=(("SoapBar", "countertop 1"), ("Candle", "drawer 1")),
)
GOAL = Goal(type=PICK, object="Candle", receptacle="Shelf", text="put a candle in shelf")

PLAYED = (
    (
        "You are in the middle of a room. Looking quickly around you, you see a countertop 1, a drawer 1, and a shelf "
        "1.\nYour task is to: put a candle in shelf.",
        "I need a candle. First I check countertop 1.",
        "go to countertop 1",
    ),
    (
        "You arrive at countertop 1. On the countertop 1, you see a soapbar 1.",
        "No candle on countertop 1. Next I check drawer 1.",
        "go to drawer 1",
    ),
    ("You arrive at drawer 1. The drawer 1 is closed.", "The drawer 1 is closed. I open it.", "open drawer 1"),
    (
        "You open the drawer 1. The drawer 1 is open. In it, you see a candle 1.",
        "I see candle 1. I take it, then put it in shelf 1.",
        "take candle 1 from drawer 1",
    ),
    ("You pick up the candle 1 from the drawer 1.", "I have candle 1. I take it to shelf 1.", "go to shelf 1"),
    (
        "You arrive at shelf 1. On the shelf 1, you see nothing.",
        "I am at shelf 1. I put candle 1 there.",
        "put candle 1 in/on shelf 1",
    ),
)
"""(observation, thought, command) of each turn; the last command wins."""


def demonstration(wording: str) -> tuple[Turn, ...]:
    """Return the game as turns, in a wording (`put` or `move`); no turn of it is trained."""
    turns: list[Turn] = []
    for observation, thought, command in PLAYED:
        action = structured(command)
        if action.name == "put":
            action = structured(put_command(action.arguments["object"], action.arguments["receptacle"], wording))
        turns.append(Turn(role="user", content=observation))
        turns.append(
            Turn(
                role="assistant",
                content=format_reply(thought, action),
                loss=False,
                thought=thought,
                action=action,
            )
        )
    return tuple(turns)
