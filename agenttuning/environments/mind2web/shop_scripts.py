"""Task scripts for the project's own WebShop site, made from its generated catalogue: search, open, choose, buy."""

import random
from collections.abc import Iterator

from agenttuning.environments.mind2web.scripts import Script, ScriptStep
from agenttuning.environments.webshop.generator import generated_catalogue
from agenttuning.environments.webshop.records import Product

CATALOGUE = "shifted"
COUNT = 18
FIRST_PAGE = 10
"""Hits on the first page: a product that is not among them would need more clicks."""


def shop_scripts(site: str) -> Iterator[Script]:
    """Yield `COUNT` scripts, the same each time, each for another product with options."""
    catalogue = generated_catalogue(CATALOGUE)
    rng = random.Random("mind2web/webshop")
    products = [product for product in catalogue.products if product.options]
    number = 0
    for product in rng.sample(products, len(products)):
        query = " ".join([product.query, *rng.sample(product.attributes, 1)]).lower()
        if product not in catalogue.search(query)[:FIRST_PAGE]:
            continue
        yield _script(f"{site}-{number}-0", product, query, rng)
        number += 1
        if number == COUNT:
            return


def _script(name: str, product: Product, query: str, rng: random.Random) -> Script:
    chosen = {option: rng.choice(values) for option, values in product.options.items()}
    wanted = " and ".join(f"{option} {value}" for option, value in chosen.items())
    goal = f'Search the shop for "{query}" and buy the {product.name}, with {wanted}.'
    steps = [
        ScriptStep("TYPE", "#search-box", query),
        ScriptStep("CLICK", "#search-button", ""),
        ScriptStep("CLICK", f"#product-{product.asin}", ""),
        *(ScriptStep("CLICK", f'input[type=radio][value="{value}"]', "") for value in chosen.values()),
        ScriptStep("CLICK", "#buy-now", ""),
    ]
    return Script(name, goal, "", tuple(steps))
