"""Tokens, word stems and n-gram hashes: what duplicates, contamination and alignment compare.

Hashes are the same in every process and on every machine, so that the work can be spread.
"""

import re
import zlib
from functools import lru_cache

import numpy as np
import numpy.typing as npt

Hashes = npt.NDArray[np.uint64]

_TOKEN = re.compile(r"\w+|[^\w\s]")
_PART = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+(?:\.\d+)?")
_ENDINGS = ("ings", "ing", "ies", "ied", "edly", "ed", "es", "s", "ly")
_ODD = np.uint64(0x9E3779B97F4A7C15)


def tokens(text: str) -> list[str]:
    """Return words and punctuation marks in lower case."""
    return _TOKEN.findall(text.lower())


def token_hashes(words: list[str]) -> Hashes:
    """Return a 64-bit hash of each token, shape (tokens,)."""
    return np.fromiter((_hash(word) for word in words), np.uint64, len(words))


@lru_cache(maxsize=1 << 16)
def _hash(word: str) -> int:
    data = word.encode()
    return zlib.crc32(data) << 32 | zlib.crc32(data, 0x5BD1E995)


def ngrams(hashes: Hashes, length: int) -> Hashes:
    """Return a hash of each window of `length` tokens, shape (tokens - length + 1,), or (0,) where there is none."""
    count = len(hashes) - length + 1
    if count <= 0:
        return np.empty(0, np.uint64)
    total = np.zeros(count, np.uint64)
    with np.errstate(over="ignore"):
        for offset in range(length):
            total = (total ^ hashes[offset : offset + count]) * _ODD
            total ^= total >> np.uint64(29)
    return total


@lru_cache(maxsize=1 << 16)
def stem(word: str) -> str:
    """Return a word without its ending: `located`, `locate` and `locates` are one. No dictionary, no language."""
    word = word.lower()
    for ending in _ENDINGS:
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            word = word[: -len(ending)]
            break
    if len(word) > 3 and word[-1] == word[-2] and word[-1] not in "aeiouls":
        word = word[:-1]
    return word[:-1] if len(word) > 3 and word[-1] in "eyi" else word


def stems(text: str) -> list[str]:
    """Return the stems of all words and numbers of a text, parts of `camelCase` and `snake_case` apart."""
    return [stem(part) for part in _PART.findall(text)]
