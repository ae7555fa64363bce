"""How generated tasks are worded: one way for train and test, another for shifted."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from agenttuning.environments.webshop.goods import Kind
from agenttuning.environments.webshop.records import NO_LIMIT


@dataclass(frozen=True)
class Forms:
    """Sentence patterns. `thing` is the product with its attributes."""

    openings: tuple[str, ...]
    option: tuple[str, ...]
    """One option, appended for each."""
    price: tuple[str, ...]
    join: str
    """What joins the attributes before the product's name."""


MAIN_FORMS = Forms(
    openings=(
        "i am looking for {thing}",
        "i need {thing}",
        "i want to buy {thing}",
        "find me {thing}",
        "show me {thing}",
        "please get me {thing}",
    ),
    option=(" with {name}: {value}", " in {name} {value}", ", {name} {value}", " and the {name} should be {value}"),
    price=(
        ", and price lower than {limit:.2f} dollars",
        ", for less than {limit:.0f} dollars",
        ", under {limit:.0f} dollars",
        ", and the price must be below {limit:.0f} dollars",
    ),
    join=", ",
)

SHIFTED_FORMS = Forms(
    openings=(
        "Our club ordered the wrong item, so now we have to replace it: {thing}",
        "A present for my neighbour would be {thing}",
        "Could you pick out {thing}",
        "Shopping list, first entry - {thing}",
    ),
    option=("; choose {value} as {name}", "; {value} for the {name}", "; as {name}, {value}"),
    price=(
        ". Spend at most {limit:.0f} dollars.",
        ". The budget ends at {limit:.0f} dollars.",
        ". Keep it beneath {limit:.0f} dollars.",
    ),
    join=" and ",
)


def word(
    kind: Kind, attributes: Sequence[str], options: Mapping[str, str], limit: float, forms: Forms, rng: random.Random
) -> str:
    """Return an instruction. Attributes and option values stand in it word for word."""
    before = [attribute for attribute in attributes if attribute in kind.qualities]
    after = [attribute for attribute in attributes if attribute not in kind.qualities]
    name = " ".join([forms.join.join(before), kind.name]) if before else kind.name
    counter = "an" if kind.counter == "a" and name[0] in "aeiou" else kind.counter
    thing = f"{counter} {name}{' with ' if after else ''}{' and '.join(after)}"
    text = rng.choice(forms.openings).format(thing=thing)
    for option, value in options.items():
        text += rng.choice(forms.option).format(name=option, value=value)
    return text + (rng.choice(forms.price).format(limit=limit) if limit != NO_LIMIT else "")
