"""Checks of episodes: expert, leaks, doing nothing, grading, determinism, and what one episode sees of another."""

import math
import re
from collections import Counter
from collections.abc import Iterable
from itertools import pairwise
from typing import Any

import orjson

from agenttuning.environments.base import Grade
from agenttuning.environments.checking.play import FEW, Played, Subject, replay
from agenttuning.environments.checking.verdict import Broken
from agenttuning.environments.checking.watch import alive

LEAST_SUCCESS = 0.95
COMMON = 0.25
"""Share of the tasks above which an answer is one of a few that the tasks choose from."""
SHORTEST_SECRET = 4


def playable(subject: Subject) -> str:
    """Play the sample, which the other checks look at."""
    steps = sum(len(played.moves) for _, played in subject.pairs)
    return f"{len(subject.pairs)} played, {steps} steps"


def expert(subject: Subject) -> str:
    """Count what the expert wins, and look at its thoughts."""
    played = [(task, episode) for task, episode in subject.pairs if episode.by_expert]
    if not played:
        return "none: its tasks need policy.kind=endpoint"
    share = sum(episode.won(subject.reward) for _, episode in played) / len(played)
    if share < LEAST_SUCCESS:
        lost = next(task.id for task, episode in played if not episode.won(subject.reward))
        raise Broken(f"wins {share:.0%} of {len(played)} tasks; lost: {lost}", "mend it, or drop what it cannot solve")
    moves = [move for _, episode in played for move in episode.moves]
    if any(not move.thought.strip() for move in moves):
        raise Broken("a move has no thought", "let every move say why, from what was shown so far")
    slips = sum(any(not move.loss for move in episode.moves) for _, episode in played) / len(played)
    different = len({move.thought for move in moves}) / len(moves)
    without = f"; {len(subject.pairs) - len(played)} tasks have none" if len(played) < len(subject.pairs) else ""
    return (
        f"wins {share:.0%} of {len(played)}, {len(moves) / len(played):.1f} steps, {different:.0%} different thoughts, "
        f"mistakes in {slips:.0%}{without}"
    )


def answer_hidden(subject: Subject) -> str:
    """Look for answers that stand in their instruction: an episode's last action, where it wins alone."""
    answers = [_texts(played.moves[-1].action.arguments) if played.moves else set() for _, played in subject.pairs]
    common = _common(answers, COMMON * len(answers))
    with subject.make() as environment:
        for (task, played), values in zip(subject.pairs, answers, strict=True):
            given = bool(values - common) and all(_stands_in(value, task.instruction) for value in values)
            if given and replay(environment, task, [played.moves[-1].action]).won(subject.reward):
                raise Broken(
                    f"task {task.id} is won by {', '.join(sorted(values))}, which its instruction says",
                    "word the instruction without the answer, or drop the task",
                )
    return f"{len(answers)} instructions, none gives its answer away"


def thoughts_honest(subject: Subject) -> str:
    """Look for texts that only one task's payload has in its thoughts before they were shown."""
    drawn = [task for found in subject.tasks.values() for task in found]
    common = _common([_texts(task.payload) for task in drawn], 1)
    secrets = [{text for text in _texts(task.payload) - common if _is_secret(text)} for task in subject.sample]
    checked = 0
    with subject.make() as environment:
        example = " ".join(turn.content for turn in environment.demonstration())
        for (task, played), hidden in zip(subject.pairs, secrets, strict=True):
            shown = f"{environment.description(task)} {example}"
            for observation, move in zip(played.shown, played.moves, strict=False):
                shown += f"\n{observation}"
                checked += 1
                known = next((s for s in sorted(hidden) if _stands_in(s, move.thought) and _is_new(s, shown)), None)
                if known is not None and played.by_expert:
                    raise Broken(
                        f"in task {task.id} a thought says {known[:60]!r}: it is in the payload and was not shown yet",
                        "let thoughts cite the instruction and the observations so far, and nothing else",
                    )
    return f"{checked} thoughts say nothing of a payload that was not shown"


def nothing(subject: Subject) -> str:
    """Close episodes without an action."""
    with subject.make() as environment:
        rewards = [replay(environment, task, []).grade.reward for task in subject.sample]
    if rewarded := sum(reward > 0 for reward in rewards):
        raise Broken(
            f"{rewarded} of {len(rewards)} tasks reward it, with {max(rewards):g} at most",
            "draw only tasks whose goal does not hold at the start, and count no answer as wrong",
        )
    return f"reward 0 of {len(rewards)} tasks"


def evidence(subject: Subject) -> str:
    """Grade stored evidence again."""
    with subject.make() as environment:
        for task, played in subject.pairs:
            try:
                stored = orjson.loads(orjson.dumps(played.evidence))
            except TypeError as error:
                raise Broken(
                    f"close() gives no JSON: {error}", "use dict, list, str, int, float, bool, None"
                ) from error
            if stored != played.evidence or not isinstance(stored, dict):
                raise Broken("the evidence changes as JSON", "return a dict of JSON values: no tuples, no number keys")
            if environment.close() != environment.close():
                raise Broken("closing twice gives other evidence", "keep the evidence: close() is called twice")
            for grade in (environment.grade(task, stored), environment.grade(task, stored)):
                if grade != played.grade:
                    raise Broken(f"{grade} from stored evidence, {played.grade} before", "grade from evidence alone")
                _within(grade)
    size = max(len(orjson.dumps(played.evidence)) for _, played in subject.pairs)
    return f"JSON, {size} bytes at most; graded again alike"


def replayed(subject: Subject) -> str:
    """Play the same actions in a fresh instance."""
    with subject.make() as environment:
        for task, played in subject.pairs:
            again = replay(environment, task, played.actions)
            if again.seen != played.seen:
                raise Broken(_difference(played, again), "no clock, no random module, no order of sets in observations")
    return f"{len(subject.pairs)} episodes replayed in a fresh instance"


def episodes_apart(subject: Subject) -> str:
    """Play each episode after another one that was given up in the middle."""
    with subject.make() as environment:
        for (before, soiled), (task, played) in pairwise([subject.few[-1], *subject.few]):
            replay(environment, before, soiled.actions)
            alive()
            environment.reset(before)
            for action in soiled.actions[: len(soiled.actions) // 2]:
                alive()
                environment.step(action)
            again = replay(environment, task, played.actions)
            if again.seen != played.seen:
                raise Broken(_difference(played, again), "set everything up anew in reset(): state leaks")
    return f"{len(subject.few)} episodes, nothing of one is seen in the next"


def instances_apart(subject: Subject) -> str:
    """Play pairs of episodes in two instances of one process, step by step in turn."""
    if subject.cls.isolation == "process":
        return "not asked: each instance has a process of its own"
    for (first, one), (second, two) in pairwise(subject.few):
        with subject.make() as left, subject.make() as right:
            shown: tuple[list[str], list[str]] = ([], [])
            for environment, task, seen in ((left, first, shown[0]), (right, second, shown[1])):
                alive()
                seen.append(environment.reset(task))
            for number in range(max(len(one.actions), len(two.actions))):
                for environment, played, seen in ((left, one, shown[0]), (right, two, shown[1])):
                    if number < len(played.actions):
                        alive()
                        seen.append(environment.step(played.actions[number]).observation)
            for played, seen in ((one, shown[0]), (two, shown[1])):
                if seen != played.shown:
                    raise Broken(
                        _difference(played, Played(shown=seen)),
                        "keep the state of an episode in self, not in the class, the module or the process",
                    )
    return f"{min(FEW, len(subject.few)) - 1} pairs, interleaved in one process"


def _within(grade: Grade) -> None:
    for value in (grade.reward, grade.score):
        if not (isinstance(value, int | float) and math.isfinite(value) and 0.0 <= value <= 1.0):
            raise Broken(f"{grade}", "keep reward and score from 0 to 1")


def _difference(one: Played, other: Played) -> str:
    for number, (left, right) in enumerate(zip(one.shown, other.shown, strict=False)):
        if left != right:
            return f"observation {number}: {left[:70]!r} and {right[:70]!r}"
    if len(one.shown) != len(other.shown):
        return f"{len(one.shown)} and {len(other.shown)} observations"
    return f"evidence {str(one.evidence)[:80]} and {str(other.evidence)[:80]}"


def _texts(value: Any) -> set[str]:
    """Return every text and number of a JSON value."""
    if isinstance(value, dict):
        return set().union(*map(_texts, value.values()))
    if isinstance(value, list | tuple):
        return set().union(*map(_texts, value))
    return set() if value is None or isinstance(value, bool) or not str(value).strip() else {str(value).strip()}


def _common(sets: Iterable[set[str]], most: float) -> set[str]:
    """Return the texts that stand in more than `most` of the sets, and in two at least."""
    found = Counter(text for texts in sets for text in texts)
    return {text for text, count in found.items() if count > max(1, most)}


def _is_secret(text: str) -> bool:
    return len(text) >= SHORTEST_SECRET and any(character.isalpha() for character in text)


def _is_new(text: str, shown: str) -> bool:
    """Say whether a text has a word that was not shown."""
    return any(not _stands_in(word, shown) for word in re.findall(r"\w+", text))


def _stands_in(value: str, text: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(value)}(?!\w)", text, re.IGNORECASE) is not None
