"""Pages as trees: reading `cleaned_html`, cutting it down around a few elements, and writing it for the model.

A page is an `xml.etree` tree in which every element has a `backend_node_id` and texts lie in `text` elements, as in
the published records. Everything here is pure.
"""

import json
from collections.abc import Collection, Mapping
from xml.etree.ElementTree import Element, ParseError, fromstring

from agenttuning.errors import DataError

ID = "backend_node_id"
WORDY = (
    "role", "type", "aria_label", "aria_description", "title", "alt", "placeholder", "label", "name", "value",
    "input_value", "text_value",
)  # fmt: skip
"""Attributes whose values are shown, in this order; the values alone, as in the paper's prompts."""
FLAGS = {"input_checked": "checked", "option_selected": "selected"}
DEPTH, CHILDREN, SIBLINGS = 3, 8, 1
"""What stays around a kept element: levels below it, children of each, neighbours on each side."""
ATTRIBUTE_WORDS, TEXT_WORDS, CHOICE_WORDS = 6, 14, 10


def parse(html: str, where: str) -> Element:
    """Return the tree of a page.

    Raises:
        DataError: it is not well-formed, or no element is numbered.
    """
    try:
        root = fromstring(html)
    except ParseError as error:
        raise DataError(f"{where}: cleaned_html is not well-formed ({error})") from error
    if root.get(ID) is None:
        raise DataError(f"{where}: the elements of cleaned_html have no {ID}")
    return root


def by_id(root: Element) -> dict[str, Element]:
    """Return the elements of a page by their ids."""
    return {element.attrib[ID]: element for element in root.iter() if ID in element.attrib}


def text_of(element: Element) -> str:
    """Return the texts in an element, joined by blanks."""
    return " ".join(text for part in element.iter() for text in (part.text or "").split())


def prune(root: Element, ids: Collection[str]) -> Element:
    """Return a copy of a page with only what is around the elements `ids`.

    Kept are these elements, what contains them, `DEPTH` levels below them (`CHILDREN` elements each, all of them
    directly below a `select`) and `SIBLINGS` neighbours on each side with what is below those. Pruning what was
    pruned around more elements gives the same.
    """
    parents = {child: parent for parent in root.iter() for child in parent}
    kept: set[Element] = {root}
    for element in root.iter():
        if element.get(ID) not in ids:
            continue
        _keep_below(element, DEPTH, kept)
        parent = parents.get(element)
        if parent is not None:
            place = list(parent).index(element)
            for neighbour in list(parent)[max(place - SIBLINGS, 0) : place + SIBLINGS + 1]:
                _keep_below(neighbour, DEPTH - 1, kept)
        while parent is not None:
            kept.add(parent)
            parent = parents.get(parent)
    return _copy(root, kept)


def _keep_below(element: Element, depth: int, kept: set[Element]) -> None:
    kept.add(element)
    children = list(element) if element.tag == "select" else list(element)[:CHILDREN]
    for child in children:
        if child.tag == "text":
            kept.add(child)
        elif depth > 0:
            _keep_below(child, depth - 1, kept)


def _copy(element: Element, kept: set[Element]) -> Element:
    copy = Element(element.tag, dict(element.attrib))
    copy.text = element.text
    copy.extend(_copy(child, kept) for child in element if child in kept)
    return copy


def folded(root: Element, ids: Collection[str]) -> Element:
    """Return a copy of a page without elements that say nothing: empty ones, and wrappers of a single element."""
    folded_root = _fold(root, ids)
    return Element(root.tag) if folded_root is None else folded_root


def _fold(element: Element, ids: Collection[str]) -> Element | None:
    inner = [found for child in element if (found := _fold(child, ids)) is not None]
    named = element.get(ID) in ids
    if not named and not _attributes(element):
        if not inner and not (element.text or "").strip():
            return None
        if len(inner) == 1 and element.tag not in {"html", "a", "button", "label", "select", "option"}:
            return inner[0]
    copy = Element(element.tag, dict(element.attrib))
    copy.text = element.text
    copy.extend(inner)
    return copy


def render(root: Element, numbers: Mapping[str, int]) -> str:
    """Return a page as the model sees it: `<button id=0 submit> Save </button>`.

    Args:
        root: the page, pruned.
        numbers: the number shown for each element that can be chosen, by id.
    """
    return _render(folded(root, numbers), numbers, TEXT_WORDS)


def choice_text(element: Element, number: int) -> str:
    """Return an element as it stands in the list of choices."""
    return _render(folded(element, {element.attrib[ID]}), {element.attrib[ID]: number}, CHOICE_WORDS, budget=True)


def _render(element: Element, numbers: Mapping[str, int], words: int, budget: bool = False) -> str:
    if element.tag == "text":
        return _cut(element.text or "", words)
    shown = [element.tag]
    number = numbers.get(element.get(ID, ""))
    if number is not None:
        shown.append(f"id={number}")
    if attributes := _attributes(element):
        shown.append(attributes)
    parts = [part for child in element if (part := _render(child, numbers, words))]
    if budget:
        parts = [_cut(" ".join(label(child) for child in element), words)] if len(element) else []
    inner = " ".join(part for part in parts if part)
    head = " ".join(shown)
    return f"<{head}> {inner} </{element.tag}>" if inner else f"<{head} />"


def _attributes(element: Element) -> str:
    values = [_cut(element.get(name, ""), ATTRIBUTE_WORDS) for name in WORDY]
    flags = [shown for name, shown in FLAGS.items() if element.get(name)]
    return " ".join(dict.fromkeys(value for value in (*values, *flags) if value))


def label(element: Element) -> str:
    """Return the words by which one would call an element: its text, else what its attributes say; may be empty."""
    text = text_of(element) if element.tag != "select" else ""
    if not text:
        names = ("aria_label", "placeholder", "title", "alt", "label", "value", "name")
        text = next((element.get(name, "") for name in names if element.get(name)), "")
    return " ".join(text.replace("_", " ").split())


def _cut(text: str, words: int) -> str:
    found = text.split()
    return " ".join(found[:words]) + ("…" if len(found) > words else "")


def described(element: Element, parents: Mapping[Element, Element]) -> tuple[str, str]:
    """Return what a ranker reads of a candidate: what it says itself, and the texts around it.

    Around are the texts beside it; where it has no word of its own and nothing is beside it, those one level up.
    """
    own = [element.tag, _attributes(element), _cut(text_of(element), 2 * TEXT_WORDS)]
    href = element.get("href", "").replace(".html", "")
    own += [_apart(element.get("id", "")), _apart(href)]
    inner, parent, around = element, parents.get(element), ""
    while parent is not None and not around and (inner is element or not own[2]):
        around = " ".join(text_of(child) for child in parent if child is not inner)
        inner, parent = parent, parents.get(parent)
    return " ".join(part for part in own if part), _cut(around, TEXT_WORDS)


def _apart(text: str) -> str:
    """Return an identifier as words: `inputClientCompany` is input client company."""
    spaced = "".join(f" {c.lower()}" if c.isupper() else (c if c.isalnum() else " ") for c in text)
    return " ".join(spaced.split())


def candidate_element(tag: str, attributes: str, number: str) -> Element:
    """Return an element for a candidate that the cleaned page does not hold, from its stored attributes."""
    element = Element(tag, {ID: number})
    given = json.loads(attributes) if attributes else {}
    for name, value in given.items():
        if name in WORDY and isinstance(value, str):
            element.set(name, value)
    return element


def subpage(root: Element, ids: Collection[str]) -> Element:
    """Return `prune(root, ids)` with only the ids that can be chosen, for storing in a task."""
    pruned = prune(root, ids)
    for element in pruned.iter():
        for name in list(element.attrib):
            if name not in WORDY and name not in FLAGS and name not in {ID, "id"}:
                del element.attrib[name]
    return pruned
