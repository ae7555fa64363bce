"""The goals of a published catalogue, in WebShop's own order and split.

Every product that has an instruction gives one goal for each combination of its options; a person's instruction gives
one. The list is shuffled with WebShop's seed: the first 500 are its test set, the next 1,000 its development set, the
rest its training set. Price limits are drawn by WebShop's rule, with a seed of the product's own, where WebShop draws
them anew in each process.
"""

import itertools
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from agenttuning.environments.webshop.records import NO_LIMIT, Goal, Product, draw_limit, goal_of

SHUFFLE_SEED = 233
SPLITS = {"test": slice(0, 500), "dev": slice(500, 1500), "train": slice(1500, None)}
"""Places of WebShop's own splits in the shuffled list."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A goal and the sentence that asks for it."""

    instruction: str
    goal: Goal


def official_goals(products: Iterable[Product], people: bool) -> list[Asked]:
    """Return all goals of a catalogue in WebShop's shuffled order.

    Args:
        products: in the order of the catalogue's file.
        people: the goals that people wrote, or else those made from attributes and options.
    """
    make = human_goals if people else synthetic_goals
    goals = [asked for product in products for asked in make(product)]
    random.Random(SHUFFLE_SEED).shuffle(goals)
    return goals


def official_split(goals: Sequence[Asked], split: str) -> Sequence[Asked]:
    """Return a split of WebShop's shuffled list.

    A few sentences come twice, from products of one name. `train` has each once, and none of `test` or `dev`.
    """
    drawn = goals[SPLITS[split]]
    if split != "train":
        return drawn
    held_out = {asked.instruction for asked in goals[: SPLITS["train"].start]}
    kept = {asked.instruction: asked for asked in drawn if asked.instruction not in held_out}
    return list(kept.values())


def synthetic_goals(product: Product) -> Iterator[Asked]:
    """Yield the goals made from a product's instruction: one for each combination of its options."""
    if product.instruction is None or not product.instruction_attributes:
        return
    limit = draw_limit(product.price, random.Random(f"limit/{product.asin}"))
    names = sorted(product.options)
    for values in itertools.product(*(product.options[name] for name in names)):
        options = ", and ".join(f"{name}: {value}" for name, value in zip(names, values, strict=True))
        text = f"{product.instruction}{f' with {options}' if options else ''}{_price(limit)}"
        yield Asked(text, goal_of(product, product.instruction_attributes, values, limit))


def human_goals(product: Product) -> Iterator[Asked]:
    """Yield the goals that people wrote for a product; an instruction without attributes is none."""
    for number, wish in enumerate(product.wishes):
        if wish.attributes:
            limit = draw_limit(product.price, random.Random(f"limit/{product.asin}/{number}"))
            text = wish.instruction.strip(".") + _price(limit)
            yield Asked(text, goal_of(product, wish.attributes, wish.options, limit))


def _price(limit: float) -> str:
    return "" if limit == NO_LIMIT else f", and price lower than {limit:.2f} dollars"
