"""What a shop sells and what a customer wants: `Product` and `Goal`, and the official record layout of a product.

A record is one JSON object: `asin`, `name`, `category`, `query`, `product_category` (names joined by `›`),
`description`, `bullet_points`, `pricing` (one price, or the two ends of a range), `options` (values by option name),
`attributes`, and, where customers' wishes were written for it, `instruction` with `instruction_attributes`, and
`human_instructions`. Generated catalogues have the same layout. Nothing here reads a file.
"""

import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict

from agenttuning.errors import DataError

NO_PRICE = 100.0
"""What a product without a price costs."""
NO_LIMIT = 1_000_000.0
"""The price limit of a goal that has none."""
LIMITS = tuple(10.0 * tens for tens in range(1, 100))
"""The price limits that a goal may have."""


@dataclass(frozen=True, slots=True)
class Wish:
    """An instruction that a person wrote for a product, with the attributes and option values that it asks for."""

    instruction: str
    attributes: tuple[str, ...]
    options: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Product:
    """One product of a catalogue. `options` holds the values by option name, both lower-case."""

    asin: str
    name: str
    category: str
    query: str
    product_category: str
    description: str
    bullets: tuple[str, ...]
    pricing: tuple[float, ...]
    options: Mapping[str, tuple[str, ...]]
    attributes: tuple[str, ...]
    rating: str = "N.A."
    reviews: tuple[str, ...] = ()
    instruction: str | None = None
    instruction_attributes: tuple[str, ...] = ()
    wishes: tuple[Wish, ...] = ()

    @property
    def tag(self) -> str:
        """The price as the shop shows it."""
        return " to ".join(f"${price}" for price in self.pricing)

    @property
    def price(self) -> float:
        """What the product costs, in dollars; of a range one price that the product's number decides."""
        if len(self.pricing) == 1:
            return self.pricing[0]
        return random.Random(f"price/{self.asin}").uniform(self.pricing[0], self.pricing[1])

    def evidence(self) -> dict[str, Any]:
        """Return what the grader reads, as JSON."""
        return {
            "asin": self.asin,
            "name": self.name,
            "query": self.query,
            "product_category": self.product_category,
            "description": self.description,
            "bullet_points": list(self.bullets),
            "attributes": list(self.attributes),
            "price": self.price,
        }


class Goal(BaseModel):
    """What a bought product is compared with."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    asin: str
    name: str
    query: str
    product_category: str
    attributes: tuple[str, ...]
    options: tuple[str, ...] = ()
    """Option values, without the names of their options."""
    price_upper: float = NO_LIMIT


def goal_of(product: Product, attributes: tuple[str, ...], options: tuple[str, ...], price_upper: float) -> Goal:
    """Return the goal of buying something like `product`."""
    return Goal(
        asin=product.asin,
        name=product.name,
        query=product.query,
        product_category=product.product_category,
        attributes=attributes,
        options=options,
        price_upper=price_upper,
    )


def draw_limit(price: float, rng: random.Random) -> float:
    """Draw a price limit: of the four tens above the price two are drawn, and the larger is the limit.

    The highest price there is has no limit above it and gets `NO_LIMIT`.
    """
    above = [limit for limit in LIMITS if limit > price][:4]
    return max(rng.sample(above, 2)) if len(above) >= 2 else NO_LIMIT


def read_product(record: Mapping[str, Any], where: str) -> Product:
    """Read a record.

    Args:
        record: a JSON object in the official layout.
        where: what to call the record's file in an error.

    Raises:
        DataError: a field is missing or of another type.
    """
    try:
        wishes = tuple(
            Wish(
                str(wish["instruction"]),
                tuple(map(str, wish["instruction_attributes"])),
                tuple(map(str, wish["instruction_options"])),
            )
            for wish in record.get("human_instructions") or ()
        )
        return Product(
            asin=str(record["asin"]).upper(),
            name=str(record["name"]),
            category=str(record["category"]),
            query=str(record["query"]).lower().strip(),
            product_category=str(record["product_category"]),
            description=str(record["description"] or ""),
            bullets=tuple(map(str, record["bullet_points"])),
            pricing=tuple(float(price) for price in record["pricing"])[:2] or (NO_PRICE,),
            options={str(name): tuple(map(str, values)) for name, values in record["options"].items()},
            attributes=tuple(map(str, record["attributes"])),
            rating=str(record.get("rating") or "N.A."),
            reviews=tuple(map(str, record.get("reviews") or ())),
            instruction=record.get("instruction"),
            instruction_attributes=tuple(map(str, record.get("instruction_attributes") or ())),
            wishes=wishes,
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(
            f"{where}: a product is not in the official layout ({error!r}): {dict(record)!r:.200}"
        ) from error
