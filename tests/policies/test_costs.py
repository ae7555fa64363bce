import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from agenttuning.policies.budget import Limits
from agenttuning.policies.costs import price, worst_price
from agenttuning.policies.sharing import limits_of
from agenttuning.recipe import PolicySpec, Prices

PRICES = Prices(prompt=2.5, completion=10.0, cached=1.25)
tokens = st.integers(0, 10**6)


def test_a_price_by_hand():
    assert price(PRICES, 1_000_000, 100_000, None) == pytest.approx(3.5)
    assert price(PRICES, 1_000_000, 0, 400_000) == pytest.approx(0.6 * 2.5 + 0.4 * 1.25)
    assert price(Prices(prompt=2, completion=3), 1_000_000, 0, 400_000) == pytest.approx(2)
    assert price(Prices(prompt=2, completion=3, cached=0), 1_000_000, 0, 1_000_000) == 0


def test_what_is_not_known_has_no_price():
    assert price(None, 1, 1, 1) is None
    assert price(PRICES, None, 1, None) is None
    assert price(PRICES, 1, None, None) is None
    assert worst_price(None, 10, 10) == 0


@given(tokens, tokens, tokens, st.floats(0, 100), st.floats(0, 100), st.none() | st.floats(0, 200))
def test_no_request_costs_more_than_its_worst_case(prompt, completion, cached, dear, dearer, cheap):
    prices = Prices(prompt=dear, completion=dearer, cached=cheap)
    cost = price(prices, prompt, completion, cached)
    assert cost <= worst_price(prices, prompt, completion) * (1 + 1e-9)


def test_a_budget_that_cannot_work_is_refused_with_its_cure():
    with pytest.raises(ValidationError, match=r"budget.money=5 needs policy.prices"):
        PolicySpec(budget={"money": 5})
    with pytest.raises(ValidationError, match=r"tokens_per_minute=100 is not above max_tokens=512.*raise the first"):
        PolicySpec(budget={"tokens_per_minute": 100}, max_tokens=512)
    assert limits_of(PolicySpec(prices=PRICES, budget={"money": 5, "requests_per_minute": 9})) == Limits(9, None, 5.0)
    assert not limits_of(PolicySpec())
