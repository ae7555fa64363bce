"""What an agent has been shown so far: places, what was seen where, what is open, what is carried.

Built from the room sentence and updated from each observation alone; nothing hidden enters. The expert decides and
words its thoughts on this.
"""

import re
from dataclasses import dataclass, field

_NAME = r"[a-z]+ \d+"
_LISTED = re.compile(rf"\ban? ({_NAME})")
_ARRIVED = re.compile(rf"You arrive at ({_NAME})\.")
_OPENED = re.compile(rf"You open the ({_NAME})\.")
_SHUT = re.compile(rf"The ({_NAME}) is closed\.|You close the ({_NAME})\.")
_CONTENTS = re.compile(rf"(?:On the ({_NAME}), you see|The ({_NAME}) is open\. In it, you see) ([^.]*)\.")
_TAKEN = re.compile(rf"You pick up the ({_NAME}) from the ({_NAME})\.")
_PLACED = re.compile(rf"You (?:put|move) the ({_NAME}) (?:in/on|to) the ({_NAME})\.")
_TREATED = re.compile(rf"You (?:clean|heat|cool) the ({_NAME}) using the ({_NAME})\.")


def kind(name: str) -> str:
    """Return the type of a named thing: `mug 2` is a `mug`."""
    return name.rsplit(" ", 1)[0]


@dataclass
class Knowledge:
    """What has been shown in one episode."""

    places: list[str]
    """Receptacles in the order of the room sentence."""
    here: str | None = None
    holding: str | None = None
    seen: dict[str, list[str]] = field(default_factory=dict)
    """Contents of each place that was looked into."""
    closed: set[str] = field(default_factory=set)
    """Places seen closed and not opened since."""
    doors: set[str] = field(default_factory=set)
    """Places that proved to have a door."""
    treated: set[str] = field(default_factory=set)
    """Objects cleaned, heated or cooled."""
    placed: set[str] = field(default_factory=set)
    """Objects that were put down somewhere."""

    @classmethod
    def begin(cls, observation: str) -> "Knowledge":
        """Read the first observation."""
        return cls(places=_LISTED.findall(observation.split("\n", 1)[0]))

    def update(self, observation: str) -> None:
        """Read what the last command led to."""
        if match := _ARRIVED.search(observation):
            self.here = match[1]
        if match := _OPENED.search(observation):
            self.here = match[1]
            self.closed.discard(match[1])
            self.doors.add(match[1])
        if match := _SHUT.search(observation):
            self.closed.add(match[1] or match[2])
            self.doors.add(match[1] or match[2])
        if match := _CONTENTS.search(observation):
            self.seen[match[1] or match[2]] = _LISTED.findall(match[3])
        if match := _TAKEN.search(observation):
            self.holding, place = match[1], match[2]
            self.seen[place] = [name for name in self.seen.get(place, []) if name != match[1]]
        if match := _PLACED.search(observation):
            self.holding = None
            self.placed.add(match[1])
            self.seen.setdefault(match[2], []).append(match[1])
        if match := _TREATED.search(observation):
            self.treated.add(match[1])

    def first(self, place_type: str) -> str:
        """Return the first listed place of a type (as the game says it); its number 1 where none is listed."""
        return next((place for place in self.places if kind(place) == place_type), f"{place_type} 1")

    def unsearched(self) -> str | None:
        """Return the first listed place whose contents were never seen, or None."""
        return next((place for place in self.places if place not in self.seen), None)

    def where(self, thing_type: str) -> list[tuple[str, str]]:
        """Return (name, place) of every seen thing of a type, what is here first."""
        found = [(name, place) for place, names in self.seen.items() for name in names if kind(name) == thing_type]
        return sorted(found, key=lambda item: item[1] != self.here)
