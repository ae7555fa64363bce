"""What generated shops sell: kinds of products with their features, options and prices, from `goods.jsonl`.

The file was written for this project. `KINDS` are what train and test sell, `SHIFTED` what shifted sells.
"""

import json
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

DEPARTMENTS = {
    "home": "Home & Living",
    "kitchen": "Kitchen & Dining",
    "electronics": "Electronics",
    "clothing": "Clothing & Shoes",
    "beauty": "Beauty & Care",
    "grocery": "Food & Drinks",
    "garden": "Garden & Outdoor",
    "pets": "Pet Supplies",
    "office": "Office & School",
}
"""The first name of a category, by family."""


@dataclass(frozen=True)
class Kind:
    """A kind of product. Its qualities and parts are its possible attributes."""

    family: str
    name: str
    counter: str
    """What stands before the name in a sentence: `a`, `a pair of`, `some`."""
    path: str
    """Its category, between its department and its name."""
    qualities: tuple[str, ...]
    """What stands before the name: `leak proof`."""
    parts: tuple[str, ...]
    """What stands after it: `with a carry loop`."""
    options: dict[str, tuple[str, ...]]
    """All values that an option may have, by its name."""
    prices: tuple[float, float]
    uses: tuple[str, ...]


def _kind(raw: dict[str, Any]) -> Kind:
    return Kind(
        family=raw["family"],
        name=raw["name"],
        counter=raw["counter"],
        path=raw["path"],
        qualities=tuple(raw["qualities"]),
        parts=tuple(raw["parts"]),
        options={name: tuple(values) for name, values in raw["options"].items()},
        prices=(raw["prices"][0], raw["prices"][1]),
        uses=tuple(raw["uses"]),
    )


_RAW = [
    json.loads(line) for line in files(__package__).joinpath("goods.jsonl").read_text(encoding="utf-8").splitlines()
]
KINDS = tuple(_kind(raw) for raw in _RAW if raw["goods"] == "main")
SHIFTED = tuple(_kind(raw) for raw in _RAW if raw["goods"] == "shifted")
