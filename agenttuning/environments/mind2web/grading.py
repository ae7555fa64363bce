"""Grading of one action from the answers given: pure, by playing them again over the pool of the task.

Metrics are Mind2Web's: `element_acc` (the predicted element is a right one), `action_f1` (overlap of the words of
operation and value), `step_sr` (element right and F1 = 1), which is the score. The reward, which curation compares
with 2/3, is the share of rounds answered rightly, and 0 where the predicted action is wrong (element, operation or
value): rejecting everything, though right in most rounds of a large pool, is worth nothing, and neither is the right
element with a wrong value.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from agenttuning.environments.base import Grade
from agenttuning.environments.mind2web.protocol import LETTERS, Answer, Choice, Rounds, answered


@dataclass(frozen=True)
class Metrics:
    """Mind2Web's metrics of one action, and how its rounds went."""

    element_acc: float
    action_f1: float
    step_sr: float
    rounds: int
    rounds_right: int


def measure(payload: Mapping[str, Any], evidence: Mapping[str, Any]) -> Metrics:
    """Play the answers of `evidence` again and measure them against a task's payload."""
    positives = set(payload["positives"])
    gold = (payload["operation"]["op"], payload["operation"]["value"])
    rounds, right, played = Rounds(tuple(payload["pool"])), 0, 0
    for raw in evidence.get("answers", ()):
        group = rounds.group
        answer = Answer(raw["letter"], raw["operation"], raw["value"])
        if not group or LETTERS.index(answer.letter) > len(group):
            break
        rounds = answered(rounds, answer)
        right += right_answer(group, answer, positives, gold)
        played += 1
    chosen = rounds.prediction
    if chosen is None:
        return Metrics(0.0, 0.0, 0.0, played, right)
    element = float(chosen.element in positives)
    overlap = action_f1(chosen, gold)
    return Metrics(element, overlap, float(element == 1.0 and overlap == 1.0), played, right)


def right_answer(group: Sequence[str], answer: Answer, positives: set[str], gold: tuple[str, str]) -> bool:
    """Tell whether an answer to a group is right: a right element with its action, or none where there is none."""
    place = LETTERS.index(answer.letter) - 1
    if place < 0:
        return positives.isdisjoint(group)
    chosen = Choice(group[place], answer.operation, answer.value)
    return chosen.element in positives and action_f1(chosen, gold) == 1.0


def action_f1(chosen: Choice, gold: tuple[str, str]) -> float:
    """Return the F1 of the sets of words in `OP value`, without regard to case."""
    given = set(f"{chosen.operation} {chosen.value}".lower().split())
    wanted = set(" ".join(gold).lower().split())
    shared = len(given & wanted)
    if not shared:
        return 0.0
    precision, recall = shared / len(given), shared / len(wanted)
    return 2 * precision * recall / (precision + recall)


def grade_evidence(payload: Mapping[str, Any], evidence: Mapping[str, Any]) -> Grade:
    """Return reward and score of one action."""
    found = measure(payload, evidence)
    if not found.step_sr:
        return Grade(0.0, 0.0)
    return Grade(found.rounds_right / found.rounds, found.step_sr)
