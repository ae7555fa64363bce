"""One worked purchase as turns, for prompts that show an example: in a shop of three products that no split sells."""

from functools import lru_cache

from agenttuning.environments.webshop.catalogue import Catalogue
from agenttuning.environments.webshop.grammar import click, format_reply, search
from agenttuning.environments.webshop.records import Goal, Product, goal_of
from agenttuning.environments.webshop.shop import Shop, State
from agenttuning.environments.webshop.text import observation
from agenttuning.trajectory import Turn

INSTRUCTION = "i need a folding umbrella that is wind proof, with color: plum, and price lower than 30.00 dollars"


def _product(asin: str, name: str, price: float, attributes: tuple[str, ...], colours: tuple[str, ...]) -> Product:
    return Product(
        asin=asin,
        name=name,
        category="travel",
        query="folding umbrella",
        product_category="Travel › Rain › Folding Umbrella",
        description="An umbrella for the road.",
        bullets=("Dries within an hour.",),
        pricing=(price,),
        options={"color": colours},
        attributes=attributes,
    )


PRODUCTS = (
    _product("B000000001", "Drizzle Folding Umbrella, Light Frame", 12.5, ("light frame",), ("plum", "moss")),
    _product("B000000002", "Gale Folding Umbrella, Wind Proof, Eight Ribs", 24.0, ("wind proof",), ("moss", "plum")),
    _product("B000000003", "Storm Folding Umbrella, Wind Proof, Large", 41.0, ("wind proof",), ("plum",)),
)
PLAYED = (
    ("I search for a folding umbrella that is wind proof.", search("wind proof folding umbrella")),
    (
        "Both B000000002 and B000000003 say wind proof. B000000003 costs $41.0, more than 30 dollars, so I open the "
        "other.",
        click("b000000002"),
    ),
    ("The task asks for plum, and plum is among the colors.", click("plum")),
    ("I have chosen plum, and $24.0 is below 30 dollars. I buy it.", click("buy now")),
)
"""(thought, action) of each turn; the last one buys."""


def goal() -> Goal:
    """Return what the example's purchase is compared with."""
    return goal_of(PRODUCTS[1], ("wind proof",), ("plum",), 30.0)


@lru_cache(maxsize=1)
def demonstration() -> tuple[Turn, ...]:
    """Return the purchase as turns; no turn of it is trained."""
    shop, state = Shop(Catalogue("demonstration", PRODUCTS)), State()
    turns: list[Turn] = []
    for thought, action in PLAYED:
        page = shop.page(state)
        turns.append(Turn(role="user", content=observation(page, INSTRUCTION)))
        content = format_reply(thought, action)
        turns.append(Turn(role="assistant", content=content, loss=False, thought=thought, action=action))
        if action.name == "search":
            state = shop.searched(action.arguments["keywords"])
        else:
            state = page.clickables[action.arguments["label"]]
    return tuple(turns)
