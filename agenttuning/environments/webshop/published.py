"""Published catalogues: the official 1,000 products below the data root, and the full catalogue by its path.

The full catalogue is read in WebShop's own files: `items_shuffle.json` (products), `items_ins_v2.json` (attributes and
instructions by product number) and `items_human_ins.json` (what people asked for); the first is a list of several
gigabytes and is read a piece at a time. Catalogues are kept for the life of the process.
"""

import json
import lzma
import re
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from agenttuning.environments.webshop.catalogue import Catalogue
from agenttuning.environments.webshop.goals import Asked, official_goals
from agenttuning.environments.webshop.records import NO_PRICE, Product, read_product
from agenttuning.errors import DataError

SMALL = Path("webshop") / "products_1k.jsonl.xz"
PRODUCTS = ("items_shuffle.json", "items_shuffle_1000.json")
ATTRIBUTES = ("items_ins_v2.json", "items_ins_v2_1000.json")
PEOPLE = ("items_human_ins.json",)
"""File names of the official layout, those of the full catalogue first."""
PIECE = 1 << 20
"""Characters read at once."""

_KEPT: dict[str, Catalogue] = {}
_GOALS: dict[tuple[str, bool], list[Asked]] = {}
_LOCK = threading.Lock()


def published_catalogue(path: Path) -> Catalogue:
    """Return the catalogue of a compact file (`.jsonl.xz`) or of a directory of official files.

    Raises:
        DataError: a file is missing, torn or not in the official layout.
    """
    key = str(path.resolve())
    with _LOCK:
        if key not in _KEPT:
            products = list(_official(path) if path.is_dir() else _compact(path))
            if not products:
                raise DataError(f"{path}: no product in it; fetch it again")
            _KEPT[key] = Catalogue(key, products)
        return _KEPT[key]


def published_goals(catalogue: Catalogue, people: bool) -> list[Asked]:
    """Return the goals of a published catalogue in WebShop's order; see `goals`."""
    with _LOCK:
        if (catalogue.name, people) not in _GOALS:
            _GOALS[catalogue.name, people] = official_goals(catalogue.products, people)
        return _GOALS[catalogue.name, people]


def _compact(path: Path) -> Iterator[Product]:
    try:
        with lzma.open(path, "rt", encoding="utf-8") as lines:
            for line in lines:
                yield read_product(json.loads(line), str(path))
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file; data.root must hold {SMALL}") from error
    except (OSError, EOFError, lzma.LZMAError, ValueError) as error:
        raise DataError(f"{path}: not readable as JSON lines ({error}); fetch it again") from error


def _official(folder: Path) -> Iterator[Product]:
    """Yield the products of a directory of official files, as WebShop reads them."""
    attributes = _object(folder, ATTRIBUTES)
    people = _object(folder, PEOPLE) if (folder / PEOPLE[0]).is_file() else {}
    seen: set[str] = set()
    path = _file(folder, PRODUCTS)
    for item in json_list(path):
        asin = str(item.get("asin", ""))
        if asin in seen or asin == "nan" or not 0 < len(asin) <= 10:
            continue
        seen.add(asin)
        try:
            record = _record(item, attributes.get(asin, {}), people.get(asin, ()))
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise DataError(f"{path}: product {asin} is not in the official layout ({error!r})") from error
        yield read_product(record, str(path))


def _record(item: Mapping[str, Any], known: Mapping[str, Any], wishes: Any) -> dict[str, Any]:
    """Return a raw item in the layout of the compact file."""
    bullets = item["small_description"]
    options = {
        name.lower(): [value["value"].strip().replace("/", " | ").lower() for value in values]
        for name, values in (item["customization_options"] or {}).items()
        if values is not None
    }
    return {
        "asin": item["asin"],
        "name": item["name"],
        "category": item["category"],
        "query": item["query"],
        "product_category": item["product_category"],
        "description": item["full_description"],
        "bullet_points": bullets if isinstance(bullets, list) else [bullets or ""],
        "pricing": _prices(item.get("pricing")),
        "options": options,
        "attributes": known.get("attributes", ()),
        "instruction": known.get("instruction"),
        "instruction_attributes": known.get("instruction_attributes"),
        "human_instructions": wishes,
    }


def _prices(text: str | None) -> list[float]:
    """Read `$19.99` or `$19.99 - $27.99`; nothing is WebShop's default price."""
    found = [float(re.sub(r"[^\d.]", "", part)) for part in (text or "").split("$")[1:]]
    return found or [NO_PRICE]


def json_list(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the objects of a JSON list without holding the whole text.

    Raises:
        DataError: the file is no list of objects, or it ends too early.
    """
    decoder, text, at, more = json.JSONDecoder(), "", 0, True
    with path.open(encoding="utf-8") as file:
        text = file.read(PIECE).lstrip()
        if not text.startswith("["):
            raise DataError(f"{path}: not a JSON list; it must be WebShop's {PRODUCTS[0]}")
        at = 1
        while True:
            while at < len(text) and text[at] in ", \t\r\n":
                at += 1
            if text.startswith("]", at):
                return
            try:
                value, at = decoder.raw_decode(text, at)
            except ValueError as error:
                if not more:
                    raise DataError(f"{path}: the list is not complete ({error}); fetch it again") from error
                piece = file.read(max(PIECE, len(text) - at))
                text, at, more = text[at:] + piece, 0, bool(piece)
                continue
            if not isinstance(value, dict):
                raise DataError(f"{path}: the list holds {type(value).__name__}, not products")
            yield value


def _object(folder: Path, names: tuple[str, ...]) -> dict[str, Any]:
    path = _file(folder, names)
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: not readable as JSON ({error}); fetch it again") from error
    if not isinstance(found, dict):
        raise DataError(f"{path}: not a JSON object by product number; it must be WebShop's {names[0]}")
    return found


def _file(folder: Path, names: tuple[str, ...]) -> Path:
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise DataError(f"{folder}: neither {' nor '.join(names)} is in it; a full catalogue needs WebShop's own files")
