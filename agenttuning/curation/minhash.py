"""Near duplicates by MinHash (Broder 1997) and locality-sensitive hashing, on plain arrays.

A text is the set of its windows of `WINDOW` tokens. Its signature keeps, for each of `PERMUTATIONS` hash functions,
16 bits of the least hash; the share of equal places estimates the Jaccard similarity of two sets, with a standard
error of at most 0.05. Signatures are cut into bands; only texts that agree on a whole band are compared. A text is a
near duplicate when its signature is as like as the threshold to that of a text before it that stays. The result
depends on the order of the texts and on nothing else.
"""

import numpy as np
import numpy.typing as npt

from agenttuning.curation.words import Hashes, ngrams, token_hashes, tokens

Signature = npt.NDArray[np.uint16]

PERMUTATIONS = 128
BANDS = 16
"""Bands of 8 places: texts of similarity 0.9 are compared with a probability of 0.9999, of 0.5 with 0.06."""
WINDOW = 5
"""Tokens of one window of a trajectory's text."""
WINDOW_SHORT = 3
"""Tokens of one window of a task's text, which is short."""
MOST_COMPARED = 512
"""A text is compared with at most this many earlier ones of one bucket: bounds the work on very uniform data."""

_CHUNK = 1 << 13
_MIX = np.uint64(0x9E3779B97F4A7C15)
_random = np.random.default_rng(20231019)
_FACTORS = _random.integers(0, 1 << 31, (PERMUTATIONS, 1), np.uint32) * np.uint32(2) + np.uint32(1)
_OFFSETS = _random.integers(0, 1 << 32, (PERMUTATIONS, 1), np.uint32)


def signature(text: str, window: int = WINDOW) -> Signature:
    """Return the MinHash signature of a text, shape (PERMUTATIONS,)."""
    return signature_of(token_hashes(tokens(text)), window)


def signature_of(hashes: Hashes, window: int = WINDOW) -> Signature:
    """Return the signature of a text given as token hashes; a text shorter than a window is one window."""
    windows = np.unique(ngrams(hashes, min(window, max(1, len(hashes)))))
    narrow = (windows >> np.uint64(32)).astype(np.uint32)
    least = np.full(PERMUTATIONS, np.iinfo(np.uint32).max, np.uint32)
    with np.errstate(over="ignore"):
        for start in range(0, len(narrow), _CHUNK):
            mixed = narrow[None, start : start + _CHUNK] * _FACTORS + _OFFSETS
            np.minimum(least, mixed.min(axis=1), out=least)
    # The high half orders the values and is small for a least one; the low half tells them apart.
    return least.astype(np.uint16)


def near_duplicates(signatures: npt.NDArray[np.uint16], threshold: float) -> dict[int, tuple[int, float]]:
    """Return the near duplicates of earlier texts.

    Args:
        signatures: shape (texts, PERMUTATIONS), in the order that decides which one stays.
        threshold: least estimated similarity, in (0, 1].

    Returns:
        For each near duplicate its row, the row of an earlier text that stays and is like it, and their similarity.
    """
    needed = int(np.ceil(threshold * PERMUTATIONS - 1e-9))
    buckets = _buckets(signatures)
    found: dict[int, tuple[int, float]] = {}
    stay: dict[int, list[int]] = {}
    for row in map(int, np.flatnonzero((buckets >= 0).any(axis=1))):
        own = [stay.setdefault(bucket, []) for bucket in buckets[row].tolist() if bucket >= 0]
        if rivals := sorted(set().union(*own)):
            equal = (signatures[rivals] == signatures[row]).sum(axis=1)
            best = int(equal.argmax())
            if equal[best] >= needed:
                found[row] = (rivals[best], float(equal[best]) / PERMUTATIONS)
                continue
        for rows in own:
            if len(rows) < MOST_COMPARED:
                rows.append(row)
    return found


def _buckets(signatures: npt.NDArray[np.uint16]) -> npt.NDArray[np.int64]:
    """Return for each text and band which bucket it falls into, shape (texts, BANDS); -1 where it is alone there."""
    width = PERMUTATIONS // BANDS
    result = np.full((len(signatures), BANDS), -1, np.int64)
    for band in range(BANDS):
        part = np.ascontiguousarray(signatures[:, band * width : (band + 1) * width]).view(np.uint64)
        with np.errstate(over="ignore"):
            keys = part[:, 0] * _MIX + (part[:, 1] ^ (part[:, 0] >> np.uint64(31)))
        _, inverse, counts = np.unique(keys, return_inverse=True, return_counts=True)
        result[:, band] = np.where(counts[inverse] > 1, inverse + band * len(signatures), -1)
    return result
