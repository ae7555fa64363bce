"""The demonstrator: knows the right element, looks at each group, and words its thoughts from what is shown.

In a share of its episodes it makes one mistake: in a group without a right element it chooses one that looks useful,
where enough rounds are left for two thirds of them to be right. The mistake is never trained; when the element comes
back beside the right one, or the right one comes alone, it corrects itself.
"""

import random
from collections.abc import Mapping, Sequence
from typing import Any
from xml.etree.ElementTree import Element

from agenttuning.environments.base import Expert, Move
from agenttuning.environments.mind2web import dom, thoughts
from agenttuning.environments.mind2web.grammar import choose
from agenttuning.environments.mind2web.protocol import LETTERS, Answer, Rounds, answered, right_place, rounds_left
from agenttuning.environments.mind2web.thoughts import Seen, seen

ENOUGH_ROUNDS = 3
"""With one wrong round among three, two thirds are right."""


def play(task: str, payload: Mapping[str, Any], rng: random.Random, mistake_rate: float) -> Expert:
    """Return the demonstrator of one action."""
    page = dom.parse(payload["page"], payload["sample"])
    positives, previous = set(payload["positives"]), payload["previous"]
    operation, value = payload["operation"]["op"], payload["operation"]["value"]
    rounds, slipping, wrong, before = Rounds(tuple(payload["pool"])), rng.random() < mistake_rate, "", ""
    played = 0
    while rounds.group:
        group, shown = rounds.group, _shown(page, rounds.group)
        chosen = rounds.choice.element if rounds.choice is not None else ""
        place = right_place(rounds, positives)
        if place is None:
            mistake = _mistake(rounds, positives, shown, task, played, rng) if slipping else None
            if mistake is not None:
                slipping, wrong, before = False, group[mistake], str(shown[mistake])
                answer = Answer(LETTERS[mistake + 1], "CLICK")
                yield Move(thoughts.slip(task, shown[mistake], rng), choose(answer.letter, "CLICK"), loss=False)
            else:
                answer = Answer(LETTERS[0])
                kept = before if chosen and chosen not in group else ""
                yield Move(thoughts.none(task, shown, value, kept, rng), choose(answer.letter))
        else:
            answer, right = Answer(LETTERS[place + 1], operation, value), shown[place]
            others = [item for item in shown if item is not right]
            if wrong in group and chosen == wrong:
                thought = thoughts.recover(right, shown[group.index(wrong)], rng)
            elif group[place] == chosen and others:
                thought = thoughts.keep(right, others, rng)
            else:
                thought = thoughts.pick(task, previous, right, operation, value, rng)
                if wrong and chosen == wrong:
                    thought = thoughts.mend(before, thought, rng)
            before = str(right)
            yield Move(thought, choose(answer.letter, operation, value))
        rounds = answered(rounds, answer)
        played += 1


def _shown(page: Element, group: Sequence[str]) -> list[Seen]:
    """Return what the elements of a group are called on the page that is shown with them."""
    view = dom.prune(page, group)
    elements = dom.by_id(view)
    parents = {child: parent for parent in view.iter() for child in parent}
    return [seen(letter, elements[number], parents) for letter, number in zip(LETTERS[1:], group, strict=False)]


def _mistake(
    rounds: Rounds, positives: set[str], shown: Sequence[Seen], task: str, played: int, rng: random.Random
) -> int | None:
    """Return the place of an element to choose by mistake, or None where it would cost too much."""
    if positives.isdisjoint(rounds.pool):
        return None
    # One that shares a word with the task is the likelier mistake.
    places = [p for p, item in enumerate(shown) if item.name]
    likely = [p for p in places if set(shown[p].name.lower().split()) & set(task.lower().split())]
    if not places:
        return None
    place = rng.choice(likely or places)
    after = answered(rounds, Answer(LETTERS[place + 1], "CLICK"))
    return place if played + 1 + rounds_left(after, positives) >= ENOUGH_ROUNDS else None
