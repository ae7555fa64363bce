"""What the demonstrator is going to do: its search, product and options, what it looks at, which mistake it makes.

All is decided before the first move, from the instruction, the goal and the catalogue. See `expert`.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass

from agenttuning.environments.webshop.catalogue import Catalogue
from agenttuning.environments.webshop.grading import has_attribute, has_option
from agenttuning.environments.webshop.queries import Wanted, candidates, read
from agenttuning.environments.webshop.records import Goal, Product
from agenttuning.environments.webshop.shop import PER_PAGE, Shop, State

LOOK_RATE = 0.6
"""Share of the episodes in which a sub-page is read, where one says what the title does not."""
ROOM = 11_500
"""Characters of pages up to which an episode takes a look or makes a mistake: it shall fit into 4,096 tokens."""
NEAR = 0.2
"""Share of the words of the goal's title that another product's title must have to be bought instead."""
RESULTS = 2_200
"""Characters of a page of results, about."""
FAR_RATE = 0.25
"""Share of the episodes in which a search is chosen whose first page lacks what is asked for, where there is one."""


@dataclass
class Plan:
    """What the demonstrator is going to do, decided before its first move."""

    wanted: Wanted
    query: str
    product: Product
    number: int
    """Page of the results that shows the product."""
    options: dict[str, str]
    """The values to choose, by option."""
    check: tuple[str, str] | None = None
    """An attribute and the sub-page that says it."""
    mistake: str = ""
    slip: str = ""
    """What is searched, opened, chosen or clicked by mistake."""
    slip_at: str = ""
    """The option at which the mistake is made."""
    reason: str = ""
    """The option value that the wrongly opened product lacks; empty where it is too dear."""

    @property
    def steps(self) -> int:
        """How many moves the plan takes."""
        extra = {"": 0, "vague": 2, "product": 2, "option": 1, "click": 1}[self.mistake]
        return 2 + self.number + len(self.options) + (2 if self.check else 0) + extra


def make_plan(
    catalogue: Catalogue, instruction: str, goal: Goal, rng: random.Random, mistake_rate: float, max_steps: int
) -> Plan:
    """Decide what to do; see `play`."""
    wanted = read(instruction, goal)
    query, product, number = _search_for(catalogue, wanted, goal, rng)
    plan = Plan(wanted, query, product, number, _options(product, goal))
    if rng.random() < mistake_rate:
        for kind in rng.sample(list(_SLIPS), len(_SLIPS)):
            plan.mistake = kind if _SLIPS[kind](plan, catalogue, rng) else ""
            if plan.mistake and _fits(plan, len(instruction), max_steps):
                break
            plan.mistake = ""
    if rng.random() < LOOK_RATE:
        plan.check = _check(plan, rng)
        if not _fits(plan, len(instruction), max_steps):
            plan.check = None
    return plan


def _fits(plan: Plan, instruction: int, max_steps: int) -> bool:
    """Whether a plan stays within the steps and, by a rough count of what its pages say, within `ROOM`."""
    item = instruction + len(plan.product.name) + 300
    item += 2 * sum(len(value) + 6 for values in plan.product.options.values() for value in values)
    length = RESULTS * plan.number + item * (1 + len(plan.options))
    length += {"": 0, "vague": RESULTS, "product": RESULTS + item, "option": item, "click": item}[plan.mistake]
    if plan.check is not None:
        length += item + instruction + len(_texts(plan.product)[plan.check[1]])
    return plan.steps <= max_steps and length <= ROOM


def _search_for(catalogue: Catalogue, wanted: Wanted, goal: Goal, rng: random.Random) -> tuple[str, Product, int]:
    """Return a query, the product to buy, and the page of the results that shows it.

    The first page with a product that has all that is asked for counts, and on it the one whose title says most of it.
    """
    found: list[tuple[str, Product, int]] = []
    queries = candidates(wanted, rng)
    for query in queries:
        hits = catalogue.search(query)
        right = [index for index, product in enumerate(hits) if _is_right(product, goal)]
        if right:
            number = right[0] // PER_PAGE + 1
            shown = [hits[index] for index in right if index // PER_PAGE + 1 == number]
            found.append((query, max(shown, key=lambda product: _said(product, wanted)), number))
    if not found:
        best = [(query, product) for query in queries for product in catalogue.search(query)]
        query, product = max(best, key=lambda pair: _worth(pair[1], goal), default=(queries[0], catalogue[goal.asin]))
        hits = catalogue.search(query)
        return query, product, hits.index(product) // PER_PAGE + 1 if hits else 1
    far = [plan for plan in found if plan[2] in (2, 3)]
    if far and rng.random() < FAR_RATE:
        return far[0]
    return min(found, key=lambda plan: plan[2])


def _is_right(product: Product, goal: Goal) -> bool:
    """Whether a product has all that is asked for, and a title that is near enough to count as the same kind."""
    if product.asin == goal.asin:
        return True
    if product.query != goal.query or product.price > goal.price_upper:
        return False
    wanted = set(goal.name.lower().split())
    if len(wanted & set(product.name.lower().split())) < NEAR * len(wanted):
        return False
    if set(goal.options) - set(_options(product, goal).values()):
        return False
    evidence = product.evidence()
    return all(has_attribute(evidence, attribute) for attribute in goal.attributes)


def _worth(product: Product, goal: Goal) -> int:
    """Return how much of the goal a product can give: its attributes, its options, its price and its kind."""
    evidence = product.evidence()
    points = sum(has_attribute(evidence, attribute) for attribute in goal.attributes)
    points += len(_options(product, goal)) + (product.price <= goal.price_upper)
    return points + (goal.asin == product.asin or goal.query == product.query)


def _said(product: Product, wanted: Wanted) -> int:
    return sum(attribute in product.name.lower() for attribute in wanted.attributes)


def _options(product: Product, goal: Goal) -> dict[str, str]:
    """Return the value to choose for each option that the goal is about."""
    plan: dict[str, str] = {}
    for value in goal.options:
        free = [(name, own) for name, values in product.options.items() if name not in plan for own in values]
        exact = [(name, own) for name, own in free if own == value]
        near = exact or [(name, own) for name, own in free if has_option([own], value)]
        if near:
            plan[near[0][0]] = near[0][1]
    return plan


def _check(plan: Plan, rng: random.Random) -> tuple[str, str] | None:
    """Return an attribute that the title does not say and the sub-page that does."""
    found = [
        (attribute, name)
        for attribute in plan.wanted.attributes
        if attribute not in plan.product.name.lower()
        for name, text in _texts(plan.product).items()
        if attribute in text
    ]
    return rng.choice(found) if found else None


def _texts(product: Product) -> dict[str, str]:
    return {"features": " ".join(product.bullets).lower(), "description": product.description.lower()}


def _slip_vague(plan: Plan, catalogue: Catalogue, rng: random.Random) -> bool:
    """Search for an attribute alone, where that shows mostly products of another kind."""
    kind = plan.wanted.kind
    for attribute in rng.sample(plan.wanted.attributes, len(plan.wanted.attributes)):
        hits = catalogue.search(attribute)[:PER_PAGE]
        if (
            kind
            and hits
            and plan.product not in hits
            and sum(kind in hit.name.lower() for hit in hits) * 2 <= len(hits)
        ):
            plan.slip = attribute
            return True
    return False


def _slip_product(plan: Plan, catalogue: Catalogue, rng: random.Random) -> bool:
    """Open a product from the same page that is too dear, or lacks an option value that the instruction names."""
    shown = Shop(catalogue).page(State("results", plan.query, plan.number)).hits
    limit = plan.wanted.limit
    for hit in rng.sample(shown, len(shown)):
        values = [value for own in hit.product.options.values() for value in own]
        missing = [value for value in plan.wanted.options if values and not has_option(values, value)]
        dear = limit is not None and min(hit.product.pricing) > limit
        if hit.product.asin != plan.product.asin and (dear or missing):
            plan.slip, plan.reason = hit.product.asin, "" if dear else missing[0]
            return True
    return False


def _slip_option(plan: Plan, catalogue: Catalogue, rng: random.Random) -> bool:
    """Choose another value of an option."""
    for name in rng.sample(list(plan.options), len(plan.options)):
        others = [value for value in plan.product.options[name] if not has_option([value], plan.options[name])]
        if others and plan.options[name] in plan.wanted.options:
            plan.slip_at, plan.slip = name, rng.choice(others)
            return True
    return False


def _slip_click(plan: Plan, catalogue: Catalogue, rng: random.Random) -> bool:
    """Click a label that is not there: an option with its name, or another shop's word for buying."""
    names = list(plan.options)
    if names and rng.random() < 0.7:
        plan.slip_at = rng.choice(names)
        plan.slip = f"{plan.slip_at}: {plan.options[plan.slip_at]}"
    else:
        plan.slip_at, plan.slip = "", rng.choice(["add to cart", "buy", "checkout", "order"])
    return True


_SLIPS: dict[str, Callable[[Plan, Catalogue, random.Random], bool]] = {
    "vague": _slip_vague,
    "product": _slip_product,
    "option": _slip_option,
    "click": _slip_click,
}
