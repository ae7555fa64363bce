"""The recorded tasks that come with the package, packed: each page once, candidates from their boxes.

`recorded.jsonl.xz` holds one JSON value a line: pages (texts), then records whose actions name a page by number and
the right elements by id. Numbers of elements are their places in the document, so they are not stored. Unpacked, it
is the published record schema again (see `records`).
"""

import json
import lzma
from collections.abc import Iterable, Iterator
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element, fromstring, tostring

from agenttuning.environments.mind2web.ranking import read_scores
from agenttuning.environments.mind2web.records import Candidate, Entry, Record, checked

FILE = "recorded.jsonl.xz"
SCORES = "recorded.scores.json.xz"
"""What the trained ranker gives the first candidates of every recorded action (see `ranking`)."""


def candidates(root: Element) -> dict[str, Candidate]:
    """Return the candidates of a page (elements with a `box`) by id, as the record schema has them, and drop boxes."""
    found = {}
    for element in root.iter():
        box = element.attrib.pop("box", None)
        if box is not None:
            number = element.attrib["backend_node_id"]
            attributes = {"backend_node_id": number, "bounding_box_rect": box, **element.attrib}
            found[number] = Candidate(tag=element.tag, backend_node_id=number, attributes=json.dumps(attributes))
    return found


def numbered(page: str) -> Element:
    """Return a packed page as a tree, its elements numbered in document order."""
    root = fromstring(page)
    for number, element in enumerate(root.iter(), 1):
        element.set("backend_node_id", str(number))
    return root


def pack(root: Element, boxes: dict[str, str]) -> str:
    """Return a page with its candidates' boxes and without numbers: the inverse of `numbered` and `candidates`."""
    copy = fromstring(tostring(root, encoding="unicode"))
    for element in copy.iter():
        number = element.attrib.pop("backend_node_id")
        if number in boxes:
            element.set("box", boxes[number])
    return tostring(copy, encoding="unicode")


def dump(records: Iterable[dict[str, Any]], pages: list[str]) -> bytes:
    """Return the packed file of packed records and pages."""
    lines = [json.dumps(page, ensure_ascii=False) for page in pages]
    lines += [json.dumps(record, ensure_ascii=False) for record in records]
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "dict_size": 1 << 26}]
    return lzma.compress("\n".join(lines).encode(), filters=filters)


def unpack(data: bytes) -> Iterator[tuple[str, Record]]:
    """Yield the split and the record of every packed task."""
    pages: list[tuple[str, dict[str, Candidate]]] = []
    for line in lzma.decompress(data).decode().split("\n"):
        value = json.loads(line)
        if isinstance(value, str):
            root = numbered(value)
            found = candidates(root)
            pages.append((tostring(root, encoding="unicode"), found))
            continue
        split = value.pop("split")
        actions = [official_action(action, *pages[action["page"]]) for action in value["actions"]]
        yield split, checked({**value, "actions": actions}, f"{FILE}, {value['annotation_id']}")


def official_action(action: dict[str, Any], html: str, found: dict[str, Candidate]) -> dict[str, Any]:
    """Return a packed action in the published schema, for the page that it names.

    Actions on one page share its candidates: there are many, and they are the same.
    """
    right = {number: index == 0 for index, number in enumerate(action["positives"])}
    return {
        "action_uid": action["action_uid"],
        "operation": action["operation"],
        "cleaned_html": html,
        "pos_candidates": [
            found[number].model_copy(update={"is_original_target": original, "is_top_level_target": original})
            for number, original in right.items()
        ],
        "neg_candidates": [candidate for number, candidate in found.items() if number not in right],
    }


@cache
def recorded() -> tuple[tuple[str, Record], ...]:
    """Return split and record of every task that comes with the package."""
    return tuple(unpack(files(__package__).joinpath(FILE).read_bytes()))


@cache
def recorded_scores() -> dict[str, dict[str, float]]:
    """Return the trained ranker's scores for the tasks that come with the package."""
    return read_scores(files(__package__).joinpath(SCORES).read_bytes(), SCORES)


def recorded_entries(split: str) -> list[Entry]:
    """Return the entries of a split's recorded tasks; an entry's number is the place in `recorded()`."""
    return [
        Entry(Path(FILE), number, record.website, len(record.actions))
        for number, (found, record) in enumerate(recorded())
        if found == split
    ]


def recorded_fetch(wanted: Iterable[Entry]) -> Iterator[tuple[Entry, Record]]:
    """Yield the recorded tasks of some entries."""
    for entry in wanted:
        yield entry, recorded()[entry.number][1]
