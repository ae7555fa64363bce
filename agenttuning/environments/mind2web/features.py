"""What the trained ranker sees of each candidate: numbers from the task, the actions before, and the page. Pure.

Words: BM25 as the baseline computes it, and of the element alone, of what stands around it, and of the element that it
lies in. What it is: a field, a link and so on, also together with the kind of the last action. What was done: whether
it was filled in or acted on before, and how far it lies, in the page's order and in its tree, from the element that was
acted on last. No feature is a word or a site, so that weights carry over to sites that are new.
"""

from collections.abc import Mapping, Sequence
from xml.etree.ElementTree import Element

from agenttuning.environments.mind2web import dom
from agenttuning.environments.mind2web.ranking import bm25_scores, candidates, documents, query_text, words
from agenttuning.environments.mind2web.records import Record, sample_id

KINDS = ("field", "list", "box", "button", "link", "label", "text")
OPERATIONS = ("CLICK", "TYPE", "SELECT")
NAMES = (
    "words", "own words", "words around", "share of own words in the task", "name in the task",
    *KINDS, *(f"{kind} after {operation}" for operation in OPERATIONS for kind in KINDS),
    "filled in", "acted on before", "acted on last", "inside a control", "words of that control",
    "near the last in the tree", "the last", "next", "second next", "soon after", "before the last",
)  # fmt: skip
"""The features in their order."""
SOON = 5
"""Controls after the last one that count as soon after it."""
_NOT_TYPED = {"checkbox", "radio", "submit", "button", "reset", "range", "file", "image"}
_CONTROLS = frozenset(range(KINDS.index("label")))


def features(record: Record, place: int) -> tuple[list[str], list[list[float]]]:
    """Return the ids of an action's candidates, and of each its features in the order of `NAMES`."""
    action = record.actions[place]
    found = candidates(action)
    numbers = [candidate.backend_node_id for candidate in found]
    root = dom.parse(action.cleaned_html, sample_id(record, action))
    known, parents = dom.by_id(root), {child: parent for parent in root.iter() for child in parent}
    elements = [
        known.get(c.backend_node_id, dom.candidate_element(c.tag, c.attributes, c.backend_node_id)) for c in found
    ]
    own, around = zip(*documents(root, found), strict=True) if found else ((), ())
    task, own_words = words(record.confirmed_task), [words(text) for text in own]
    scores = [
        _relative(query_text(record, place), [f"{text} {text} {near}" for text, near in zip(own, around, strict=True)]),
        _relative(record.confirmed_task, own),
        _relative(record.confirmed_task, around),
    ]
    kinds = [_kind(element) for element in elements]
    labels = [dom.label(element).lower() for element in elements]
    outer = _outer_controls(elements, parents, kinds)
    previous = [_parts(text) for text in record.action_reprs[:place]]
    named = {name for name, _, _ in previous} - {""}
    last = _last(previous, elements, labels, kinds)
    where = _distances(elements, parents, kinds, last)
    rows = []
    for index, (element, kind, label) in enumerate(zip(elements, kinds, labels, strict=True)):
        said, told = set(own_words[index]), set(task)
        row = [score[index] for score in scores]
        row += [
            len(said & told) / max(len(said), 1),
            float(bool(label) and set(words(label)) <= told),
        ]
        row += [float(kind == other) for other in range(len(KINDS))]
        for operation in OPERATIONS:
            after = bool(previous) and previous[-1][1] == operation
            row += [float(after and kind == other) for other in range(len(KINDS))]
        row += [float(bool(element.get("input_value") or element.get("input_checked"))), float(label in named)]
        row += [float(bool(label) and label == previous[-1][0]) if previous else 0.0, float(outer[index] is not None)]
        row += [0.0 if (control := outer[index]) is None else scores[1][control], *where[index]]
        rows.append(row)
    return numbers, rows


def _relative(query: str, texts: Sequence[str]) -> list[float]:
    """Return the BM25 scores of texts, the best of the page being 1."""
    scores = bm25_scores(words(query), [words(text) for text in texts])
    best = max(scores, default=0.0)
    return [score / best if best > 0 else 0.0 for score in scores]


def _kind(element: Element) -> int:
    tag, role, given = element.tag, element.get("role"), element.get("type", "text")
    if tag == "textarea" or role in {"textbox", "searchbox"} or (tag == "input" and given not in _NOT_TYPED):
        return KINDS.index("field")
    if tag == "select" or role in {"combobox", "listbox"}:
        return KINDS.index("list")
    if (tag == "input" and given in {"checkbox", "radio"}) or role in {"checkbox", "radio", "switch", "option"}:
        return KINDS.index("box")
    if tag in {"button", "summary", "input"} or role in {"button", "tab"}:
        return KINDS.index("button")
    if tag == "a" or role in {"link", "menuitem"}:
        return KINDS.index("link")
    return KINDS.index("label" if tag == "label" else "text")


def _parts(text: str) -> tuple[str, str, str]:
    """Return name, operation and value of an action's text, such as `[textbox]  Where -> TYPE: York`."""
    target, _, what = text.rpartition(" -> ")
    operation, _, value = what.partition(": ")
    return target.partition("]")[2].strip().lower(), operation, value.lower()


def _last(
    previous: Sequence[tuple[str, str, str]], elements: Sequence[Element], labels: Sequence[str], kinds: Sequence[int]
) -> int | None:
    """Return the place of the element that was acted on last, as far as the page still shows it."""
    if not previous:
        return None
    name, _, value = previous[-1]
    found = [
        index
        for index, element in enumerate(elements)
        if (value and element.get("input_value", "").lower() == value)
        or (name and labels[index] == name and kinds[index] in _CONTROLS)
    ]
    return found[-1] if found else None


def _outer_controls(
    elements: Sequence[Element], parents: Mapping[Element, Element], kinds: Sequence[int]
) -> list[int | None]:
    """Return for each element the place of the innermost control or label that it lies in."""
    places = {element: index for index, element in enumerate(elements) if kinds[index] != KINDS.index("text")}
    return [next((places[e] for e in _above(element, parents) if e in places), None) for element in elements]


def _above(element: Element, parents: Mapping[Element, Element]) -> list[Element]:
    """Return what contains an element, from inside out."""
    found = []
    while (parent := parents.get(element)) is not None:
        found.append(parent)
        element = parent
    return found


def _distances(
    elements: Sequence[Element], parents: Mapping[Element, Element], kinds: Sequence[int], last: int | None
) -> list[tuple[float, ...]]:
    """Return for each element the last six features: where it lies, seen from the last."""
    if last is None:
        return [(0.0,) * 6] * len(elements)
    rank = {index: number for number, index in enumerate(i for i, kind in enumerate(kinds) if kind in _CONTROLS)}
    around = {elements[last], *_above(elements[last], parents)}
    found = []
    for index, element in enumerate(elements):
        shared = sum(e in around for e in (element, *_above(element, parents)))
        step = rank[index] - rank[last] if index in rank and last in rank else None
        soon = step is not None and 2 < step <= SOON
        places = (step == 0, step == 1, step == 2, soon, step is not None and step < 0)
        found.append((shared / len(around), *map(float, places)))
    return found
