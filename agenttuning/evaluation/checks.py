"""Checks of verifiable instructions: pure functions of an answer's text, in the manner of IFEval.

A check is a mapping with `kind` and that kind's arguments. Each function returns whether the answer passes; none of
them runs, imports or evaluates what the answer says. Surrounding white space never counts. Words are compared
without case. `CHECKS` lists the kinds.
"""

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from agenttuning.errors import DataError

_BULLET = re.compile(r"^\s*[-*+•–]\s+\S", re.MULTILINE)
_NUMBERED = re.compile(r"^\s*(?:\d+)[.):]\s+\S", re.MULTILINE)
_FENCE = re.compile(r"^```[a-zA-Z]*\n(.*?)\n?```$", re.DOTALL)
_SENTENCE_END = re.compile(r"[.!?]+[\"')\]”’*_]*(?=\s|$)")
_ABBREVIATION = re.compile(r"\b(?:e\.g|i\.e|etc|vs|Mr|Mrs|Ms|Dr|Prof|St|No)\.(?=\s)", re.IGNORECASE)


def words(text: str) -> list[str]:
    """Return the words of a text: runs of letters and digits, with inner hyphens and apostrophes."""
    return re.findall(r"\w+(?:[-'’]\w+)*", text)


def sentences(text: str) -> int:
    """Return the number of sentences; text after the last full stop counts as one more."""
    flat = _ABBREVIATION.sub(lambda m: m.group(0)[:-1], text.strip())
    ends = list(_SENTENCE_END.finditer(flat))
    rest = flat[ends[-1].end() :] if ends else flat
    return len(ends) + bool(words(rest))


def passes(check: Mapping[str, Any], answer: str) -> bool:
    """Return whether `answer` passes one check.

    Raises:
        DataError: the kind is unknown or an argument is missing or unknown.
    """
    arguments = dict(check)
    kind = arguments.pop("kind", None)
    if kind not in CHECKS:
        raise DataError(f"check {dict(check)!r}: kind must be one of {', '.join(sorted(CHECKS))} (got {kind!r})")
    try:
        return CHECKS[kind](answer.strip(), **arguments)
    except TypeError as error:
        raise DataError(
            f"check {dict(check)!r}: wrong arguments ({error}); see agenttuning.evaluation.checks"
        ) from error


def failed_checks(checks: list[dict[str, Any]], answer: str) -> list[str]:
    """Return the kinds of the checks that the answer fails, in order. An empty answer fails every check."""
    return [str(check["kind"]) for check in checks if not answer.strip() or not passes(check, answer)]


def _contains(text: str, words: list[str], mode: str = "all") -> bool:
    found = [_has(text, word) for word in words]
    if mode not in ("all", "any"):
        raise DataError(f"check contains: mode must be 'all' or 'any' (got {mode!r})")
    return all(found) if mode == "all" else any(found)


def _excludes(text: str, words: list[str]) -> bool:
    return not any(_has(text, word) for word in words)


def _has(text: str, phrase: str) -> bool:
    """A word or phrase stands on its own: `cat` is not in `catalogue`."""
    before = r"(?<!\w)" if phrase[:1].isalnum() else ""
    after = r"(?!\w)" if phrase[-1:].isalnum() else ""
    return re.search(before + re.escape(phrase) + after, text, re.IGNORECASE) is not None


def _json(text: str, keys: list[str]) -> bool:
    """The whole answer is one JSON object (a code fence around it is allowed) with exactly these keys."""
    if fenced := _FENCE.match(text):
        text = fenced.group(1)
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return False
    return isinstance(value, dict) and set(value) == set(keys)


def _commas_list(text: str, count: int) -> bool:
    """One line of `count` non-empty items between commas; a closing full stop is allowed."""
    items = [item.strip() for item in text.removesuffix(".").split(",")]
    return "\n" not in text and len(items) == count and all(items)


def _paragraphs(text: str, count: int) -> bool:
    return len([p for p in re.split(r"\n\s*\n", text) if p.strip()]) == count


def _lowercase(text: str) -> bool:
    return any(c.isalpha() for c in text) and text == text.lower()


def _uppercase(text: str) -> bool:
    return any(c.isalpha() for c in text) and text == text.upper()


CHECKS: dict[str, Callable[..., bool]] = {
    "contains": _contains,
    "excludes": _excludes,
    "starts_with": lambda answer, text: answer.lower().startswith(text.lower()),
    "ends_with": lambda answer, text: answer.lower().endswith(text.lower()),
    "bullets": lambda answer, count: len(_BULLET.findall(answer)) == count,
    "numbered": lambda answer, count: len(_NUMBERED.findall(answer)) == count,
    "max_words": lambda answer, n: len(words(answer)) <= n,
    "min_words": lambda answer, n: len(words(answer)) >= n,
    "sentences": lambda answer, count: sentences(answer) == count,
    "lowercase": _lowercase,
    "uppercase": _uppercase,
    "json": _json,
    "commas_list": _commas_list,
    "paragraphs": _paragraphs,
    "matches": lambda answer, regex: re.search(regex, answer) is not None,
}
