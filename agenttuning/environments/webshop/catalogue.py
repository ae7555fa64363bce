"""A catalogue: products by number, and the search over them. Shared by all shops of a process."""

from collections.abc import Sequence
from functools import lru_cache

from agenttuning.environments.webshop.records import Product
from agenttuning.environments.webshop.search import Index


class Catalogue:
    """The products of one shop.

    Args:
        name: what tasks call it.
        products: in the order that decides between equal hits.
    """

    def __init__(self, name: str, products: Sequence[Product]) -> None:
        self.name = name
        self.products = tuple(products)
        self._by_asin = {product.asin: product for product in self.products}
        index = Index(searched_text(product) for product in self.products)

        @lru_cache(maxsize=512)
        def search(query: str) -> tuple[Product, ...]:
            return tuple(self.products[number] for number in index.search(query))

        self._search = search

    def __contains__(self, asin: str) -> bool:
        """Whether a product has this number."""
        return asin in self._by_asin

    def __getitem__(self, asin: str) -> Product:
        """Return the product of a number; KeyError where there is none."""
        return self._by_asin[asin]

    def search(self, query: str) -> tuple[Product, ...]:
        """Return the products that fit a query, at most 50, the best first."""
        return self._search(query)


def searched_text(product: Product) -> str:
    """Return what search sees of a product: title, description, first bullet and options."""
    options = ", and ".join(f"{name}: {', '.join(values)}" for name, values in product.options.items())
    return " ".join([product.name, product.description, *product.bullets[:1], options]).lower()
