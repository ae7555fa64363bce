import pytest
from test_tally import entry

from agenttuning.recipe import BudgetSpec, PolicySpec, Prices
from agenttuning.rollout.forecast import forecast, forecast_text, seconds_left
from agenttuning.storage.index import entries_table

STORED = [*(entry(n, reward=float(n < 3)) for n in range(4)), entry(9, "os", reward=0.0, cost=0.0, seconds=10.0)]
THRESHOLDS = {"db": 1.0, "os": 1.0}


def policy(**budget):
    prices = Prices(prompt=1.0, completion=1.0)
    return PolicySpec(kind="endpoint", base_url="http://x/v1", model="m", prices=prices, budget=BudgetSpec(**budget))


def test_what_is_left_is_like_what_was_played():
    db, os = forecast(entries_table(STORED), {"db": 24, "os": 3, "alfworld": 5}, THRESHOLDS, {})
    assert (db.played, db.kept, db.episodes, db.tokens, db.requests) == (4, 3, 20, 2400, 60)
    assert (db.cost, db.seconds) == pytest.approx((10.0, 40.0))
    assert (os.episodes, os.kept, os.cost, os.seconds) == (2, 0, 0.0, 20.0)


def test_a_quota_asks_for_as_many_as_its_share_of_kept_needs_and_no_more_than_there_are():
    found = forecast(entries_table(STORED), {"db": 24, "os": 30}, THRESHOLDS, {"db": 9, "os": 20})
    assert [part.episodes for part in found] == [9, 29]
    (full,) = forecast(entries_table(STORED), {"db": 24}, THRESHOLDS, {"db": 3})
    assert full.episodes == 0


def test_time_is_bounded_by_slots_requests_and_tokens():
    parts = forecast(entries_table(STORED), {"db": 24, "os": 3}, THRESHOLDS, {})
    assert seconds_left(parts, 10, policy()) == pytest.approx(6.0)
    assert seconds_left(parts, 10, policy(requests_per_minute=22)) == pytest.approx(180.0)
    assert seconds_left(parts, 10, policy(tokens_per_minute=1320)) == pytest.approx(120.0)


def test_it_is_said_where_the_money_ends_it_before():
    parts = forecast(entries_table(STORED), {"db": 24, "os": 3}, THRESHOLDS, {})
    said = forecast_text(parts, 2.0, 10, policy(money=5.0))
    assert "db: 20 episodes more (3 of 4 kept so far), 2,400 tokens, cost 10.00" in said
    assert "in all 22 episodes, about 6s, cost 10.00 beside the 2.00 so far" in said
    assert "policy.budget.money=5 will end it before" in said
    assert "money" not in forecast_text(parts, 2.0, 10, policy(money=12.0))
