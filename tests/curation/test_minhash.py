"""Near duplicates: signatures estimate the Jaccard similarity, and the first of near duplicates stays."""

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agenttuning.curation.minhash import PERMUTATIONS, WINDOW, near_duplicates, signature
from agenttuning.curation.words import ngrams, stem, stems, token_hashes, tokens

RNG = random.Random(0)
VOCABULARY = [f"w{n}" for n in range(2000)]


def text(length: int = 400) -> list[str]:
    return RNG.choices(VOCABULARY, k=length)


def varied(words: list[str], changes: int) -> list[str]:
    out = list(words)
    for place in RNG.sample(range(len(out)), changes):
        out[place] = RNG.choice(VOCABULARY)
    return out


def jaccard(first: list[str], second: list[str]) -> float:
    a, b = ({tuple(w[n : n + WINDOW]) for n in range(len(w) - WINDOW + 1)} for w in (first, second))
    return len(a & b) / len(a | b)


@pytest.mark.parametrize("changes", [0, 3, 8, 20, 60, 400])
def test_signatures_estimate_the_similarity(changes):
    errors = []
    for _ in range(10):
        first = text()
        second = varied(first, changes)
        alike = float((signature(" ".join(first)) == signature(" ".join(second))).mean())
        errors.append(alike - jaccard(first, second))
    assert abs(float(np.mean(errors))) < 0.05
    assert max(map(abs, errors)) < 0.2


def test_a_signature_ignores_case_and_spaces_and_is_the_same_everywhere():
    assert (signature("Find  the File now please") == signature("find the file\nnow please")).all()
    assert signature("Find the file now please").tolist()[:3] == [57705, 51335, 17062]
    assert signature("").shape == signature("short").shape == (PERMUTATIONS,)


def test_near_duplicates_are_found_and_the_first_stays():
    first, other = text(), text()
    texts = [first, other, varied(first, 3), varied(other, 300), first]
    rows = np.stack([signature(" ".join(t)) for t in texts])
    found = near_duplicates(rows, 0.8)
    assert set(found) == {2, 4}
    assert found[4] == (0, 1.0)
    assert found[2][0] == 0
    assert found[2][1] >= 0.8


def test_a_duplicate_of_a_dropped_one_is_compared_with_the_one_that_stayed():
    a = np.zeros((3, PERMUTATIONS), np.uint16)
    a[1, :12] = 1  # Like row 0 (0.91).
    a[2, :24] = 1  # Like row 1 (0.91), not like row 0 (0.81).
    assert set(near_duplicates(a, 0.9)) == {1}
    assert set(near_duplicates(a, 0.8)) == {1, 2}


def test_nothing_and_one_have_no_duplicates():
    assert near_duplicates(np.empty((0, PERMUTATIONS), np.uint16), 0.9) == {}
    assert near_duplicates(np.zeros((1, PERMUTATIONS), np.uint16), 0.9) == {}


@settings(max_examples=30)
@given(st.lists(st.integers(0, 5), max_size=12), st.floats(0.5, 1.0))
def test_exact_copies_are_always_found_and_strangers_never(kinds, threshold):
    strangers = np.arange(6, dtype=np.uint16)[:, None] * np.uint16(1000) + np.arange(PERMUTATIONS, dtype=np.uint16)
    rows = strangers[kinds] if kinds else np.empty((0, PERMUTATIONS), np.uint16)
    copies = {n for n, kind in enumerate(kinds) if kind in kinds[:n]}
    assert set(near_duplicates(rows, threshold)) == copies


def test_windows_and_stems():
    hashes = token_hashes(tokens("a b c a b c"))
    windows = ngrams(hashes, 3)
    assert len(windows) == 4
    assert windows[0] == windows[3] != windows[1]
    assert len(ngrams(hashes, 7)) == 0
    assert {stem(w) for w in ("locate", "located", "locates", "Locating")} == {"locat"}
    assert stems("getUserName user_id 3.5") == ["get", "user", "nam", "user", "id", "3.5"]
