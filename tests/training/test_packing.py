import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agenttuning.errors import DataError
from agenttuning.training.packing import efficiency, pack


def best_fit_decreasing(lengths: list[int], capacity: int) -> int:
    """The textbook form: how many rows it needs."""
    spaces: list[int] = []
    for length in sorted(lengths, reverse=True):
        fitting = [s for s in spaces if s >= length]
        if fitting:
            spaces[spaces.index(min(fitting))] -= length
        else:
            spaces.append(capacity - length)
    return len(spaces)


@settings(max_examples=200, deadline=None)
@given(lengths=st.lists(st.integers(1, 40), max_size=120), capacity=st.integers(40, 100), seed=st.integers(0, 2**70))
def test_no_item_is_lost_split_or_doubled_and_rows_are_as_few_as_best_fit_decreasing(
    lengths: list[int], capacity: int, seed: int
) -> None:
    rows = pack(lengths, capacity, seed)
    assert sorted(i for row in rows for i in row) == list(range(len(lengths)))
    assert all(0 < sum(lengths[i] for i in row) <= capacity for row in rows)
    assert len(rows) == best_fit_decreasing(lengths, capacity)
    assert rows == pack(lengths, capacity, seed)


def test_the_tightest_row_is_filled_first() -> None:
    assert len(pack([16, 14, 4, 3, 3], 20)) == 2, "the loosest first would need three"


def test_the_seed_orders_rows_and_items_in_them() -> None:
    lengths = [10, 20, 30, 40] * 20
    first, second = pack(lengths, 100, 1), pack(lengths, 100, 2)
    assert first != second
    assert len(first) == len(second) == 20
    assert any([lengths[i] for i in row] != sorted((lengths[i] for i in row), reverse=True) for row in first)


@pytest.mark.parametrize(("lengths", "words"), [([3, 11], "item 1 has 11 tokens"), ([3, 0], "item 1 has 0 tokens")])
def test_an_item_that_no_row_takes_is_named(lengths: list[int], words: str) -> None:
    with pytest.raises(DataError, match=words):
        pack(lengths, 10)


def test_nothing_packs_to_no_rows() -> None:
    assert pack([], 10) == []
    assert efficiency(0, 0, 10) == 0.0


def test_a_million_items_pack_in_two_seconds_and_nearly_full() -> None:
    lengths = np.clip(np.random.default_rng(0).lognormal(6.5, 0.8, 1_000_000).astype(int), 1, 4096)
    spent = []
    for _ in range(3):
        start = time.thread_time()
        rows = pack(lengths, 4096)
        spent.append(time.thread_time() - start)
    assert efficiency(int(lengths.sum()), len(rows), 4096) > 0.999
    assert min(spent) < 2, "of this thread's own time, the best of three: about 0.7"
