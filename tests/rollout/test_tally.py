import pytest

from agenttuning.rollout.summary import RolloutSummary, add_stored
from agenttuning.rollout.tally import WINDOW_SECONDS, Ledger
from agenttuning.storage.index import Entry, entries_table


def entry(number, environment="db", reward=1.0, task=None, attempt=0, **more):
    fields = {
        "segment": "s", "id": f"{environment}_{number}", "task": task or f"t{number}", "environment": environment,
        "attempt": attempt, "outcome": "completed", "reward": reward, "score": reward, "steps": 3, "prompt_tokens": 100,
        "completion_tokens": 20, "cost": 0.5, "seconds": 2.0, "size": 1, **more,
    }  # fmt: skip
    return Entry(**fields)


def test_a_ledger_counts_speeds_and_what_is_left():
    ledger = Ledger({"db": 10, "os": 4}, {"db": 0.5, "os": 1.0}, {"os": 2})
    ledger.found({"db": 2}, {"db": 1})
    ledger.played([], 0.0)
    ledger.played([entry(1), entry(2, reward=0.2), entry(3, "os"), entry(9, "mars")], 10.0)
    ledger.failed({("db", "environment lost"): 2, ("", "actor lost"): 1})
    db, os = ledger.tallies(20.0)["db"], ledger.tallies(20.0)["os"]
    assert (db.total, db.done, db.played, db.kept, db.reward) == (10, 4, 2, 2, 0.6)
    assert (db.episodes_per_second, db.tokens_per_second, db.seconds_left) == (0.1, 12.0, 60.0)
    assert (db.tokens, db.cost, db.failures) == (240, 1.0, {"environment lost": 2})
    said = "4/10, kept 2 (50 %), 0.1/s, 12 tokens/s, cost 1.00, 1m00s left, 2 environment lost"
    assert str(db) == said
    assert (os.quota, os.full, str(os).startswith("1/4, kept 1/2 (100 %)")) == (2, False, True)
    assert str(ledger.tallies(20.0)["all"]) == "1 actor lost"
    assert ledger.kept() == {"db": 2, "os": 1}
    assert ledger.failures() == {"all": {"actor lost": 1}, "db": {"environment lost": 2}}
    later = ledger.tallies(11 + WINDOW_SECONDS)["db"]
    ledger.played([], 11 + WINDOW_SECONDS)
    assert ledger.tallies(11 + WINDOW_SECONDS)["db"].episodes_per_second == 0.0
    assert later.done == 4


def test_a_summary_is_made_of_what_is_stored():
    stored = [
        entry(1, task="a"), entry(2, task="a", attempt=1, reward=0.0, outcome="step_limit"), entry(3, task="b"),
        entry(4, task="b", attempt=1), entry(5, "os", cost=0.0, reward=0.0),
    ]  # fmt: skip
    summary = RolloutSummary(total=6, skipped=1)
    before = entries_table(stored[:1]).column("id")
    add_stored(summary, entries_table(stored), before, {"db": 1.0, "os": 1.0})
    assert (summary.played, summary.steps, summary.prompt_tokens, summary.completion_tokens) == (4, 12, 400, 80)
    assert summary.outcomes == {"db": {"step_limit": 1, "completed": 2}, "os": {"completed": 1}}
    assert summary.rewards == pytest.approx({"db": 2 / 3, "os": 0.0})
    assert summary.kept == {"db": 3, "os": 0}
    assert (summary.tokens, summary.tokens_per_kept) == ({"db": 480, "os": 120}, {"db": 160.0})
    assert (summary.cost, summary.cost_per_kept) == ({"db": 2.0}, {"db": 0.666667})
    assert summary.pass_at == {"db": {"1": 0.75, "2": 1.0}}
    assert summary.best == {"db": 1.0}
