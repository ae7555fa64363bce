"""Whether an instruction says what another one said: equal normalised text, or many n-grams in common. Pure."""

import re

NGRAM = 3
_WORD = re.compile(r"[^\W_]+", re.UNICODE)


def normalised(text: str) -> str:
    """Return a text in lower case, words alone, every number as `0`: tasks that differ in a number are the same."""
    return " ".join("0" if word.isdigit() else word for word in _WORD.findall(text.lower()))


def ngrams(text: str, n: int = NGRAM) -> frozenset[tuple[str, ...]]:
    """Return the word n-grams of a normalised text; one of fewer words is one n-gram."""
    words = normalised(text).split()
    if len(words) < n:
        return frozenset([tuple(words)]) if words else frozenset()
    return frozenset(tuple(words[i : i + n]) for i in range(len(words) - n + 1))


def jaccard(left: frozenset[tuple[str, ...]], right: frozenset[tuple[str, ...]]) -> float:
    """Return the share of common n-grams among all, from 0 to 1."""
    return len(left & right) / len(left | right) if left or right else 1.0


class Seen:
    """The instructions so far.

    Args:
        threshold: Jaccard similarity from which two instructions are near duplicates.
    """

    def __init__(self, threshold: float) -> None:
        self._threshold = threshold
        self._texts: set[str] = set()
        self._grams: list[frozenset[tuple[str, ...]]] = []

    def repeats(self, text: str) -> str | None:
        """Return `duplicate` or `near_duplicate` where the instruction was seen, else None."""
        if normalised(text) in self._texts:
            return "duplicate"
        grams = ngrams(text)
        near = any(jaccard(grams, other) >= self._threshold for other in self._grams)
        return "near_duplicate" if near else None

    def add(self, text: str) -> None:
        """Remember an instruction."""
        self._texts.add(normalised(text))
        self._grams.append(ngrams(text))
