import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agenttuning.evaluation.scoring import (
    difference,
    overlap,
    paired_bootstrap,
    pooled,
    rate,
    rate_of,
    rates_by,
    token_mean,
    wilson,
)

counts = st.integers(0, 400).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))


@pytest.mark.parametrize(
    ("successes", "episodes", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_equals_newcombes_published_examples(successes, episodes, low, high):
    assert wilson(successes, episodes) == pytest.approx((low, high), abs=5e-5)


@given(counts, st.floats(0.5, 0.999))
def test_wilson_holds_the_share_and_stays_in_bounds(count, confidence):
    successes, episodes = count
    low, high = wilson(successes, episodes, confidence)
    assert 0 <= low <= high <= 1
    if episodes:
        assert low <= successes / episodes <= high


@given(counts)
def test_wilson_mirrors(count):
    successes, episodes = count
    low, high = wilson(successes, episodes)
    assert wilson(episodes - successes, episodes) == pytest.approx((1 - high, 1 - low))


def test_wilson_solves_its_own_equation():
    low, high = wilson(17, 72)
    z = 1.959963984540054
    for bound in (low, high):
        assert abs(17 / 72 - bound) == pytest.approx(z * math.sqrt(bound * (1 - bound) / 72))


def test_wilson_refuses_more_successes_than_episodes():
    with pytest.raises(ValueError, match="got 5 of 4"):
        wilson(5, 4)


def test_no_episodes_say_nothing():
    unknown = rate(0, 0)
    assert (unknown.low, unknown.high) == (0, 1)
    assert unknown.text() == "-"


def test_text_of_a_rate():
    assert rate(14, 24).text() == "58.3 % [38.8, 75.5]"


def test_rates_by_name_and_pooled():
    rates = rates_by([("os", True), ("db", False), ("os", False), ("db", True), ("os", True)])
    assert list(rates) == ["db", "os"]
    assert (rates["os"].successes, rates["os"].episodes) == (2, 3)
    assert pooled(rates) == rate_of([True, False, False, True, True])


def test_overlap():
    assert not overlap(rate(0, 72), rate(40, 72))
    assert overlap(rate(10, 24), rate(14, 24))
    assert overlap(rate(14, 24), rate(10, 24))


def test_difference_equals_newcombes_published_example():
    delta, low, high = difference(rate(56, 70), rate(48, 80))
    assert (delta, low, high) == pytest.approx((0.2, 0.0524, 0.3339), abs=5e-5)


@given(counts, counts)
def test_difference_is_antisymmetric(first, second):
    a, b = rate(*first), rate(*second)
    delta, low, high = difference(a, b)
    assert difference(b, a) == pytest.approx((-delta, -high, -low))
    assert low <= delta <= high


def test_token_mean_weighs_by_tokens():
    assert token_mean([1.0, 3.0], [3, 1]) == pytest.approx(1.5)
    with pytest.raises(ValueError, match="no supervised token"):
        token_mean([], [])


def test_paired_bootstrap_of_a_constant_gap_is_that_gap():
    base = [2.0, 3.0, 1.0]
    assert paired_bootstrap(base, [b + 0.25 for b in base], [10, 20, 5]) == pytest.approx((0.25, 0.25, 0.25))


def test_paired_bootstrap_covers_the_true_gap_about_as_often_as_it_says():
    noise = np.random.default_rng(3)
    tokens = [50] * 60
    hits = 0
    for trial in range(100):
        base = noise.normal(2.5, 1.0, 60)
        tuned = base + 0.1 + noise.normal(0, 0.2, 60)
        _, low, high = paired_bootstrap(base, tuned, tokens, samples=400, seed=trial)
        hits += low <= 0.1 <= high
    assert 85 <= hits <= 100


def test_paired_bootstrap_is_seeded():
    noise = np.random.default_rng(5)
    arguments = (noise.normal(2, 1, 40), noise.normal(2, 1, 40), [7] * 40)
    assert paired_bootstrap(*arguments, seed=1) == paired_bootstrap(*arguments, seed=1)
    assert paired_bootstrap(*arguments, seed=1) != paired_bootstrap(*arguments, seed=2)
