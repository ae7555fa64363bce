from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_runs import VOCABULARY
from torch import nn
from torch.nn.functional import cross_entropy

from agenttuning.errors import ConfigurationError, DataError
from agenttuning.training.attention import attention_arguments
from agenttuning.training.batch import Items, make_batch
from agenttuning.training.loss import LossHead, PackedCausalLM
from agenttuning.training.rows import Segment


class Config:
    """The keys of a model's config that bend logits."""

    def __init__(self, **keys: float) -> None:
        self.__dict__.update(keys)


def items_of(lengths: list[int], seed: int = 0) -> tuple[dict[str, Items], list[Segment]]:
    rng = np.random.default_rng(seed)
    rows = []
    for number, size in enumerate(lengths):
        mask = rng.random(size) < 0.5
        mask[0], mask[-1] = False, True
        rows.append({"id": f"i{number}", "source": "s", "ids": rng.integers(0, VOCABULARY, size).tolist(),
                     "mask": mask.tolist(), "tokens": size, "supervised": int(mask.sum()), "place": number,
                     "shared": 0})  # fmt: skip
    segments = [Segment("s", n, r["tokens"], r["supervised"]) for n, r in enumerate(rows)]
    return {"s": Items("s", pa.Table.from_pylist(rows))}, segments


def trained(model: PackedCausalLM, rows: list[list[Segment]], items: dict[str, Items], scale: float) -> dict[str, Any]:
    """The summed loss, every token's loss and the gradients of some rows."""
    model.zero_grad()
    total, losses = 0.0, []
    for row in rows:
        batch = make_batch(tuple(row), items)
        told = attention_arguments(batch.lengths, batch.parents, "segments", "cpu")
        part, each = model(**batch.inputs("cpu"), scale=scale, attention=told)
        part.backward()
        total += part.item()
        losses.append(each)
    grads = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    return {"total": total, "losses": torch.cat(losses), "grads": grads}


@settings(max_examples=12, deadline=None)
@given(lengths=st.lists(st.integers(2, 30), min_size=2, max_size=6), chunk=st.integers(1, 40), seed=st.integers(0, 99))
def test_packed_and_unpacked_rows_give_one_loss_and_one_gradient(
    causal: Any, lengths: list[int], chunk: int, seed: int
) -> None:
    """In float64: all items in one row against one row each, whatever the chunks."""
    items, segments = items_of(lengths, seed)
    scale = 1 / sum(s.supervised for s in segments)
    packed = trained(PackedCausalLM(causal, chunk), [segments], items, scale)
    alone = trained(PackedCausalLM(causal, 4096), [[s] for s in segments], items, scale)
    torch.testing.assert_close(packed["losses"], alone["losses"], rtol=1e-8, atol=1e-8)
    assert packed["total"] == pytest.approx(alone["total"], rel=1e-12)
    assert packed["grads"].keys() == alone["grads"].keys()
    for name, gradient in alone["grads"].items():
        torch.testing.assert_close(packed["grads"][name], gradient, rtol=1e-8, atol=1e-11)


def test_the_loss_is_that_of_the_model_on_each_item_alone(causal: Any) -> None:
    """Against transformers' own logits and PyTorch's own cross entropy, token by token."""
    items, segments = items_of([9, 17, 5])
    found = trained(PackedCausalLM(causal, 7), [segments], items, 1.0)
    expected = []
    for segment in segments:
        ids, mask = (torch.from_numpy(x) for x in items["s"][segment.index])
        logits = causal(input_ids=ids[None], attention_mask=None).logits[0]
        wanted = torch.where(mask, ids, -100)[1:]
        each = cross_entropy(logits[:-1], wanted, reduction="none", ignore_index=-100)
        expected.append(each[wanted != -100])
    torch.testing.assert_close(found["losses"], torch.cat(expected).detach(), rtol=1e-10, atol=1e-10)
    assert len(found["losses"]) == sum(s.supervised for s in segments)


@settings(max_examples=30, deadline=None)
@given(rows=st.integers(1, 600), chunk=st.integers(1, 700), cap=st.sampled_from([None, 3.0]), bias=st.booleans())
def test_the_head_gives_the_gradients_of_autograd(rows: int, chunk: int, cap: float | None, bias: bool) -> None:
    torch.manual_seed(rows)
    head = nn.Linear(8, 31, bias=bias).double()
    states = torch.randn(rows, 8, dtype=torch.float64, requires_grad=True)
    targets = torch.randint(0, 31, (rows,))
    config = Config(final_logit_softcapping=cap, logit_scale=1.5) if cap else Config()
    weights = torch.randint(1, 4, (rows,)).float()
    total, losses = LossHead(head, config, chunk)(states, targets, weights, 0.25)
    total.backward()
    mine = [states.grad, head.weight.grad, head.bias.grad if bias else None]
    states.grad, head.weight.grad = None, None
    if bias:
        head.bias.grad = None
    logits = head(states) * (1.5 if cap else 1.0)
    bent = torch.tanh(logits / cap) * cap if cap else logits
    each = cross_entropy(bent, targets, reduction="none") * weights
    (each.sum() * 0.25).backward()
    torch.testing.assert_close(losses, each.detach())
    for found, wanted in zip(mine, [states.grad, head.weight.grad, head.bias.grad if bias else None], strict=True):
        torch.testing.assert_close(found, wanted)


def test_bfloat16_logits_are_summed_in_float32() -> None:
    torch.manual_seed(0)
    head = nn.Linear(16, 5000, bias=False).bfloat16()
    states = torch.randn(50, 16).bfloat16()
    targets = torch.randint(0, 5000, (50,))
    _, losses = LossHead(head, Config(), 4096)(states, targets, torch.ones(50), 1.0)
    assert losses.dtype == torch.float32
    exact = cross_entropy(head(states).double(), targets, reduction="none")
    torch.testing.assert_close(losses.double(), exact, rtol=1e-5, atol=1e-5)


def test_labels_stay_in_their_segment_and_positions_restart() -> None:
    items, segments = items_of([4, 6])
    batch = make_batch(tuple(segments), items)
    assert batch.position_ids.tolist() == [[0, 1, 2, 3, 0, 1, 2, 3, 4, 5]]
    assert 3 not in batch.positions, "the last token of a segment predicts nothing"
    for position, target in zip(batch.positions.tolist(), batch.targets.tolist(), strict=True):
        assert batch.input_ids[0, position + 1] == target
    assert len(batch.targets) == sum(s.supervised for s in segments)


def test_an_empty_row_adds_nothing(causal: Any) -> None:
    items, segments = items_of([6])
    model = PackedCausalLM(causal, 64)
    without = trained(model, [segments], items, 0.5)
    batch = make_batch((), items)
    total, _ = model(**batch.inputs("cpu"), scale=0.0, attention=attention_arguments([2], [None], "segments", "cpu"))
    total.backward()
    assert total.item() == 0
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter.grad, without["grads"][name])


def test_an_item_whose_mask_is_not_what_the_plan_says_is_named() -> None:
    items, segments = items_of([6])
    wrong = Segment("s", 0, 6, segments[0].supervised + 1)
    with pytest.raises(DataError, match="item i0 of s"):
        make_batch((wrong,), items)


def test_a_table_without_its_columns_is_refused() -> None:
    with pytest.raises(DataError, match="lacks ids, mask, place, shared"):
        Items("s", pa.table({"id": ["a"], "tokens": [1], "supervised": [1]}))


def test_a_model_without_a_linear_head_is_refused() -> None:
    class Headless:
        base_model = None
        config = Config()

        def get_output_embeddings(self) -> None:
            return None

    with pytest.raises(ConfigurationError, match="Headless"):
        PackedCausalLM(Headless(), 64)
