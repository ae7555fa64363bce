"""The demonstrator: searches, looks through the results, opens a product, chooses its options and buys it.

It knows what is sold, and uses that to choose a search that leads to a product with all that is asked for, and to go
straight to it; its thoughts say only what the instruction and the pages say. In some episodes it reads a sub-page
before it buys. In a share of them it first makes one mistake, which is never trained, and recovers from it:

- `vague`: a search that says too little; it goes back and searches again;
- `product`: a product that is too dear or lacks an option; it goes back to the results;
- `option`: a value that was not asked for; it chooses the right one;
- `click`: a label that is not on the page; it uses the right one.
"""

import random
from collections.abc import Callable, Generator

from agenttuning.environments.base import Expert, Move, Step
from agenttuning.environments.webshop import thoughts
from agenttuning.environments.webshop.catalogue import Catalogue
from agenttuning.environments.webshop.grammar import click, search
from agenttuning.environments.webshop.plan import Plan, make_plan
from agenttuning.environments.webshop.records import Goal
from agenttuning.environments.webshop.shop import BACK, BUY, NEXT, PREVIOUS, Hit, Page

Moves = Generator[Move, Step, None]


def play(
    look: Callable[[], Page],
    catalogue: Catalogue,
    instruction: str,
    goal: Goal,
    rng: random.Random,
    mistake_rate: float,
    max_steps: int,
) -> Expert:
    """Return the demonstrator of a goal.

    Args:
        look: returns the page that is shown now.
        catalogue: what the shop sells.
        instruction: what the customer asks.
        goal: what the purchase is compared with.
        rng: draws search, wording and mistake.
        mistake_rate: share of the episodes with a mistake; a page that offers no occasion has none.
        max_steps: moves that an episode has; a plan that takes more leaves out what it can.
    """
    plan = make_plan(catalogue, instruction, goal, rng, mistake_rate, max_steps)
    yield from _find(plan, look, rng)
    if look().state.page == "item":
        yield from _choose(plan, look, rng)


def _find(plan: Plan, look: Callable[[], Page], rng: random.Random) -> Moves:
    """Search and go through the results until the product is open."""
    wanted = plan.wanted
    if plan.mistake == "vague":
        yield Move(thoughts.vague(plan.slip, rng), search(plan.slip), loss=False)
        yield _click(thoughts.too_broad(wanted, look(), rng), BACK)
        yield Move(thoughts.again(wanted, plan.query, rng), search(plan.query))
    else:
        yield Move(thoughts.begin(wanted, plan.query, rng), search(plan.query))
    while (hit := _hit(look(), plan.product.asin)) is None:
        if NEXT.lower() not in look().clickables:
            return
        yield _click(thoughts.more(wanted, look(), rng), NEXT)
    if plan.mistake == "product" and (wrong := _hit(look(), plan.slip)) is not None:
        yield _click(thoughts.open_wrong(wrong, rng), wrong.product.asin, loss=False)
        why = thoughts.lacking(plan.reason, rng) if plan.reason else thoughts.too_dear(wrong, wanted, rng)
        yield _click(why, PREVIOUS)
    yield _click(thoughts.open_hit(wanted, look(), hit, rng), hit.product.asin)


def _choose(plan: Plan, look: Callable[[], Page], rng: random.Random) -> Moves:
    """Read a sub-page where planned, choose the options and buy."""
    if plan.check is not None:
        attribute, sub_page = plan.check
        yield _click(thoughts.check(attribute, sub_page, rng), sub_page)
        yield _click(thoughts.checked(attribute, sub_page, rng), PREVIOUS)
    shown = {choice.name: choice for choice in look().choices}
    for name in rng.sample(list(plan.options), len(plan.options)):
        label = plan.options[name]
        thought = thoughts.option(shown[name].name, label, plan.wanted, rng)
        if plan.slip_at == name and plan.mistake == "option":
            yield _click(thoughts.wrong_option(plan.slip, rng), plan.slip, loss=False)
            thought = thoughts.other_option(plan.slip, label, rng)
        elif plan.slip_at == name and plan.mistake == "click":
            yield _click(thoughts.bad_click(plan.slip, rng), plan.slip, loss=False)
            thought = thoughts.mend_click(plan.slip, label, rng)
        yield _click(thought, label)
    product = plan.product
    thought = thoughts.buy(list(plan.options.values()), plan.wanted, product.tag, max(product.pricing), rng)
    if plan.mistake == "click" and not plan.slip_at:
        yield _click(thoughts.bad_click(plan.slip, rng), plan.slip, loss=False)
        thought = thoughts.mend_click(plan.slip, BUY.lower(), rng)
    yield _click(thought, BUY)


def _hit(page: Page, asin: str) -> Hit | None:
    return next((hit for hit in page.hits if hit.product.asin == asin), None)


def _click(thought: str, label: str, loss: bool = True) -> Move:
    return Move(thought[0].upper() + thought[1:], click(label.lower()), loss)
