from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_runs import VOCABULARY
from test_loss import trained

from agenttuning.recipe import Training
from agenttuning.training import prefixes
from agenttuning.training.batch import Items, make_batch
from agenttuning.training.loss import PackedCausalLM
from agenttuning.training.plan import Plan, make_plan
from agenttuning.training.prefixes import sort_items, tree

GRAIN = 4


@pytest.fixture(autouse=True)
def small_grain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefixes, "GRAIN", GRAIN)


def family(rng: np.random.Generator, count: int) -> list[tuple[list[int], list[bool]]]:
    """Items that branch off each other at random places, some of them equal; masks may differ where tokens agree."""
    found: list[tuple[list[int], list[bool]]] = []
    for _ in range(count):
        size = int(rng.integers(2, 30))
        ids, mask = rng.integers(0, VOCABULARY, size).tolist(), (rng.random(size) < 0.4).tolist()
        if found and rng.random() < 0.85:
            old_ids, old_mask = found[int(rng.integers(len(found)))]
            keep = int(rng.integers(1, len(old_ids) + 1))
            ids, mask = (old_ids[:keep] + ids)[:60], (old_mask[:keep] + mask)[:60]
            if rng.random() < 0.2:
                ids, mask = list(old_ids), list(old_mask)
            if rng.random() < 0.1:
                mask[int(rng.integers(len(mask)))] ^= True
        mask[0], mask[-1] = False, True
        found.append((ids, mask))
    return found


def table(rows: list[tuple[list[int], list[bool]]]) -> Items:
    ids, masks = [np.asarray(i) for i, _ in rows], [np.asarray(m) for _, m in rows]
    place, shared = sort_items(ids, masks)
    columns = {
        "id": [f"i{n}" for n in range(len(rows))],
        "ids": [i for i, _ in rows],
        "mask": [m for _, m in rows],
        "tokens": [len(i) for i, _ in rows],
        "supervised": [sum(m) for _, m in rows],
        "place": place,
        "shared": shared,
    }
    return Items("s", pa.table(columns))


def plan_of(items: Items, per_step: int, row_tokens: int, share: bool, steps: int = 3) -> Plan:
    """Every step trains what is drawn for it, with shared beginnings or without."""
    training = Training(steps=steps, items_per_step=per_step, row_tokens=row_tokens, share_prefixes=share)
    return replace(make_plan({"s": items.counts}, {"s": 1.0}, training, 0), looks_ahead=False)


def common(one: tuple[list[int], list[bool]], other: tuple[list[int], list[bool]]) -> int:
    pairs = list(zip(zip(*one, strict=True), zip(*other, strict=True), strict=False))
    return next((n for n, (a, b) in enumerate(pairs) if a != b), len(pairs))


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), count=st.integers(1, 14), chosen=st.integers(1, 20))
def test_any_choice_of_items_knows_what_its_neighbours_share(seed: int, count: int, chosen: int) -> None:
    rng = np.random.default_rng(seed)
    rows = family(rng, count)
    items = table(rows)
    picks = rng.integers(0, count, chosen)
    assert items.counts.prefixes is not None
    order, cuts = items.counts.prefixes.in_order(picks, items.counts.tokens[picks])
    assert sorted(order.tolist()) == list(range(chosen))
    assert cuts[0] == 0
    for number in range(1, chosen):
        one, other = picks[order[number - 1]], picks[order[number]]
        wanted = max(0, common(rows[one], rows[other]) - 1) // GRAIN * GRAIN
        longer = max(len(rows[one][0]), len(rows[other][0]))
        assert cuts[number] == (wanted if wanted >= prefixes.LEAST_SHARE * longer else 0)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), count=st.integers(1, 12), row_tokens=st.integers(60, 150))
def test_shared_rows_hold_every_item_once_and_its_beginning_above_it(seed: int, count: int, row_tokens: int) -> None:
    items = table(family(np.random.default_rng(seed), count))
    plan = plan_of(items, count + 3, row_tokens, share=True)
    separate = plan_of(items, count + 3, row_tokens, share=False)
    for number in range(plan.steps):
        step, plain = plan.step(number), separate.step(number)
        assert step.tokens == plain.tokens == plain.computed
        assert step.supervised == plain.supervised
        assert step.computed <= plain.computed
        whole: list[tuple[str, int]] = []
        for row in plan.rows(number):
            assert sum(s.tokens for s in row) <= row_tokens
            ends: list[list[int]] = []
            below = [0] * len(row)
            for place, segment in enumerate(row):
                ids, _ = items[segment.index]
                assert segment.parent is None or segment.parent < place
                above = [] if segment.parent is None else ends[segment.parent]
                assert len(above) == segment.start
                ends.append(above + ids[segment.start : segment.start + segment.tokens].tolist())
                assert ends[-1] == ids[: segment.start + segment.tokens].tolist()
                if segment.items == 1:
                    assert ends[-1] == ids.tolist()
                    whole.append((segment.source, segment.index))
            for place in reversed(range(len(row))):
                segment = row[place]
                below[place] += segment.items == 1
                assert below[place] == segment.items
                if segment.parent is not None:
                    below[segment.parent] += below[place]
        assert sorted(whole) == sorted(plan.draw.step(number))


def test_a_tree_saves_what_its_items_share() -> None:
    nodes = tree([20, 24, 30, 9], [0, 8, 16, 0])
    assert [(n.item, n.start, n.stop, n.items, n.parent) for n in nodes] == [
        (0, 0, 8, 3, None),
        (0, 8, 20, 1, 0),
        (1, 8, 16, 2, 0),
        (1, 16, 24, 1, 2),
        (2, 16, 30, 1, 2),
        (3, 0, 9, 1, None),
    ]


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000), count=st.integers(2, 10), row_tokens=st.sampled_from([60, 120, 600]))
def test_gradients_of_a_tree_are_those_of_the_separate_items(
    causal: Any, seed: int, count: int, row_tokens: int
) -> None:
    """In float64, with supervised tokens in what is shared, duplicates, and branches of branches."""
    items = table(family(np.random.default_rng(seed), count))
    found = []
    for share in (True, False):
        plan = plan_of(items, count + 2, row_tokens, share, steps=1)
        scale = 1 / plan.step(0).supervised
        found.append(trained(PackedCausalLM(causal, 16), [list(r) for r in plan.rows(0)], {"s": items}, scale))
    shared, separate = found
    assert shared["total"] == pytest.approx(separate["total"], rel=1e-10)
    assert float(shared["losses"].sum()) == pytest.approx(float(separate["losses"].sum()), rel=1e-10)
    for name, gradient in separate["grads"].items():
        error = (shared["grads"][name] - gradient).norm() / gradient.norm()
        assert error < 1e-6


def test_bfloat16_is_no_further_from_the_truth_in_a_tree_than_apart(causal: Any) -> None:
    """At most 1.1 times the error of the separate items, against float64."""
    rows = family(np.random.default_rng(3), 1)
    rng = np.random.default_rng(4)
    stem = rng.integers(0, VOCABULARY, 40).tolist()
    for _ in range(12):
        ids = stem + rng.integers(0, VOCABULARY, 20).tolist()
        rows.append((ids, [False] * 41 + [True] * 19))
    items = {"s": table(rows[1:])}
    low = type(causal)(causal.config).to(torch.bfloat16)
    low.load_state_dict(causal.state_dict())
    exact_model = type(causal)(causal.config).double()
    exact_model.load_state_dict(low.state_dict())
    for model in (low, exact_model):
        model.set_attn_implementation("segments")
    grads = {}
    for name, model, share in (("tree", low, True), ("apart", low, False), ("exact", exact_model, False)):
        plan = plan_of(items["s"], 12, 600, share, steps=1)
        assert (plan.step(0).computed < plan.step(0).tokens) is share
        scale = 1 / plan.step(0).supervised
        grads[name] = trained(PackedCausalLM(model, 4096), [list(r) for r in plan.rows(0)], items, scale)["grads"]

    def error(name: str) -> float:
        gaps = [(grads[name][n].double() - g).square().sum() for n, g in grads["exact"].items()]
        return float(torch.stack(gaps).sum().sqrt())

    assert error("tree") <= 1.1 * error("apart")


def test_what_is_shared_is_supervised_with_the_weight_of_its_items() -> None:
    stem, mask = list(range(20)), [False] * 10 + [True] * 10
    items = {"s": table([([*stem, 50 + n], [*mask, True]) for n in range(3)])}
    row = plan_of(items["s"], 3, 100, share=True, steps=1).rows(0)[0]
    batch = make_batch(row, items)
    assert batch.lengths == [16, 5, 5, 5]
    assert batch.parents == [None, 0, 0, 0]
    assert batch.position_ids[0].tolist() == [*range(16), *[16, 17, 18, 19, 20] * 3]
    assert batch.weights.sum() == 33
    assert batch.weights.tolist().count(3) == 7
    assert sorted(batch.targets.tolist())[-3:] == [50, 51, 52]


def test_items_that_share_nothing_are_packed_as_before() -> None:
    rng = np.random.default_rng(0)
    rows = [([n, *rng.integers(100, VOCABULARY, 20).tolist()], [False] * 20 + [True]) for n in range(30)]
    items = table(rows)
    shared, plain = (plan_of(items, 10, 100, share) for share in (True, False))
    for number in range(3):
        assert shared.rows(number) == plain.rows(number)
        assert all(s.parent is None for row in shared.rows(number) for s in row)


@pytest.mark.parametrize(("shared", "pays"), [(16, True), (12, False)])
def test_a_beginning_that_is_short_against_its_items_is_not_shared(shared: int, pays: bool) -> None:
    """Items of 256 tokens: a sixteenth of them is 16."""
    rng = np.random.default_rng(0)
    stem = list(range(shared + 1))
    ends = [rng.integers(100, VOCABULARY, 255 - shared).tolist() for _ in range(2)]
    ends[0][0], ends[1][0] = 50, 51
    items = table([(stem + end, [False] * 255 + [True]) for end in ends])
    step = plan_of(items, 2, 600, share=True, steps=1).step(0)
    assert step.tokens - step.computed == (shared if pays else 0)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), count=st.integers(2, 12), row_tokens=st.integers(60, 150))
def test_sharing_never_needs_more_rows_or_tokens_than_plain_packing(seed: int, count: int, row_tokens: int) -> None:
    items = table(family(np.random.default_rng(seed), count))
    shared, separate = (plan_of(items, count + 5, row_tokens, share) for share in (True, False))
    for number in range(shared.steps):
        assert len(shared.rows(number)) <= len(separate.rows(number))
        assert shared.step(number).computed <= separate.step(number).computed


def test_trees_that_would_need_another_row_are_packed_apart() -> None:
    """Six items of 33 tokens fill two rows of 99; pairs that share eight are trees of 58, of which a row holds one."""
    rng = np.random.default_rng(1)
    rows = []
    for first in (1, 2, 3):
        for second in (40, 41):
            rows.append(([first] * 9 + [second, *rng.integers(100, VOCABULARY, 23).tolist()], [False] * 32 + [True]))
    items = table(rows)
    apart, roomy = (plan_of(items, 6, size, share=True, steps=1).step(0) for size in (99, 120))
    assert apart.micro_steps == 2
    assert apart.computed == apart.tokens == 198
    assert roomy.micro_steps == 2
    assert roomy.computed == 3 * 58
