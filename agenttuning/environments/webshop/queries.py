"""What the demonstrator takes from an instruction: what is asked for in so many words, and what to search for."""

import random
import re
from dataclasses import dataclass

from agenttuning.environments.webshop.records import NO_LIMIT, Goal

_WORD = re.compile(r"[^\W_][\w'’&.%/-]*[\w%]|\w")
_PRICE = re.compile(
    r",? ?(?:and )?(?:the )?(?:price|for less than|less than|under|spend|budget|beneath) [^,.;]*\d.*", re.I
)
_FILLER_TEXT = """
a all also am an and any are as at be buy can could do for find from get give have hello help hi i i'd i'm im in
into is it its like look looking me must need needs of on one or order pair place please should show some
something that the there these they this to want we which will with would you your
"""
_FILLER = frozenset(_FILLER_TEXT.split())


@dataclass(frozen=True)
class Wanted:
    """What an instruction says of its goal; a part that it does not name word for word is not in here."""

    kind: str | None
    """The kind of product, as the goal's query names it."""
    attributes: tuple[str, ...]
    options: tuple[str, ...]
    limit: float | None
    words: tuple[str, ...]
    """The words that carry meaning, without the price."""


def read(instruction: str, goal: Goal) -> Wanted:
    """Return what of a goal its instruction says."""
    text = instruction.lower()
    words = (word for word in _WORD.findall(_PRICE.sub("", text)) if word not in _FILLER)
    said = goal.price_upper != NO_LIMIT and re.search(rf"\b{goal.price_upper:.0f}\b", text) is not None
    return Wanted(
        kind=goal.query if goal.query in text else None,
        attributes=tuple(attribute for attribute in goal.attributes if attribute.lower() in text),
        options=tuple(value for value in goal.options if value.lower() in text),
        limit=goal.price_upper if said else None,
        words=tuple(dict.fromkeys(words)) or tuple(text.split()),
    )


def candidates(wanted: Wanted, rng: random.Random) -> list[str]:
    """Return queries to choose from, in an order that `rng` draws; all are made of the instruction's words."""
    whole = " ".join(wanted.words)
    found = [whole]
    if wanted.kind is not None:
        kind, attributes, options = wanted.kind, list(wanted.attributes), list(wanted.options)
        some = rng.sample(attributes, min(2, len(attributes)))
        found += [
            " ".join([kind, *attributes]),
            " ".join([*attributes, kind]),
            " ".join([*attributes, kind, *options]),
            " ".join([*some, kind]),
            " ".join([kind, *options]),
            " ".join([kind, *some, *options]),
            kind,
        ]
    else:
        found += [" ".join(word for word in wanted.words if word != left_out) for left_out in wanted.words]
    rng.shuffle(found)
    return [query for query in dict.fromkeys(found) if query]
