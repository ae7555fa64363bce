"""Generated catalogues, in the official record layout, and the tasks over them. All from seeds, with no file.

Each split has a catalogue of its own, so no product of one is sold, sought or even seen in another: `train` and `test`
sell other products of the same kinds, `shifted` sells other kinds and words its tasks in another way.
"""

import random
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

from agenttuning.environments.families import chosen_families
from agenttuning.environments.webshop.catalogue import Catalogue
from agenttuning.environments.webshop.goods import DEPARTMENTS, KINDS, SHIFTED, Kind
from agenttuning.environments.webshop.records import NO_LIMIT, Product, draw_limit, goal_of, read_product
from agenttuning.environments.webshop.wording import MAIN_FORMS, SHIFTED_FORMS, word
from agenttuning.errors import ConfigurationError
from agenttuning.trajectory import Task

SPLITS = ("train", "test", "shifted")
EACH = {"train": 30, "test": 20, "shifted": 40}
"""Products of one kind, by split: 900, 600 and 360 in all."""
MAX_DRAWS = 2000
"""Goals drawn for one task before the generator gives up."""

_SYLLABLES = {
    "train": ("va", "lo", "mer", "tis", "ka", "ro", "nel", "bri"),
    "test": ("zu", "pha", "dor", "ix", "gam", "ple", "tho", "quin"),
    "shifted": ("aur", "bel", "cho", "fen", "hul", "jas", "wyn", "sky"),
}
_TITLES = (
    "{brand} {kind}, {first}, {second}, for {use}",
    "{brand} {first} {kind} with {second} - {use}",
    "{brand} {model} {kind} | {first} | {second}",
    "{first} {kind} by {brand}, {second}, {model} Series",
)
_BULLETS = (
    "{feature}: made for {use}, and it stays that way for years.",
    "{feature}: tested by people who use it every day.",
    "{brand} calls it {feature}, and our customers agree.",
    "{feature} - what you want for {use}.",
)
_REVIEWS = (
    "4.0 Does what it says. Good for {use}.",
    "5.0 My second order. I bought it for {use} and use it daily.",
    "3.0 Fine, but it came late.",
    "5.0 Well made {kind}, as described.",
)


@lru_cache(maxsize=len(SPLITS))
def generated_catalogue(split: str) -> Catalogue:
    """Return the catalogue of a split; the same in every process."""
    return Catalogue(f"generated/{split}", [read_product(record, "generated catalogue") for record in records(split)])


def records(split: str) -> list[dict[str, Any]]:
    """Return the records of a split's catalogue."""
    rng = random.Random(f"webshop/{split}")
    kinds = SHIFTED if split == "shifted" else KINDS
    brands = ["".join(rng.sample(_SYLLABLES[split], rng.choice((2, 3)))).capitalize() for _ in range(40)]
    found = [_record(split, number, kind, rng.choice(brands), rng) for kind in kinds for number in range(EACH[split])]
    rng.shuffle(found)
    return found


def generated_tasks(
    environment: str, split: str, count: int, seed: int, families: Sequence[str] | None = None
) -> Iterator[Task]:
    """Yield `count` tasks. The first n are the same whatever `count` is; families come in equal shares.

    Families are the departments of train and test; `shifted` draws from all of its own.

    Raises:
        ConfigurationError: an unknown split or family.
    """
    if split not in SPLITS:
        raise ConfigurationError(f"{environment} has the splits {', '.join(SPLITS)} (got {split!r})")
    main = tuple(dict.fromkeys(kind.family for kind in KINDS))
    names = chosen_families(environment, main, families)
    if split == "shifted":
        names = list(dict.fromkeys(kind.family for kind in SHIFTED))
    sold = generated_catalogue(split).products
    by_family = {name: [product for product in sold if product.category == name] for name in names}
    seen: set[str] = set()
    for index in range(count):
        block, place = divmod(index, len(names))
        order = random.Random(f"{seed}/{split}/{block}").sample(names, len(names))
        rng = random.Random(f"{seed}/{split}/{index}")
        yield _draw(environment, split, by_family[order[place]], seen, rng)


def _draw(environment: str, split: str, products: Sequence[Product], seen: set[str], rng: random.Random) -> Task:
    forms = SHIFTED_FORMS if split == "shifted" else MAIN_FORMS
    kinds = {kind.name: kind for kind in (*KINDS, *SHIFTED)}
    for _ in range(MAX_DRAWS):
        product = rng.choice(products)
        attributes = rng.sample(product.attributes, rng.choice((1, 2, 2, 3)))
        asked = list(product.options) if rng.random() < 0.75 else rng.sample(list(product.options), 1)
        options = {name: rng.choice(product.options[name]) for name in asked}
        limit = draw_limit(product.price, rng) if rng.random() < 0.8 else NO_LIMIT
        goal = goal_of(product, tuple(attributes), tuple(options.values()), limit)
        identity = f"{product.asin}/{sorted(attributes)}/{sorted(options.items())}/{limit}"
        if identity not in seen:
            seen.add(identity)
            instruction = word(kinds[product.query], attributes, options, limit, forms, rng)
            payload = {"catalogue": f"generated/{split}", "goal": goal.model_dump(mode="json")}
            return Task(
                environment=environment,
                split=split,
                instruction=instruction,
                payload=payload,
                family=product.category,
            )
    raise ConfigurationError(
        f"{environment}: all {split} tasks of family {products[0].category!r} are drawn ({len(seen)} so far); "
        "ask for fewer tasks, or for more families"
    )


def _record(split: str, number: int, kind: Kind, brand: str, rng: random.Random) -> dict[str, Any]:
    attributes = [*rng.sample(kind.qualities, rng.choice((2, 3))), *rng.sample(kind.parts, 2)]
    rng.shuffle(attributes)
    names = {
        "brand": brand,
        "kind": kind.name,
        "use": rng.choice(kind.uses),
        "model": f"{rng.choice('ABCDEFGHKLMNPRSTVX')}{rng.randrange(10, 99)}",
    }
    in_title = {key: text.title() for key, text in (names | {"first": attributes[0], "second": attributes[1]}).items()}
    options = {}
    for name, pool in kind.options.items():
        chosen = set(rng.sample(pool, rng.randint(min(3, len(pool)), min(6, len(pool)))))
        options[name] = [value for value in pool if value in chosen]
    low = round(rng.uniform(*kind.prices), 2)
    pricing = [low, round(low * rng.uniform(1.1, 1.5), 2)] if rng.random() < 0.1 else [low]
    told = [rng.choice(_BULLETS).format(feature=feature, **names).capitalize() for feature in attributes[1:]]
    about = f"The {brand} {kind.name} is {rng.choice(('new', 'a favourite', 'our best seller'))} for {names['use']}."
    verb = "is" if attributes[-1] in kind.qualities else "has"
    reviews = rng.sample(_REVIEWS, rng.randrange(4))
    return {
        "asin": f"B{split[1].upper()}{_number(kind.name, number)}",
        "name": rng.choice(_TITLES).format(**in_title),
        "category": kind.family,
        "query": kind.name,
        "product_category": " › ".join([DEPARTMENTS[kind.family], kind.path, kind.name.title()]),
        "description": f"{about} It {verb} {attributes[-1]}.",
        "bullet_points": told,
        "pricing": pricing,
        "options": options,
        "attributes": attributes,
        "rating": round(rng.uniform(3.4, 4.9), 1),
        "reviews": [review.format(**names) for review in reviews],
    }


def _number(kind: str, number: int) -> str:
    """Return eight letters and digits that no other product of the split has."""
    kinds = [other.name for other in (*KINDS, *SHIFTED)]
    place = (kinds.index(kind) * max(EACH.values()) + number) * 7919 + 36**7
    letters = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"
    digits = ""
    while place:
        place, rest = divmod(place, 36)
        digits = letters[rest] + digits
    return digits
