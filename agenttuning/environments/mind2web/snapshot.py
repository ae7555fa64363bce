"""From a live page to `cleaned_html` and candidates: Chromium's DOMSnapshot, reduced to what is visible.

`clean` is pure: it takes the reply of `DOMSnapshot.captureSnapshot` and keeps rendered elements with the attributes
that Mind2Web keeps. Elements are numbered in document order (`backend_node_id`), not as the browser numbers them, so
that recording a page again gives the same record. Values typed, boxes checked and options chosen so far are part of it.
"""

from dataclasses import dataclass
from typing import Any
from xml.etree.ElementTree import Element

MARK = "data-recorded-target"
"""Attribute that the recorder sets before it takes the snapshot: `own` on the element of the next action, `same` on
those that do the same, such as the label of a box."""

KEPT = (
    "id", "class", "name", "type", "role", "title", "alt", "placeholder", "value", "label", "href",
    "aria-label", "aria-description", "aria-expanded",
)  # fmt: skip
CUT = {"id": 40, "class": 60, "href": 60}
"""Longest values of the attributes that only help to tell elements apart."""
SKIPPED = {"script", "style", "noscript", "template", "head", "iframe", "object", "link", "meta"}
EMPTIED = {"svg", "canvas", "video", "audio"}
"""Kept without what is inside."""
INTERACTIVE = {"a", "button", "input", "select", "textarea", "label", "summary"}
STYLES = ["visibility", "opacity"]
ROLES = {"button", "link", "tab", "menuitem", "checkbox", "radio", "option", "switch", "combobox", "textbox"}
TEXT_CUT = 200


@dataclass(frozen=True)
class Page:
    """A page at one moment."""

    root: Element
    """`cleaned_html` as a tree; every element has `backend_node_id`, text lies in `text` elements."""
    boxes: dict[str, str]
    """Candidate's id to its `x,y,width,height` in CSS pixels. Its keys, in document order, are all candidates."""
    targets: tuple[str, ...]
    """Ids of the marked elements, the one marked `own` first."""


def clean(snapshot: dict[str, Any]) -> Page:
    """Reduce the reply of `DOMSnapshot.captureSnapshot(computedStyles=STYLES)` to a page."""
    return _Cleaner(snapshot).page()


class _Cleaner:
    def __init__(self, snapshot: dict[str, Any]) -> None:
        self.strings: list[str] = snapshot["strings"]
        document = snapshot["documents"][0]
        self.nodes = nodes = document["nodes"]
        layout = document["layout"]
        self.boxes: dict[int, list[float]] = {}
        self.faded: set[int] = set()
        for node, box, styles in zip(layout["nodeIndex"], layout["bounds"], layout["styles"], strict=True):
            if not styles or self.strings[styles[0]] == "visible":
                self.boxes[node] = box
            if styles and self.strings[styles[1]] == "0":
                self.faded.add(node)
        self.children: dict[int, list[int]] = {}
        for index, parent in enumerate(nodes["parentIndex"]):
            self.children.setdefault(parent, []).append(index)
        self.clickable = set(nodes["isClickable"]["index"])
        self.checked = set(nodes["inputChecked"]["index"])
        self.selected = set(nodes["optionSelected"]["index"])
        self.typed = {
            index: self.strings[value]
            for part in (nodes["inputValue"], nodes["textValue"])
            for index, value in zip(part["index"], part["value"], strict=True)
            if value >= 0
        }

    def page(self) -> Page:
        kinds = zip(self.nodes["nodeType"], self.nodes["nodeName"], strict=True)
        html = next(i for i, (kind, name) in enumerate(kinds) if kind == 1 and self.strings[name].lower() == "html")
        element = self._element(html) or Element("html")
        boxes: dict[str, str] = {}
        targets: list[str] = []
        for number, node in enumerate(element.iter(), 1):
            node.set("backend_node_id", str(number))
            if (mark := node.attrib.pop(MARK, None)) is not None:
                targets.insert(0 if mark == "own" else len(targets), str(number))
            if (box := node.attrib.pop("box", None)) is not None:
                boxes[str(number)] = box
        return Page(element, boxes, tuple(targets))

    def _element(self, index: int, in_select: bool = False) -> Element | None:
        """Return the element of a node with what is rendered inside it, or None where nothing is."""
        tag = self.strings[self.nodes["nodeName"][index]].lower().partition(":")[0]
        if tag in SKIPPED or not tag.replace("-", "").isalnum():
            return None
        if index in self.faded and tag != "input":  # A styled box hides its input and draws the label instead.
            return None
        shown = index in self.boxes or (in_select and tag in {"option", "optgroup"})
        element = Element(tag, self._attributes(index, tag))
        if tag not in EMPTIED:
            for child in self.children.get(index, ()):
                kind = self.nodes["nodeType"][child]
                if kind == 3:
                    self._add_text(element, child, in_select=tag == "option")
                elif kind == 1 and (inner := self._element(child, in_select or tag == "select")) is not None:
                    element.append(inner)
        if not shown and not len(element):
            return None
        if shown and (box := self._candidate_box(index, tag, element)) is not None:
            element.set("box", box)
        return element

    def _add_text(self, element: Element, index: int, in_select: bool) -> None:
        text = " ".join(self.strings[self.nodes["nodeValue"][index]].split())
        if text and (in_select or index in self.boxes):
            node = Element("text")
            node.text = _printable(text)[:TEXT_CUT]
            element.append(node)

    def _attributes(self, index: int, tag: str) -> dict[str, str]:
        flat = [self.strings[i] for i in self.nodes["attributes"][index]]
        given = dict(zip(flat[::2], flat[1::2], strict=True))
        found = {
            name.replace("-", "_"): _printable(" ".join(given[name].split()))[: CUT.get(name, TEXT_CUT)]
            for name in KEPT
            if given.get(name)
        }
        if MARK in given:
            found[MARK] = given[MARK]
        if index in self.clickable:
            found["is_clickable"] = "true"
        if index in self.checked:
            found["input_checked"] = "true"
        if index in self.selected and tag == "option":
            found["option_selected"] = "true"
        if tag in {"input", "textarea"} and self.typed.get(index) and found.get("type") not in {"checkbox", "radio"}:
            found["input_value"] = _printable(self.typed[index])[:TEXT_CUT]
        return found

    def _candidate_box(self, index: int, tag: str, element: Element) -> str | None:
        """Return the box of an element that one can act on or read, or None."""
        x, y, width, height = self.boxes.get(index, (0, 0, 0, 0))
        if MARK in element.attrib:
            return ",".join(f"{value:.0f}" for value in (x, y, width, height))
        if width < 2 or height < 2 or x + width <= 0 or tag in {"html", "body", "option", "optgroup"}:
            return None
        own = tag in INTERACTIVE or tag == "img" or element.get("role") in ROLES
        reads = any(child.tag == "text" for child in element)
        inside = any(e.get("box") is not None for e in element.iter())
        if own or reads or (index in self.clickable and not inside):
            return ",".join(f"{value:.0f}" for value in (x, y, width, height))
        return None


def _printable(text: str) -> str:
    """Drop what XML cannot hold, and the private characters of icon fonts."""
    return "".join(c for c in text if c.isprintable() and not "" <= c <= "").strip()
