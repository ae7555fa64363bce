"""The rounds of one action: which elements are shown, and what an answer does. Pure.

A pool of candidates is shown five at a time. A chosen element goes back to the end of the pool, the others of its
group are out, and so is a whole group that is answered with none of the above. The last element left is the
prediction, with the operation and the value of its last choice. One that is left without ever having been shown is
shown alone.
"""

from collections.abc import Collection
from dataclasses import dataclass, replace

GROUP = 5
LETTERS = "ABCDEF"
"""A is none of the above; B to F are the elements of a group."""


@dataclass(frozen=True)
class Answer:
    """One answer: the letter, and for an element the operation and its value (empty for CLICK)."""

    letter: str
    operation: str = ""
    value: str = ""


@dataclass(frozen=True)
class Choice:
    """An element that was chosen, with what to do to it."""

    element: str
    operation: str
    value: str


@dataclass(frozen=True)
class Rounds:
    """Where the choosing stands."""

    pool: tuple[str, ...]
    choice: Choice | None = None
    """The last choice, while its element is in the pool."""

    @property
    def group(self) -> tuple[str, ...]:
        """The elements shown now; empty when it is over."""
        if self.choice is not None and self.pool == (self.choice.element,):
            return ()
        return self.pool[:GROUP]

    @property
    def prediction(self) -> Choice | None:
        """The prediction of choosing that is over: None while it is not, and where every group was rejected."""
        return self.choice if not self.group else None


def answered(rounds: Rounds, answer: Answer) -> Rounds:
    """Return the state after an answer to the group shown.

    Raises:
        ValueError: it is over, or the letter stands for no element of the group.
    """
    group = rounds.group
    place = LETTERS.index(answer.letter) - 1
    if place >= len(group):
        raise ValueError(f"no choice {answer.letter} among {len(group)} elements")
    rest = rounds.pool[len(group) :]
    if place < 0:
        gone = rounds.choice is not None and rounds.choice.element in group
        return replace(rounds, pool=rest, choice=None if gone else rounds.choice)
    chosen = group[place]
    return Rounds((*rest, chosen), Choice(chosen, answer.operation, answer.value))


def right_place(rounds: Rounds, positives: Collection[str]) -> int | None:
    """Return the place in the group of a right element: the one chosen before, if it is there, else the first."""
    chosen = rounds.choice.element if rounds.choice is not None else ""
    places = [place for place, element in enumerate(rounds.group) if element in positives]
    kept = [place for place in places if rounds.group[place] == chosen]
    return next(iter(kept or places), None)


def rounds_left(rounds: Rounds, positives: Collection[str]) -> int:
    """Return how many rounds there still are when all are answered rightly."""
    count = 0
    while rounds.group:
        place = right_place(rounds, positives)
        rounds = answered(rounds, Answer(LETTERS[0] if place is None else LETTERS[place + 1], "CLICK"))
        count += 1
    return count
