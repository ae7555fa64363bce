from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agenttuning.recipe import Training
from agenttuning.training.look_ahead import BLOCK, NOWHERE, fill_steps
from agenttuning.training.packing import efficiency, pack
from agenttuning.training.plan import Plan, make_plan
from agenttuning.training.prefixes import PrefixIndex
from agenttuning.training.rows import ItemCounts, packed_rows

WEIGHTS = {"agent": 0.2, "general": 0.8}
LENGTHS = {
    # As conversations are: 490 tokens in the mean, some of 16 and some of 4,096.
    "conversations": lambda rng, n: rng.lognormal(5.8, 0.9, n),
    # Two or three items a row.
    "long": lambda rng, n: rng.lognormal(7.3, 0.5, n),
    "uniform": lambda rng, n: rng.integers(16, 4097, n),
    "short": lambda rng, n: rng.integers(100, 2001, n),
}


def lengths(count: int, seed: int = 0, kind: str = "conversations") -> np.ndarray:
    return np.clip(LENGTHS[kind](np.random.default_rng(seed), count).astype(np.int64), 16, 4096)


def families(count: int, seed: int = 0) -> ItemCounts:
    """Trajectories of six environments, each of which begins with instructions of its own."""
    rng = np.random.default_rng(seed)
    stems = np.array([300, 500, 700, 900, 1100, 1300])
    family = np.sort(rng.integers(0, len(stems), count))
    shared = np.where(np.diff(family, prepend=-1), 0, stems[family])
    tokens = np.minimum(stems[family] + 16 + rng.lognormal(6.3, 0.6, count).astype(np.int64), 4096)
    place = rng.permutation(count)
    return ItemCounts.of(tokens[place], np.ones(count), PrefixIndex(place, shared[place]))


def plan_of(per_step: int, steps: int, kind: str = "conversations", agent: ItemCounts | None = None) -> Plan:
    sizes = {"agent": lengths(5000, 0, kind), "general": lengths(9000, 1, kind)}
    counts = {name: ItemCounts.of(size, np.ones_like(size)) for name, size in sizes.items()}
    counts["agent"] = agent or counts["agent"]
    training = Training(steps=steps, items_per_step=per_step, row_tokens=4096)
    return make_plan(counts, WEIGHTS, training, 0, 2)


def fill_and_free(plan: Plan) -> tuple[float, float]:
    """How full rows are, and how full they are if all items are packed at once."""
    found = plan.summary()
    trained = [item for number in range(plan.steps) for item in plan.trained(number)]
    free = packed_rows(trained, plan.items, plan.row_tokens, False, 0)
    return found["packing_efficiency"], efficiency(found["tokens"], len(free), plan.row_tokens)


@pytest.mark.parametrize("kind", LENGTHS)
@pytest.mark.parametrize("per_step", [256, 512])
def test_rows_are_full_at_the_exact_mixture(per_step: int, kind: str) -> None:
    plan = plan_of(per_step, 2 * BLOCK, kind)
    fill, free = fill_and_free(plan)
    assert fill >= min(0.99, free - 0.005)
    for number in range(plan.steps):
        drawn, trained = plan.draw.step(number), plan.trained(number)
        assert Counter(source for source, _ in drawn) == Counter(source for source, _ in trained)


@pytest.mark.parametrize(
    ("kind", "least"), [("conversations", 0.99), ("short", 0.99), ("long", 0.985), ("uniform", 0.98)]
)
def test_rows_are_full_with_trees_in_them(kind: str, least: float) -> None:
    """Trees lie in their step. Beside them few long items are left to fill rows with, if there are but long ones."""
    summary = plan_of(256, 2 * BLOCK, kind, families(5000)).summary()
    assert summary["prefix_tokens_saved"] > 0.05 * summary["tokens"]
    assert summary["packing_efficiency"] >= least


def test_rows_of_trees_alone_are_nearly_full() -> None:
    """No item moves to another step, and each environment's last tree of a step ends in a row."""
    agent = families(5000)
    training = Training(steps=BLOCK, items_per_step=256, row_tokens=4096)
    plan = make_plan({"agent": agent}, {"agent": 1.0}, training, 0)
    assert plan.summary()["packing_efficiency"] >= 0.95


def test_rows_are_nearly_full_where_the_order_is_free() -> None:
    sizes = lengths(100_000)
    assert efficiency(int(sizes.sum()), len(pack(sizes, 4096)), 4096) >= 0.999


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 999), steps=st.integers(1, 5), longest=st.integers(1, 100), kinds=st.integers(1, 4))
def test_every_step_gets_its_kinds_and_every_item_one_row(seed: int, steps: int, longest: int, kinds: int) -> None:
    """Also where few items are left of a kind, or none, and where trees leave no room."""
    rng = np.random.default_rng(seed)
    own = [rng.integers(0, kinds, rng.integers(0, 30)) for _ in range(steps)]
    trees = [rng.integers(1, 101, rng.integers(0, 4)) for _ in range(steps)]
    kind = np.concatenate(own)
    tokens = rng.integers(1, longest + 1, kind.size)
    found = fill_steps(own, trees, tokens, 100, seed)
    taken = np.zeros(kind.size, int)
    for where, wanted, here in zip(found, own, trees, strict=True):
        items = where[here.size :] != NOWHERE
        taken += items
        assert sorted(kind[items]) == sorted(wanted)
        assert (where[: here.size] != NOWHERE).all()
        placed = where != NOWHERE
        assert np.bincount(where[placed], np.concatenate([here, tokens])[placed]).max(initial=0) <= 100
    assert (taken == 1).all()
    again = fill_steps(own, trees, tokens, 100, seed)
    assert all(np.array_equal(one, other) for one, other in zip(found, again, strict=True))


@pytest.mark.parametrize("share", [False, True])
def test_items_stay_in_their_block_and_epoch(share: bool) -> None:
    """300 agent items, 12 or 13 a step: an epoch ends in the middle of a block."""
    rng = np.random.default_rng(0)
    general = rng.integers(50, 1200, 3000)
    counts = {"agent": families(300), "general": ItemCounts.of(general, np.ones(3000))}
    training = Training(steps=4 * BLOCK, items_per_step=64, row_tokens=4096, share_prefixes=share)
    plan = make_plan(counts, WEIGHTS, training, 0)
    assert plan.looks_ahead
    trained = [plan.trained(number) for number in range(plan.steps)]
    for start in range(0, plan.steps, BLOCK):
        block = range(start, start + BLOCK)
        assert Counter(i for n in block for i in trained[n]) == Counter(i for n in block for i in plan.draw.step(n))
    agents = [[index for source, index in step if source == "agent"] for step in trained]
    ends = np.cumsum([len(step) for step in agents])
    for epoch in (1, 2):
        step = int(np.searchsorted(ends, epoch * 300))
        before, behind = (Counter(i for n in range(s) for i in agents[n]) for s in (step, step + 1))
        assert max(before.values()) <= epoch <= min(behind[i] for i in range(300)), "an epoch ends in this step"


def test_the_first_steps_are_the_same_however_many_follow() -> None:
    short, long = plan_of(128, 6), plan_of(128, 20)
    assert [short.step(n) for n in range(6)] == [long.step(n) for n in range(6)]
    assert short.step(5) == plan_of(128, 6).step(5), "it needs no history"


@pytest.mark.parametrize("kind", LENGTHS)
def test_no_step_takes_the_long_items(kind: str) -> None:
    plan = plan_of(256, 3 * BLOCK, kind)
    tokens = np.array([plan.step(number).tokens for number in range(plan.steps)]).reshape(3, BLOCK).mean(axis=0)
    assert abs(tokens[: BLOCK // 2].mean() / tokens[BLOCK // 2 :].mean() - 1) < 0.02
    assert tokens.std() < plan.tokens.std(), "steps are more alike than they are drawn"


def test_steps_of_few_rows_are_left_as_they_are_drawn() -> None:
    plan = plan_of(32, 4)
    assert not plan.looks_ahead
    assert [sorted(plan.trained(n)) for n in range(4)] == [sorted(plan.draw.step(n)) for n in range(4)]
