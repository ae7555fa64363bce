"""The reward of a purchase: how much of what the goal asks for the bought product has, times how near its kind is.

    reward = kind * (attributes matched + options matched + [price within the limit]) / (attributes + options + 1)

Pure: it reads the goal and the stored record of what was bought. Buying nothing is worth nothing.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from rapidfuzz import fuzz, utils

from agenttuning.environments.base import Grade
from agenttuning.environments.webshop.records import Goal
from agenttuning.environments.webshop.titles import title_nouns

SIMILAR = 85
"""Two texts are the same where their token set ratio, rounded, is above this."""

_COLOURS_TEXT = """
alabaster apricot aqua ash asphalt azure banana beige black blue blush bordeaux bronze brown burgundy camel camo
caramel champagne charcoal cheetah chestnut chocolate christmas coffee cognac copper coral cranberry cream crystal
dark denim eggplant elephant espresso fuchsia gold granite grape graphite grass gray green grey heather indigo ivory
ivy khaki lavender lemon leopard light lilac lime magenta maroon mauve merlot midnight mint mocha multicolor
mushroom mustard natural navy nude olive orange peach pewter pink plum purple rainbow red rose royal rust sand
sapphire seashell silver skull slate steel stone stonewash sunflower tan taupe teal tiger turquoise violet walnut
wheat white wine yellow
"""
COLOURS = tuple(_COLOURS_TEXT.split())
"""Colour names in the order in which they are looked for."""


def grade_evidence(payload: Mapping[str, Any], evidence: Mapping[str, Any]) -> Grade:
    """Grade stored evidence (`bought`: the record or None, `options`: chosen values by name) against a payload."""
    bought, options = evidence.get("bought"), evidence.get("options")
    if not isinstance(bought, dict) or not isinstance(options, dict):
        return Grade(0.0, 0.0)
    value = reward(Goal.model_validate(payload["goal"]), bought, options)
    return Grade(value, value)


def reward(goal: Goal, bought: Mapping[str, Any], options: Mapping[str, str]) -> float:
    """Return the reward in [0, 1] of buying a product with some options.

    Args:
        goal: what was asked for.
        bought: the bought product as `Product.evidence` gives it.
        options: the chosen values by option name.
    """
    points = sum(has_attribute(bought, attribute) for attribute in goal.attributes)
    points += sum(has_option(options.values(), value) for value in goal.options)
    points += float(bought["price"]) <= goal.price_upper
    return kind(goal, bought) * points / (len(goal.attributes) + len(goal.options) + 1)


def kind(goal: Goal, bought: Mapping[str, Any]) -> float:
    """Return how near the bought product's kind is to the goal's: 1, 0.5, 0.1 or 0."""
    if bought["asin"] == goal.asin:
        return 1.0
    wanted, found = title_nouns(goal.name), title_nouns(bought["name"])
    shared = len(wanted & found) / len(wanted) if wanted else 0.2
    if shared == 0.0:
        return 0.0
    if shared < 0.1:
        return 0.1
    categories = _categories(goal.product_category) & _categories(bought["product_category"])
    same = bought["query"] == goal.query or len(categories) >= 2 or shared > 0.2
    return 1.0 if same else 0.5


def has_attribute(product: Mapping[str, Any], attribute: str) -> bool:
    """Whether a product has an attribute: in its list of attributes, or word for word in its texts."""
    if any(same_text(own, attribute) for own in product["attributes"]):
        return True
    texts = (product["name"], " ".join(product["bullet_points"]), product["description"])
    return any(attribute in text.lower() for text in texts)


def has_option(chosen: Iterable[str], value: str) -> bool:
    """Whether one of the chosen values is the value asked for; of values that name a colour the colour counts."""
    return any(same_text(first_colour(own), first_colour(value)) for own in chosen)


def same_text(left: str, right: str) -> bool:
    """Whether two texts have nearly the same words."""
    return round(fuzz.token_set_ratio(left, right, processor=utils.default_process)) > SIMILAR


def first_colour(value: str) -> str:
    """Return the first of `COLOURS` that is in the value, or the value itself."""
    return next((colour for colour in COLOURS if colour in value), value)


def _categories(path: str) -> set[str]:
    return {name.strip() for name in path.split("›")}
