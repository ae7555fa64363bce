"""Grading of a database episode from its evidence: the answer, and the fingerprints of the tables at the end.

Pure: nothing of the agent's text is run or evaluated. A question is solved by the right values with the tables left
as they were, a change by the right tables and any answer. No answer, or a null in it, is wrong.
"""

import math
import re
from collections.abc import Sequence
from typing import Any

from agenttuning.environments.base import Grade

_NUMBER = re.compile(r"[-+]?(\d+|\d{1,3}(,\d{3})+)(\.\d+)?%?")
TOLERANCE = 1e-6
"""Relative: how far two numbers may be apart and still be one, for the last digit of an average."""


def grade_evidence(payload: dict[str, Any], evidence: dict[str, Any]) -> Grade:
    """Grade evidence against a task's payload (`answer` and other right ones in `alternatives`, `state`, `before`)."""
    answer = evidence.get("answer")
    if not isinstance(answer, list) or not answer or evidence.get("state") != payload["state"]:
        return Grade(0.0, 0.0)
    if payload["answer"] is None:
        solved = payload["state"] != payload["before"]
    else:
        right = [payload["answer"], *payload.get("alternatives", [])]
        solved = any(same_answer(answer, expected) for expected in right)
    return Grade(float(solved), float(solved))


def same_answer(given: Sequence[Any], expected: Sequence[str]) -> bool:
    """Compare two answers: one value as a value, several as sets. A value that is no text is never right."""
    if any(not isinstance(value, str) or not value.strip() for value in given):
        return False
    return all(any(same_value(g, e) for e in expected) for g in given) and all(
        any(same_value(g, e) for g in given) for e in expected
    )


def same_value(given: str, expected: str) -> bool:
    """Compare as numbers where both read as numbers, else as stripped texts without regard to case."""
    left, right = number(given), number(expected)
    if left is not None and right is not None:
        return math.isclose(left, right, rel_tol=TOLERANCE, abs_tol=1e-9)
    return given.strip().casefold() == expected.strip().casefold()


def number(text: str) -> float | None:
    """Read a plain decimal number; a percent sign and commas between thousands are dropped."""
    stripped = text.strip()
    if _NUMBER.fullmatch(stripped) is None:
        return None
    return float(stripped.rstrip("%").replace(",", ""))
