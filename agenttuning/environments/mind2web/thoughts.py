"""How the demonstrator words what it sees and does. A thought cites the task, the actions before, and what is shown.

Names of elements are those that the model can read: their words, or the label beside them. A value is called the
task's only where the task says it. Nothing is said about groups that were not shown yet.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from xml.etree.ElementTree import Element

from agenttuning.environments.mind2web import dom

NAME_WORDS = 6
LISTED = 3
_KINDS = {
    "a": "link", "button": "button", "select": "list", "textarea": "field", "label": "label", "img": "image",
    "th": "column head", "td": "cell", "li": "entry", "summary": "button",
}  # fmt: skip
_INPUTS = {
    "checkbox": "box",
    "radio": "option",
    "submit": "button",
    "button": "button",
    "range": "slider",
    "file": "file field",
}
_DULL = {
    "a", "an", "and", "are", "as", "at", "be", "by", "for", "from", "i", "in", "is", "it", "me", "my", "of", "on", "or",
    "so", "that", "the", "then", "to", "what", "which", "with",
}  # fmt: skip


@dataclass(frozen=True)
class Seen:
    """One element as it is shown: its letter, its kind and its name (empty where nothing names it)."""

    letter: str
    kind: str
    name: str
    beside: str = ""
    """What is written next to it."""

    def __str__(self) -> str:
        return f"the {self.kind} {self.name}" if self.name else f"a {self.kind} without a name"


def seen(letter: str, element: Element, parents: Mapping[Element, Element]) -> Seen:
    """Return how an element of a group is called, from the page as it is shown with the group."""
    kind = _KINDS.get(element.tag, "text")
    if element.tag == "input":
        kind = _INPUTS.get(element.get("type", "text"), "field")
    elif element.get("role") in {"button", "tab", "link", "option"}:
        kind = str(element.get("role"))
    name = dom.label(element)
    if not name or (kind == "field" and not element.get("placeholder")) or kind in {"box", "list"}:
        name = _beside(element, parents) or name
    return Seen(letter, kind, _first_words(name), _first_words(_next_to(element, parents)))


def _first_words(text: str) -> str:
    return " ".join(text.split()[:NAME_WORDS]).rstrip(".,;:")


def _next_to(element: Element, parents: Mapping[Element, Element]) -> str:
    """Return the text of the nearest neighbour that is shown too and is no control."""
    around = list(parents.get(element, ()))
    place = around.index(element) if element in around else 0
    for neighbour in (*around[place + 1 : place + 2], *around[max(place - 1, 0) : place]):
        if neighbour.tag not in _KINDS and neighbour.tag != "input" and (text := dom.text_of(neighbour)):
            return text
    return ""


def _beside(element: Element, parents: Mapping[Element, Element]) -> str:
    """Return the text of a label around an element or next to it."""
    parent = parents.get(element)
    if parent is None:
        return ""
    if parent.tag == "label":
        return " ".join(text for child in parent if child is not element for text in dom.text_of(child).split())
    place = list(parent).index(element)
    for neighbour in (*parent[max(place - 1, 0) : place], *parent[place + 1 : place + 2]):
        if neighbour.tag == "label":
            return dom.text_of(neighbour)
    return ""


def pick(task: str, previous: Sequence[str], found: Seen, operation: str, value: str, rng: random.Random) -> str:
    """Before the right element is chosen for the first time."""
    letter = found.letter
    if operation != "CLICK":
        verb = "type" if operation == "TYPE" else "select"
        if value.lower() in task.lower():
            return rng.choice(
                [
                    f"The task gives {value}, and {letter} is {found}. I {verb} it there.",
                    f"{letter} is {found}; that is where {value} from the task goes.",
                    f"I still have to enter {value}. {letter} is {found}, so I {verb} {value}.",
                ]
            )
        return rng.choice(
            [f"{letter} is {found}. I {verb} {value}.", f"For this task I {verb} {value} in {letter}, {found}."]
        )
    words = _shared(task, found.name)
    if words:
        return rng.choice(
            [
                f"The task speaks of {words}, and {letter} is {found}. I click it.",
                f"{letter} is {found}, which fits {words} in the task.",
                f"I look for {words}. There is {letter}, {found}, so I click that.",
            ]
        )
    words = _shared(task, found.beside)
    if len(words.split()) > 1:
        return rng.choice(
            [
                f"{letter} is {found} beside {found.beside}, which is what the task names. I click it.",
                f"The task says {words}. {letter}, {found}, stands next to {found.beside}.",
            ]
        )
    if previous:
        done = _done(previous[-1])
        return rng.choice(
            [
                f"{done} Next I click {letter}, {found}.",
                f"{done} What follows is {letter}, {found}.",
                f"{done} {letter} is {found}; that is the next thing to click.",
            ]
        )
    return rng.choice(
        [
            f"Nothing is done yet. {letter}, {found}, is the way to begin.",
            f"I begin with {letter}, {found}; it should lead to what the task asks.",
            f"First I click {letter}, {found}, to get on with the task.",
        ]
    )


def keep(found: Seen, others: Sequence[Seen], rng: random.Random) -> str:
    """Before an element is chosen again, now among others."""
    rest = listed(others)
    return rng.choice(
        [
            f"I chose {found} before. Beside {rest} it is still the one I need, so I take {found.letter}.",
            f"{found.letter} is {found} again, and {rest} does not fit better." if len(others) == 1
            else f"{found.letter} is {found} again, and nothing else here fits better.",
        ]
    )  # fmt: skip


def none(task: str, shown: Sequence[Seen], value: str, before: str, rng: random.Random) -> str:
    """Before none of the above. `before`: the name of the element chosen in an earlier round, if there is one."""
    here = listed(shown)
    if before:
        return rng.choice(
            [
                f"Here I see {here}. None of them fits better than {before}, which I chose before.",
                f"I chose {before} before. I look at {here}, and nothing there fits better.",
            ]
        )
    told = bool(value) and value.lower() in task.lower()
    need = f"a place for {value}" if told else "what the task needs next"
    return rng.choice(
        [
            f"These are {here}. None of them is {need}.",
            f"I need {need}, and here are only {here}.",
            f"{_capital(here)}: none of these is {need}.",
        ]
    )


def slip(task: str, found: Seen, rng: random.Random) -> str:
    """Before a mistake: an element that looks useful."""
    words = _shared(task, found.name)
    if words:
        return f"The task speaks of {words}, and {found.letter} is {found}."
    return rng.choice([f"{found.letter}, {found}, may be of use here.", f"I try {found.letter}, {found}."])


def recover(right: Seen, wrong: Seen, rng: random.Random) -> str:
    """Before the right element is chosen beside the one that was chosen by mistake."""
    return rng.choice(
        [
            f"I chose {wrong} too soon. {right.letter}, {right}, is what this action needs.",
            f"{wrong.letter} was a mistake: {wrong} does not do it. I take {right.letter}, {right}.",
            f"Of the two, {right} serves the task and {wrong} does not, so I go back on my choice.",
        ]
    )


def mend(wrong: str, how: str, rng: random.Random) -> str:
    """Before the right element is chosen in a later group, after a mistake that is not shown now.

    Args:
        wrong: the name of the element chosen by mistake.
        how: the thought that chooses the right one.
        rng: draws the wording.
    """
    return rng.choice(
        [f"{how} So {wrong}, which I chose before, was wrong.", f"{how} I prefer it to {wrong}, my choice before."]
    )


def listed(shown: Sequence[Seen]) -> str:
    """Return some elements in words: at most `LISTED`, those with a name first."""
    first = sorted(shown, key=lambda item: not item.name)
    texts = list(dict.fromkeys(map(str, first)))
    more = len(texts) > LISTED
    texts = texts[:LISTED]
    if more:
        return f"{', '.join(texts)} and others"
    return " and ".join([", ".join(texts[:-1]), texts[-1]]) if len(texts) > 1 else texts[0]


def _shared(task: str, name: str) -> str:
    """Return the words of a name that the task has too, in the task's spelling."""
    wanted = {_bare(word) for word in name.split()} - _DULL - {""}
    found = [word.strip(".,;:!?\"'()") for word in task.split() if _bare(word) in wanted]
    return " ".join(dict.fromkeys(found))


def _bare(word: str) -> str:
    bare = "".join(c for c in word.lower() if c.isalnum())
    return bare.removesuffix("s") if len(bare) > 3 else bare


def _done(action: str) -> str:
    """Return an action before this one as a sentence, from its line in the prompt."""
    target, _, what = action.rpartition(" -> ")
    name = target.partition("]")[2].strip()
    op, _, value = what.partition(": ")
    if op == "CLICK":
        return f"{name} is clicked." if name else "The last click is done."
    return f"{value} is {'typed' if op == 'TYPE' else 'selected'}."


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
