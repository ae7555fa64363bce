import itertools
from math import comb

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agenttuning.recipe import PolicySpec
from agenttuning.rollout.attempts import attempt_policy, best_attempts, mean_pass_at_k, pass_at_k

COUNTS = st.integers(1, 12).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n), st.integers(1, n)))


@given(COUNTS)
def test_pass_at_k_is_the_share_of_subsets_with_a_success(counts):
    attempts, successes, k = counts
    subsets = list(itertools.combinations([True] * successes + [False] * (attempts - successes), k))
    assert pass_at_k(attempts, successes, k) == pytest.approx(sum(map(any, subsets)) / len(subsets))


@given(st.integers(1, 8), st.integers(1, 8), st.floats(0.05, 0.95))
def test_pass_at_k_is_unbiased(n, k, p):
    k = min(k, n)
    expected = sum(comb(n, c) * p**c * (1 - p) ** (n - c) * pass_at_k(n, c, k) for c in range(n + 1))
    assert expected == pytest.approx(1 - (1 - p) ** k)


def test_bad_counts_are_refused():
    for attempts, successes, k in [(3, 4, 1), (3, -1, 1), (3, 1, 0), (3, 1, 4)]:
        with pytest.raises(ValueError, match="pass_at_k"):
            pass_at_k(attempts, successes, k)


def test_means_go_as_far_as_every_task_has_attempts():
    assert mean_pass_at_k([(4, 1), (2, 2), (0, 0)]) == pytest.approx({1: (0.25 + 1) / 2, 2: (0.5 + 1) / 2})
    assert mean_pass_at_k([]) == {}


def test_the_best_attempt_is_the_first_of_the_greatest_worth():
    worth = {
        "a": ("t", (0.5, 0.5), 0), "b": ("t", (1.0, 0.5), 2), "c": ("t", (1.0, 0.5), 1), "d": ("u", (0.0, 0.0), 0),
        "e": ("v", (1.0, 0.4), 0), "f": ("v", (1.0, 0.6), 1),
    }  # fmt: skip
    assert best_attempts(worth) == {"c", "d", "f"}


def test_temperatures_take_turns_and_an_expert_has_none():
    spec = PolicySpec(kind="endpoint", base_url="http://x/v1", model="m", temperature=0.7)
    assert [attempt_policy(spec, (0.1, 1.0), n).temperature for n in range(3)] == [0.1, 1.0, 0.1]
    assert attempt_policy(spec, (), 3) is spec
    assert attempt_policy(PolicySpec(), (0.1,), 0) == PolicySpec()
