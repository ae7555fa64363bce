"""The web address of every state, and back: stable links that hold all there is to know.

- `/` and `/search?q=desk+lamp&page=2`
- `/item/B0XXXXXXXX?q=desk+lamp&page=2&option.size=small` and its sub-pages, as `/item/B0XXXXXXXX/features?...`
- `/bought/B0XXXXXXXX?q=desk+lamp&page=2&option.size=small`
"""

from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

from agenttuning.environments.webshop.catalogue import Catalogue
from agenttuning.environments.webshop.shop import SUB_PAGES, State

OPTION = "option."
"""Prefix of the fields that hold chosen values."""


def address(state: State) -> str:
    """Return the path and query of a state."""
    if state.page == "search":
        return "/"
    if state.page == "results":
        return f"/search?{urlencode(fields(state))}"
    folder = "bought" if state.page == "bought" else "item"
    path = "/".join(["", folder, quote(state.asin, safe=""), *([state.sub_page] if state.sub_page else [])])
    return f"{path}?{urlencode(fields(state))}"


def fields(state: State) -> list[tuple[str, str]]:
    """Return what a state holds beside its path, as the fields of a form."""
    return [("q", state.query), ("page", str(state.number)), *((OPTION + name, value) for name, value in state.chosen)]


def state_at(target: str, catalogue: Catalogue) -> State | None:
    """Return the state at a path and query, or None where there is no such page.

    Options and values that the product does not have make an address wrong.
    """
    parts = urlsplit(target)
    given = dict(parse_qsl(parts.query, keep_blank_values=True))
    steps = [unquote(step) for step in parts.path.split("/")[1:]]
    number, query = given.pop("page", "1"), " ".join(given.pop("q", "").lower().split())
    if not (number.isascii() and number.isdigit() and 1 <= int(number) <= 1000):
        return None
    if steps == [""]:
        return State()
    if steps == ["search"]:
        return State("results", query, int(number))
    if len(steps) not in (2, 3) or steps[0] not in ("item", "bought") or steps[1] not in catalogue:
        return None
    sub_page = steps[2] if len(steps) == 3 else ""
    if sub_page and (steps[0] == "bought" or sub_page not in SUB_PAGES):
        return None
    options = catalogue[steps[1]].options
    asked = {name.removeprefix(OPTION): value for name, value in given.items()}
    if any(value not in options.get(name, ()) for name, value in asked.items()):
        return None
    chosen = tuple((name, asked[name]) for name in options if name in asked)
    return State("bought" if steps[0] == "bought" else "item", query, int(number), steps[1], chosen, sub_page)
