"""The shop as a state machine: a `State` is one page, and every clickable thing on it leads to another.

    search -> results (pages of 10 of at most 50 hits) -> item (options, sub-pages) -> bought

A `Page` lists what is shown, in order, and knows nothing of text or HTML: `text` and `markup` draw it. A state is a
value; it is all that an address of the shop's web pages holds.
"""

from dataclasses import dataclass, replace
from typing import Literal

from agenttuning.environments.webshop.catalogue import Catalogue
from agenttuning.environments.webshop.records import Product

PER_PAGE = 10
SUB_PAGES = ("description", "features", "reviews", "attributes")

SEARCH = "Search"
BACK = "Back to Search"
NEXT = "Next >"
PREVIOUS = "< Prev"
BUY = "Buy Now"


@dataclass(frozen=True)
class State:
    """Where a customer is, and what was chosen on the way."""

    page: Literal["search", "results", "item", "bought"] = "search"
    query: str = ""
    number: int = 1
    """Page of the results, from 1."""
    asin: str = ""
    chosen: tuple[tuple[str, str], ...] = ()
    """Option names and values, in the product's order of options."""
    sub_page: str = ""
    """One of `SUB_PAGES`, or empty on the item's own page."""


@dataclass(frozen=True)
class Words:
    """Text that cannot be clicked."""

    text: str
    role: Literal["heading", "title", "price", "rating", "text"] = "text"


@dataclass(frozen=True)
class SearchBox:
    """The field for a query, with its button."""


@dataclass(frozen=True)
class Button:
    """A button."""

    label: str
    to: State


@dataclass(frozen=True)
class Hit:
    """A product in the results; its number can be clicked."""

    product: Product
    to: State


@dataclass(frozen=True)
class Choice:
    """An option of a product with its values, where each leads, and the one that is chosen."""

    name: str
    values: tuple[tuple[str, State], ...]
    chosen: str | None


Part = Words | SearchBox | Button | Hit | Choice


@dataclass(frozen=True)
class Page:
    """What a state shows."""

    state: State
    parts: tuple[Part, ...]

    @property
    def has_search(self) -> bool:
        """Whether there is a search box."""
        return any(isinstance(part, SearchBox) for part in self.parts)

    @property
    def clickables(self) -> dict[str, State]:
        """Where each label leads: buttons first, then products, then option values; of equal labels the last."""
        found = {part.label.lower(): part.to for part in self.parts if isinstance(part, Button)}
        found |= {part.product.asin.lower(): part.to for part in self.hits}
        return found | {value.lower(): to for choice in self.choices for value, to in choice.values}

    @property
    def hits(self) -> tuple[Hit, ...]:
        """The products shown."""
        return tuple(part for part in self.parts if isinstance(part, Hit))

    @property
    def choices(self) -> tuple[Choice, ...]:
        """The options shown."""
        return tuple(part for part in self.parts if isinstance(part, Choice))

    def says(self, phrase: str) -> bool:
        """Whether a phrase is written on the page, upper and lower case alike."""
        texts = [part.text for part in self.parts if isinstance(part, Words)]
        texts += [hit.product.name for hit in self.hits]
        return any(phrase.lower() in text.lower() for text in texts)


class Shop:
    """A shop over a catalogue: draws the page of a state. It holds no state of its own.

    Args:
        catalogue: what it sells.
        attributes: show a product's list of attributes as a fourth sub-page.
    """

    def __init__(self, catalogue: Catalogue, attributes: bool = False) -> None:
        self.catalogue = catalogue
        self._sub_pages = SUB_PAGES if attributes else SUB_PAGES[:3]

    def page(self, state: State) -> Page:
        """Return the page of a state.

        Raises:
            KeyError: no such product.
        """
        if state.page == "search":
            return Page(state, (Words("WebShop", "heading"), SearchBox()))
        if state.page == "results":
            return Page(state, self._results(state))
        product = self.catalogue[state.asin]
        if state.page == "bought":
            options = ", ".join(f"{name}: {value}" for name, value in state.chosen) or "no options"
            return Page(state, (Words("Your order is placed.", "heading"), Words(f"{product.asin} ({options})")))
        if state.sub_page:
            back = (Button(BACK, State()), Button(PREVIOUS, replace(state, sub_page="")))
            return Page(state, back + _sub_page(product, state.sub_page))
        return Page(state, self._item(state, product))

    def searched(self, query: str) -> State:
        """Return the first page of a query's results."""
        return State("results", " ".join(query.lower().split()))

    def _results(self, state: State) -> tuple[Part, ...]:
        hits = self.catalogue.search(state.query)
        start = (state.number - 1) * PER_PAGE
        parts: list[Part] = [
            Button(BACK, State()),
            Words(f"Page {state.number} (Total results: {len(hits)})", "heading"),
        ]
        if state.number > 1:
            parts.append(Button(PREVIOUS, replace(state, number=state.number - 1)))
        if start + PER_PAGE < len(hits):
            parts.append(Button(NEXT, replace(state, number=state.number + 1)))
        for product in hits[start : start + PER_PAGE]:
            parts.append(Hit(product, State("item", state.query, state.number, product.asin)))
        return tuple(parts)

    def _item(self, state: State, product: Product) -> tuple[Part, ...]:
        results = State("results", state.query, state.number)
        choices = [Choice(name, self._values(state, product, name), _chosen(state, name)) for name in product.options]
        return (
            Button(BACK, State()),
            Button(PREVIOUS, results),
            *choices,
            Words(product.name, "title"),
            Words(f"Price: {product.tag}", "price"),
            Words(f"Rating: {product.rating}", "rating"),
            *(Button(name.capitalize(), replace(state, sub_page=name)) for name in self._sub_pages),
            Button(BUY, replace(state, page="bought")),
        )

    def _values(self, state: State, product: Product, name: str) -> tuple[tuple[str, State], ...]:
        return tuple((value, chosen_too(state, product, name, value)) for value in product.options[name])


def chosen_too(state: State, product: Product, name: str, value: str) -> State:
    """Return the state in which an option's value is chosen as well."""
    chosen = {**dict(state.chosen), name: value}
    return replace(state, chosen=tuple((option, chosen[option]) for option in product.options if option in chosen))


def _chosen(state: State, name: str) -> str | None:
    return dict(state.chosen).get(name)


def _sub_page(product: Product, name: str) -> tuple[Words, ...]:
    texts = {
        "description": (product.description,) if product.description else (),
        "features": product.bullets,
        "reviews": product.reviews,
        "attributes": product.attributes,
    }[name]
    return tuple(Words(text.strip()) for text in texts) or (Words(f"No {name} found"),)
