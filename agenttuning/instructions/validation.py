"""Validation by execution: a constructed task is kept only where running it proves it.

For each task, each in a fresh world: its set-up runs; its reference passes, twice, with the same evidence; two worlds
show the same to one who looks around; doing nothing fails, and so do blind answers; independent solutions agree with
the reference; the answer does not stand in the instruction. The first of these that does not hold drops the task under
its name. A task without any solution is neither kept nor dropped: it is `unproven`.

It finds tasks that are broken, unstable, given away or contradicted; it cannot find a reference that misreads its
instruction where no second solution says so.
"""

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from agenttuning.instructions.trials import Attempt, Trials, attempt, attempt_actions
from agenttuning.trajectory import Task

SOLVED = 1.0
DETAIL_CHARACTERS = 300
_WORD = re.compile(r"\w", re.UNICODE)


class Reason(StrEnum):
    """Why a task is not kept, in the order in which it is asked."""

    UNPLAYABLE = "unplayable"
    """Its record names a file that is not there, or a check of no known kind."""
    SETUP_FAILS = "setup_fails"
    UNPROVEN = "unproven"
    """It has no reference to prove it with."""
    REFERENCE_FAILS = "reference_fails"
    REFERENCE_UNSTABLE = "reference_unstable"
    """Two runs of the reference differ."""
    SET_UP_VARIES = "set_up_varies"
    """Two worlds of the task show different things: random numbers, or the time."""
    NOTHING_PASSES = "nothing_passes"
    """Doing nothing, or an answer given without looking, is rewarded."""
    SOLUTIONS_DISAGREE = "solutions_disagree"
    ANSWER_IN_INSTRUCTION = "answer_in_instruction"


@dataclass(frozen=True)
class Verdict:
    """What validation found on one task."""

    task: Task
    reason: Reason | None
    detail: str = ""
    steps: int | None = None
    """Actions of the reference."""
    solutions: int = 0
    """How many solutions were compared."""

    @property
    def kept(self) -> bool:
        """Whether the task is proven."""
        return self.reason is None


def validate(task: Task, trials: Trials) -> Verdict:
    """Try one task; see the module's text."""
    if problem := trials.set_up(task):
        return _verdict(task, Reason.SETUP_FAILS, problem)
    solutions = trials.solutions(task)
    if not solutions:
        return _verdict(task, Reason.UNPROVEN, "no solution is known")
    (name, reference), *others = solutions.items()
    first = attempt(trials.environment, task, reference)
    if first.reward < SOLVED:
        return _verdict(task, Reason.REFERENCE_FAILS, f"{name}: {_said(first)}")
    again = attempt(trials.environment, task, reference)
    if again.reward < SOLVED or again.evidence != first.evidence:
        return _verdict(task, Reason.REFERENCE_UNSTABLE, f"{_said(first)}; then {_said(again)}")
    walk = trials.walk(task)
    runs = (first, again) if walk is None else [attempt(trials.environment, task, walk) for _ in range(2)]
    for number, (one, two) in enumerate(zip(runs[0].shown, runs[1].shown, strict=False)):
        if one != two:
            return _verdict(task, Reason.SET_UP_VARIES, f"observation {number}: {one[-120:]!r}; then {two[-120:]!r}")
    for idle, actions in trials.idle(task).items():
        if attempt_actions(trials.environment, task, actions).reward >= SOLVED:
            return _verdict(task, Reason.NOTHING_PASSES, idle)
    for other, solution in others:
        if (tried := attempt(trials.environment, task, solution)).reward < SOLVED:
            return _verdict(task, Reason.SOLUTIONS_DISAGREE, f"{other}: {_said(tried)}; reference: {_said(first)}")
    answer = trials.answer(task, first)
    if answer is not None and stands_in(answer, task.instruction):
        return _verdict(task, Reason.ANSWER_IN_INSTRUCTION, answer)
    return Verdict(task, None, steps=first.actions, solutions=len(solutions))


def counts(verdicts: Iterable[Verdict]) -> dict[str, dict[str, int]]:
    """Return how many tasks were kept and dropped by reason, per source (`origin/family`)."""
    table: dict[str, Counter[str]] = {}
    for verdict in verdicts:
        source = f"{verdict.task.origin}/{verdict.task.family}"
        table.setdefault(source, Counter())[verdict.reason.value if verdict.reason else "kept"] += 1
    return {source: dict(counter) for source, counter in sorted(table.items())}


def stands_in(answer: str, instruction: str) -> bool:
    """Say whether an answer is said by the instruction, as words of their own and without regard to case."""
    text = answer.strip()
    if not text:
        return False
    before = r"(?<![\w.])" if _WORD.match(text[0]) else ""
    after = r"(?!\w|\.\d)" if _WORD.match(text[-1]) else ""
    return re.search(before + re.escape(text) + after, instruction, re.IGNORECASE) is not None


def _verdict(task: Task, reason: Reason, detail: str) -> Verdict:
    return Verdict(task, reason, detail[:DETAIL_CHARACTERS])


def _said(tried: Attempt) -> str:
    """Say what an attempt came to: its problem, its answer beside the expected one, or what it saw last."""
    if tried.problem:
        return tried.problem
    evidence = tried.evidence
    if evidence.get("answer") is not None:
        expected = f", expected {evidence['reference']!r}" if "reference" in evidence else ""
        return f"answer {evidence['answer']!r}{expected}"
    return f"reward {tried.reward:g}, last seen {''.join(tried.shown[-1:])[-120:]!r}"
