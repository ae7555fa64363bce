"""Grades an episode from its stored evidence alone. Pure: no text of an agent is run or evaluated here.

Evidence: `answer` (text or null), `ended` (`answer`, `finish` or null), `files` (what `state.collect` read) and,
for published tasks, `reference` (what the reference command printed in a fresh box) and `checks` (exit codes of check
scripts). Expectations are an answer with a rule, the content of files and the absence of others, or check scripts.
"""

import re
from collections.abc import Callable
from typing import Any

from agenttuning.environments.base import Grade
from agenttuning.trajectory import Task

_INTEGER = re.compile(r"[+-]?\d{1,18}")
_SIZE = re.compile(r"(\d{1,15}(?:\.\d{1,6})?)\s*([BKMGT]?)(?:I?B|BYTES?)?", re.IGNORECASE)
_UNITS = {"": 1, "B": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


def integer_match(answer: str, expected: str) -> bool:
    """Both are whole numbers and equal."""
    left, right = answer.strip(), expected.strip()
    return bool(_INTEGER.fullmatch(left) and _INTEGER.fullmatch(right)) and int(left) == int(right)


def string_match(answer: str, expected: str) -> bool:
    """Equal after newlines are normalised and the ends stripped. The empty text matches nothing."""
    left, right = (text.replace("\r\n", "\n").strip() for text in (answer, expected))
    return bool(left) and left == right


def list_match(answer: str, expected: str) -> bool:
    """Equal as sets of comma-separated texts."""
    left, right = ({part.strip() for part in text.split(",")} for text in (answer, expected))
    return bool(answer.strip()) and left == right


def containing(answer: str, expected: str) -> bool:
    """The expected text stands in the answer."""
    return bool(expected.strip()) and expected.strip() in answer


def contained(answer: str, expected: str) -> bool:
    """The answer stands in the expected text."""
    return bool(answer.strip()) and answer.strip() in expected


def regex_match(answer: str, expected: str) -> bool:
    """The task's own pattern is found in the answer."""
    return bool(answer.strip()) and re.search(expected, answer.strip()) is not None


def size_match(answer: str, expected: str) -> bool:
    """Equal as numbers of bytes; K, M, G and T are powers of 1024."""
    left, right = _bytes(answer), _bytes(expected)
    return left is not None and left == right


RULES: dict[str, Callable[[str, str], bool]] = {
    "integer-match": integer_match,
    "string-match": string_match,
    "list-match": list_match,
    "size-match": size_match,
    "containing": containing,
    "in": contained,
    "regex-match": regex_match,
}


def grade_episode(task: Task, evidence: dict[str, Any]) -> Grade:
    """Return reward 1.0 for a solved task, else 0.0; the score is the same."""
    solved = _solved(task.payload["expect"], evidence)
    return Grade(reward=float(solved), score=float(solved))


def watched_paths(task: Task) -> list[str]:
    """Return the paths whose final state `grade_episode` needs."""
    expect = task.payload["expect"]
    return [*expect.get("files", {}), *expect.get("absent", [])]


def _solved(expect: dict[str, Any], evidence: dict[str, Any]) -> bool:
    if evidence.get("ended") not in ("answer", "finish"):
        return False
    if "rule" in expect:
        answer = evidence.get("answer")
        expected = expect["answer"] if "answer" in expect else evidence.get("reference")
        return isinstance(answer, str) and isinstance(expected, str) and RULES[expect["rule"]](answer, expected)
    if "checks" in expect:
        codes = evidence.get("checks", [])
        return bool(codes == [0] * sum(check is not None for check in expect["checks"]))
    files = evidence.get("files", {})
    return all(_holds(files.get(path), text) for path, text in expect["files"].items()) and all(
        files.get(path, {}).get("kind") == "missing" for path in expect.get("absent", [])
    )


def _holds(found: dict[str, str] | None, text: str) -> bool:
    """Equal content, up to white space at the end: `echo` and `printf` differ by a newline."""
    return found is not None and found["kind"] == "file" and found["text"].rstrip() == text.rstrip()


def _bytes(text: str) -> float | None:
    match = _SIZE.fullmatch(text.strip())
    return float(match[1]) * _UNITS[match[2].upper()] if match else None
