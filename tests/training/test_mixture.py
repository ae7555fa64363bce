import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agenttuning.errors import ConfigurationError, DataError
from agenttuning.training.mixture import _take_turns, draw_items

weights = st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=6)


@settings(max_examples=80, deadline=None)
@given(weights=weights, steps=st.integers(1, 60), items=st.integers(1, 17), seed=st.integers(0, 5), data=st.data())
def test_shares_hold_at_every_step_and_items_come_epoch_by_epoch(
    weights: list[float], steps: int, items: int, seed: int, data: st.DataObject
) -> None:
    names = [f"s{i}" for i in range(len(weights))]
    sizes = {name: data.draw(st.integers(1, 50)) for name in names}
    draw = draw_items(dict(zip(names, weights, strict=True)), sizes, steps, items, seed)
    assert draw.source.shape == draw.index.shape == (steps, items)
    seen: dict[str, list[int]] = {name: [] for name in names}
    for number in range(steps):
        for name, index in draw.step(number):
            seen[name].append(index)
        for name, weight in zip(names, weights, strict=True):
            share = weight / sum(weights) * items * (number + 1)
            assert abs(len(seen[name]) - share) < 1 + 1e-6
    for name, indices in seen.items():
        size = sizes[name]
        for start in range(0, len(indices), size):
            epoch = indices[start : start + size]
            assert len(set(epoch)) == len(epoch)
            assert all(0 <= i < size for i in epoch)
        assert draw.epochs()[name] == len(indices) / size
        assert draw.counts()[name] == len(indices)


def test_the_papers_mixture_gives_the_authors_epochs() -> None:
    sizes = {"agent": 1866, "gpt4": 3670, "gpt35": 57096}
    draw = draw_items({"agent": 0.2, "gpt4": 0.16, "gpt35": 0.64}, sizes, 2000, 64, 0)
    assert {name: round(value, 2) for name, value in draw.epochs().items()} == {
        "agent": 13.72,
        "gpt4": 5.58,
        "gpt35": 1.43,
    }


def test_a_longer_draw_begins_with_the_shorter_one() -> None:
    weights, sizes = {"a": 0.2, "b": 0.8}, {"a": 7, "b": 11}
    short, long = draw_items(weights, sizes, 10, 5, "data"), draw_items(weights, sizes, 40, 5, "data")
    assert (long.source[:10] == short.source).all()
    assert (long.index[:10] == short.index).all()


def test_the_seed_orders_items_and_epochs_differ() -> None:
    first, second = draw_items({"a": 1.0}, {"a": 50}, 10, 10, 1), draw_items({"a": 1.0}, {"a": 50}, 10, 10, 2)
    assert (first.index != second.index).any()
    epochs = first.index.reshape(2, 50)
    assert (epochs[0] != epochs[1]).any()
    assert (np.sort(epochs) == np.arange(50)).all()


def test_a_share_stays_exact_over_many_items() -> None:
    draw = draw_items({"a": 1.0, "b": 2.0, "c": 4.0}, {"a": 10, "b": 10, "c": 10}, 600, 500, 0)
    cumulative = np.cumsum(draw.source.ravel() == 0)
    share = np.arange(1, len(cumulative) + 1) / 7
    assert np.abs(cumulative - share).max() < 1


@pytest.mark.parametrize(
    ("weights", "sizes", "error", "words"),
    [
        ({"a": 0.0}, {"a": 1}, ConfigurationError, "above 0"),
        ({"a": 1.0}, {"b": 1}, ConfigurationError, "no items were made"),
        ({"a": 1.0}, {"a": 0}, DataError, "has no items"),
        ({}, {}, ConfigurationError, "at least one source"),
    ],
)
def test_what_cannot_be_drawn_is_refused(
    weights: dict[str, float], sizes: dict[str, int], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        draw_items(weights, sizes, 1, 1, 0)


@pytest.mark.parametrize("weights", [[0.2, 0.16, 0.64], [3, 1 / 3, 2.5, 0.125], [7.0]])
def test_turns_of_plain_weights_repeat_and_stay_within_one_of_the_shares(weights: list[float]) -> None:
    turns = _take_turns(weights, 20_000)
    for number, weight in enumerate(weights):
        owed = np.arange(1, turns.size + 1) * weight / sum(weights)
        assert np.abs(np.cumsum(turns == number) - owed).max() < 1


def test_turns_of_other_weights_stay_within_one_of_the_shares_too() -> None:
    weights = [2**0.5, 1e-5, 3**0.5, 0.7]
    turns = _take_turns(weights, 20_000)
    for number, weight in enumerate(weights):
        owed = np.arange(1, turns.size + 1) * weight / sum(weights)
        assert np.abs(np.cumsum(turns == number) - owed).max() < 1
