from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agenttuning.recipe import Training
from agenttuning.training.look_ahead import WINDOW, fill_rows
from agenttuning.training.mixture import draw_items
from agenttuning.training.packing import efficiency, pack
from agenttuning.training.plan import Plan, make_plan
from agenttuning.training.rows import ItemCounts

WEIGHTS = {"agent": 0.2, "general": 0.8}


def lengths(count: int, seed: int = 0) -> np.ndarray:
    """Lognormal, as conversations are: 490 tokens in the mean, some of 16 and some of 4,096."""
    return np.clip(np.random.default_rng(seed).lognormal(5.8, 0.9, count).astype(np.int64), 16, 4096)


def plan_of(per_step: int, steps: int) -> Plan:
    counts = {
        "agent": ItemCounts.of(lengths(5000), lengths(5000)),
        "general": ItemCounts.of(lengths(9000, 1), lengths(9000, 1)),
    }
    training = Training(steps=steps, items_per_step=per_step, row_tokens=4096)
    return make_plan(counts, WEIGHTS, training, 0, 2)


@pytest.mark.parametrize("per_step", [256, 512])
def test_rows_are_full_at_the_exact_mixture(per_step: int) -> None:
    summary = plan_of(per_step, 24).summary()
    assert summary["packing_efficiency"] >= 0.99
    assert summary["mixture"]["agent"]["item_share"] == pytest.approx(0.2, abs=1 / per_step)


def test_rows_are_nearly_full_where_the_order_is_free() -> None:
    sizes = lengths(100_000)
    assert efficiency(int(sizes.sum()), len(pack(sizes, 4096)), 4096) >= 0.999


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 99), per_step=st.integers(20, 60), steps=st.integers(1, 12), agents=st.integers(3, 300))
def test_swaps_keep_shares_items_epochs_and_the_window(seed: int, per_step: int, steps: int, agents: int) -> None:
    sizes = {"agent": agents, "general": 400}
    tokens = [lengths(n, seed) for n in sizes.values()]
    draw = draw_items(WEIGHTS, sizes, steps, per_step, seed)
    filled = fill_rows(draw, tokens, 1024)
    assert (filled.source == draw.source).all()
    for number, size in enumerate(sizes.values()):
        flat = draw.source.ravel() == number
        before, after = draw.index.ravel()[flat], filled.index.ravel()[flat]
        for start in range(0, before.size, size):
            epoch = slice(start, start + size)
            assert Counter(before[epoch].tolist()) == Counter(after[epoch].tolist())
            at = np.flatnonzero(flat)[epoch] // per_step
            was = dict(zip(before[epoch].tolist(), at.tolist(), strict=True))
            now = dict(zip(after[epoch].tolist(), at.tolist(), strict=True))
            assert all(was[item] - now[item] <= WINDOW for item in was)


def test_the_first_steps_are_the_same_however_many_follow() -> None:
    short, long = plan_of(128, 6), plan_of(128, 20)
    assert [short.step(n) for n in range(6)] == [long.step(n) for n in range(6)]


def test_no_step_takes_the_long_items_first() -> None:
    tokens = plan_of(256, 24).tokens
    early, late = tokens[:12].mean(), tokens[12:].mean()
    assert abs(early - late) < 0.03 * tokens.mean()
