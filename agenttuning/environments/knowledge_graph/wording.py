"""How programs are worded as questions: one set of sentences for train and test, another for `shifted`.

A program becomes a noun phrase from the inside out ("the currency of the country whose capital is Accra"), and the
phrase goes into a sentence. Relations without a wording of their own are worded from their names.
"""

import random
import re
from dataclasses import dataclass

from agenttuning.environments.knowledge_graph.graph import Graph, Phrase
from agenttuning.environments.knowledge_graph.programs import Both, Count, Entity, Hop, Most, Program

Forms = tuple[str, ...]
_NUMBERED = re.compile(r"\[([^|\]]*)\|([^\]]*)\]")
"""`[one|many]`: a word that depends on whether `{x}` is one or several."""
_DATES = re.compile(r"date|founded|year|start|end|established|began|opened|dissolved|discontinued|active")


@dataclass(frozen=True)
class Wording:
    """Sentences with `{np}`, `{a}`, `{b}`, `{nouns}` and `{extreme}`; `inside` forms are noun phrases."""

    ask_one: Forms
    ask_many: Forms
    number: Forms
    both: Forms
    extreme: Forms
    both_inside: Forms
    extreme_inside: Forms
    relation: Forms
    """For relations worded from their names, with `{r}` and `{x}`."""


MAIN = Wording(
    ask_one=("What is {np}?", "Find {np}.", "Tell me {np}.", "Which is {np}?"),
    ask_many=("What are {np}?", "Name {np}.", "Which are {np}?", "List {np}."),
    number=("What is the number of {np}?", "Count {np}.", "How many are there among {np}?"),
    both=(
        "Which {nouns} are among both {a} and {b}?",
        "What do {a} and {b} have in common?",
        "Name the {nouns} that are among {a} and also among {b}.",
    ),
    extreme=(
        "Which of {np} has {extreme}?",
        "Among {np}, which one has {extreme}?",
        "Of all {np}, find the one with {extreme}.",
    ),
    both_inside=("the {nouns} that are both among {a} and among {b}", "what {a} and {b} have in common"),
    extreme_inside=("whichever of {np} has {extreme}", "the one among {np} with {extreme}"),
    relation=("the {r} of {x}", "the {r} given for {x}", "the {r} listed for {x}"),
)

SHIFTED = Wording(
    ask_one=("Please look up {np} for me.", "I would like to know {np}.", "Could you work out {np}?"),
    ask_many=("Please look up {np} for me.", "I need a list: {np}.", "Could you collect {np}?"),
    number=("How large is the group made up of {np}?", "Give me a head count of {np}, please."),
    both=(
        "Where do these two groups overlap: {a}; {b}?",
        "I want only those {nouns} that show up twice, once under {a} and once under {b}.",
    ),
    extreme=(
        "Go through {np} and pick out whatever shows {extreme}.",
        "Sort {np}; I only care about {extreme}. Who or what is it?",
    ),
    both_inside=("those {nouns} that turn up under {a} as well as under {b}",),
    extreme_inside=("the entry showing {extreme} when one compares {np}",),
    relation=("what is on record as {r} for {x}", "whatever {x} [has|have] as {r}"),
)


class Words:
    """Words the programs of one graph.

    Args:
        graph: its names, phrases and nouns are used.
        wording: the sentences.
    """

    def __init__(self, graph: Graph, wording: Wording) -> None:
        self._graph, self._wording = graph, wording
        self._said: dict[Program, str] = {}

    def question(self, program: Program, rng: random.Random) -> tuple[str, dict[Program, str]]:
        """Return a question that the program answers, and the phrases in it that stand for programs inside."""
        self._said = {}
        text = self._sentence(program, rng)
        return text, self._said

    def _sentence(self, program: Program, rng: random.Random) -> str:
        match program:
            case Count(of):
                return self._say(self._wording.number, rng, np=self._phrase(of, rng))
            case Both(left, right):
                return self._say(self._wording.both, rng, **self._sides(left, right, rng))
            case Most(of):
                return self._say(
                    self._wording.extreme, rng, np=self._phrase(of, rng), extreme=self._extreme(program, rng)
                )
        forms = self._wording.ask_many if self._many(program) else self._wording.ask_one
        return self._say(forms, rng, np=self._phrase(program, rng))

    def _phrase(self, program: Program, rng: random.Random) -> str:
        self._said[program] = phrase = self._noun_phrase(program, rng)
        return phrase

    def _noun_phrase(self, program: Program, rng: random.Random) -> str:
        match program:
            case Entity(id=name):
                return self._graph.names[name]
            case Hop(of, relation):
                inside = self._phrase(of, rng)
                known = self._graph.phrases.get(relation, Phrase(()))
                form = rng.choice(known.one or self._wording.relation)
                form = _NUMBERED.sub(r"\2" if self._many(of) else r"\1", form)
                return form.format(x=inside, r=relation_words(relation))
            case Both(left, right):
                return rng.choice(self._wording.both_inside).format(**self._sides(left, right, rng))
            case Most(of):
                forms = self._wording.extreme_inside
                return rng.choice(forms).format(np=self._phrase(of, rng), extreme=self._extreme(program, rng))
        raise ValueError("a number is asked for by a sentence of its own")

    def _sides(self, left: Program, right: Program, rng: random.Random) -> dict[str, str]:
        kind = self._kind(left)
        return {"a": self._phrase(left, rng), "b": self._phrase(right, rng), "nouns": self._nouns(kind)}

    def _extreme(self, most: Most, rng: random.Random) -> str:
        known = self._graph.phrases.get(most.attribute)
        if known is not None:
            return rng.choice(known.one if most.largest else known.least)
        words = most.attribute.rpartition(".")[2].replace("_", " ")
        pair = ("latest", "earliest") if _DATES.search(words) else ("highest", "lowest")
        return f"the {pair[0] if most.largest else pair[1]} {words}"

    def _many(self, program: Program) -> bool:
        match program:
            case Hop(of, relation):
                known = self._graph.phrases.get(relation, Phrase(()))
                return known.many or self._many(of)
            case Both():
                return True
        return False

    def _kind(self, program: Program) -> str:
        match program:
            case Hop(relation=relation):
                return self._graph.schema.relations[relation][1]
            case Both(left=of) | Most(of=of):
                return self._kind(of)
        raise ValueError(f"{program!r} has no type")

    def _nouns(self, kind: str) -> str:
        if kind in self._graph.nouns:
            return self._graph.nouns[kind]
        word = kind.rpartition(".")[2].replace("_", " ")
        if kind == "common.topic" or word.endswith("s"):
            return "things"
        return f"{word[:-1]}ies" if word.endswith("y") else f"{word}s"

    def _say(self, forms: Forms, rng: random.Random, **fields: str) -> str:
        text = rng.choice(forms).format(**fields)
        return text[0].upper() + text[1:]


def relation_words(relation: str) -> str:
    """Return a relation's name as a question says it: `a.b.place_of_birth` is "place of birth".

    Of a relation through a mediator, `a.b.starring..c.d.actor`, both ends are said: "actor under starring".
    """
    ends = [part.rpartition(".")[2] for part in relation.split("..")]
    words = [end.removesuffix("_s").replace("_", " ") for end in ends]
    return words[0] if len(words) == 1 or words[0] == words[-1] else f"{words[-1]} under {words[0]}"
