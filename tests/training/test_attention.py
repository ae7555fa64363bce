import random
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import scaled_dot_product_attention

from agenttuning.errors import ConfigurationError
from agenttuning.training import attention, varlen_attention
from agenttuning.training.attention import attention_arguments, packed_attention, segment_attention
from agenttuning.training.blocked_attention import blocked_attention

LAYER = torch.nn.Identity()


def heads(tokens: int, dtype: torch.dtype, query_heads: int = 6, groups: int = 2, seed: int = 0) -> list[torch.Tensor]:
    torch.manual_seed(seed)
    shapes = [(1, query_heads, tokens, 16), (1, groups, tokens, 16), (1, groups, tokens, 16)]
    return [torch.randn(shape, dtype=dtype).requires_grad_() for shape in shapes]


def grads(out: torch.Tensor, inputs: list[torch.Tensor]) -> list[torch.Tensor]:
    torch.manual_seed(9)
    weights = torch.randn(out.shape).bfloat16().to(out.dtype)
    return list(torch.autograd.grad((out * weights).sum(), inputs))


@settings(max_examples=25, deadline=None)
@given(lengths=st.lists(st.integers(1, 12), min_size=1, max_size=5))
def test_a_packed_row_attends_as_its_segments_do_alone(lengths: list[int]) -> None:
    inputs = heads(sum(lengths), torch.float64)
    packed, _ = segment_attention(LAYER, *inputs, None, segment_lengths=lengths)
    parts = zip(*(torch.split(x, lengths, 2) for x in inputs), strict=True)
    alone = [
        scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True).transpose(1, 2) for q, k, v in parts
    ]
    torch.testing.assert_close(packed, torch.cat(alone, 1), rtol=1e-12, atol=1e-12)


def test_no_gradient_crosses_a_segment() -> None:
    query, key, value = heads(10, torch.float64)
    out, _ = segment_attention(LAYER, query, key, value, None, segment_lengths=[4, 6])
    found = torch.autograd.grad(out[:, 4:].sum(), [query, key, value])
    for gradient in found:
        assert gradient[:, :, :4].abs().max() == 0
    assert found[2][:, :, 4:].abs().min() > 0


@pytest.mark.parametrize("tokens", [1, 7, 256, 257, 600])
@pytest.mark.parametrize(("query_heads", "groups"), [(6, 2), (3, 3), (4, 1)])
def test_the_blocked_kernel_is_exact(tokens: int, query_heads: int, groups: int) -> None:
    inputs = heads(tokens, torch.float64, query_heads, groups)
    blocked = blocked_attention(*inputs, 0.3)
    exact = scaled_dot_product_attention(*inputs, is_causal=True, scale=0.3, enable_gqa=True).transpose(1, 2)
    torch.testing.assert_close(blocked, exact, rtol=1e-10, atol=1e-10)
    for mine, wanted in zip(grads(blocked, inputs), grads(exact, inputs), strict=True):
        # Sums over blocks are kept in float32.
        torch.testing.assert_close(mine, wanted, rtol=1e-5, atol=1e-5)


def test_the_blocked_kernel_in_bfloat16_is_about_as_near_as_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    """On the inputs as bfloat16 holds them, both kernels are within 1 % of the exact result."""
    inputs = heads(300, torch.bfloat16)
    exact = [x.detach().double().requires_grad_() for x in inputs]
    wanted = scaled_dot_product_attention(*exact, is_causal=True, enable_gqa=True).transpose(1, 2)
    goal = [wanted.detach(), *grads(wanted, exact)]
    errors = []
    for longest in (0, 4096):
        monkeypatch.setattr(attention, "LONGEST", longest)
        out, _ = segment_attention(LAYER, *inputs, None)
        pairs = zip([out.detach(), *grads(out, inputs)], goal, strict=True)
        errors.append(max(float((a.double() - b).norm() / b.norm()) for a, b in pairs))
    assert max(errors) < 0.011
    assert errors[0] != errors[1], "two kernels ran"


def test_rows_without_segment_lengths_are_one_segment() -> None:
    inputs = heads(9, torch.float64)
    whole, _ = segment_attention(LAYER, *inputs, None)
    same, _ = segment_attention(LAYER, *inputs, None, segment_lengths=[9])
    assert torch.equal(whole, same)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"softcap": 30.0}, "softcap"),
        ({"sliding_window": 5}, "sliding window of 5"),
        ({"segment_lengths": [4, 4]}, "segments of 8 in 9 tokens"),
        ({"s_aux": torch.zeros(2)}, "s_aux"),
    ],
)
def test_what_the_kernel_cannot_compute_is_refused_by_name(changes: dict[str, object], named: str) -> None:
    with pytest.raises(ConfigurationError, match=named):
        segment_attention(LAYER, *heads(9, torch.float32), None, **changes)  # type: ignore[arg-type]


def test_a_window_no_shorter_than_every_segment_changes_nothing() -> None:
    inputs = heads(9, torch.float64)
    free, _ = segment_attention(LAYER, *inputs, None, segment_lengths=[5, 4])
    windowed, _ = segment_attention(LAYER, *inputs, None, segment_lengths=[5, 4], sliding_window=5)
    assert torch.equal(free, windowed)


def a_tree(rng: random.Random) -> tuple[list[int], list[int | None]]:
    """Lengths of a row's segments, and which one each of them continues."""
    parents: list[int | None] = []
    for number in range(rng.randint(1, 7)):
        parents.append(rng.choice([None, *range(number)]) if number else None)
    return [rng.randint(1, 9) for _ in parents], parents


def each_whole(row: torch.Tensor, lengths: list[int], parents: list[int | None]) -> list[torch.Tensor]:
    """For each segment its tokens behind those of all that it continues."""
    ends: list[torch.Tensor] = []
    for part, parent in zip(torch.split(row, lengths, 2), parents, strict=True):
        ends.append(part if parent is None else torch.cat([ends[parent], part], 2))
    return ends


@settings(max_examples=40, deadline=None)
@given(rng=st.randoms(use_true_random=False))
def test_a_segment_attends_to_itself_and_to_all_that_it_continues(rng: random.Random) -> None:
    lengths, parents = a_tree(rng)
    inputs = heads(sum(lengths), torch.float64)
    row, _ = segment_attention(LAYER, *inputs, None, segment_lengths=lengths, segment_parents=parents)
    wholes = [each_whole(x, lengths, parents) for x in inputs]
    wanted = []
    for q, k, v, length in zip(*wholes, lengths, strict=True):
        alone = scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True).transpose(1, 2)
        wanted.append(alone[:, -length:])
    torch.testing.assert_close(row, torch.cat(wanted, 1), rtol=1e-12, atol=1e-12)
    for mine, theirs in zip(grads(row, inputs), grads(torch.cat(wanted, 1), inputs), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize(("tokens", "above"), [(1, 5), (7, 300), (256, 1), (300, 257)])
def test_the_blocked_kernel_is_exact_behind_a_shared_beginning(tokens: int, above: int) -> None:
    query, key, value = heads(tokens + above, torch.float64)
    whole = scaled_dot_product_attention(query, key, value, is_causal=True, scale=0.3, enable_gqa=True)
    wanted = whole.transpose(1, 2)[:, above:]
    mine = blocked_attention(query[:, :, above:], key, value, 0.3)
    torch.testing.assert_close(mine, wanted, rtol=1e-10, atol=1e-10)
    inputs = [query, key, value]
    for found, exact in zip(grads(mine, inputs), grads(wanted, inputs), strict=True):
        torch.testing.assert_close(found, exact, rtol=1e-5, atol=1e-5)


def reference_varlen(q: Any, k: Any, v: Any, lengths: Any, scale: float) -> torch.Tensor:
    """What variable-length kernels compute: per segment, causal, aligned with the last key."""
    out = []
    for number in range(len(lengths[0]) - 1):
        (a, b), (c, d) = (ends[number : number + 2].tolist() for ends in lengths[:2])
        mask = torch.ones(b - a, d - c, dtype=torch.bool).tril(d - c - (b - a))
        parts = (x.transpose(0, 1)[None] for x in (q[a:b], k[c:d], v[c:d]))
        out.append(scaled_dot_product_attention(*parts, mask, scale=scale, enable_gqa=True)[0].transpose(0, 1))
    assert lengths[2:] == (int(lengths[0].diff().max()), int(lengths[1].diff().max()))
    assert {ends.dtype for ends in lengths[:2]} == {torch.int32}
    return torch.cat(out)


@settings(max_examples=25, deadline=None)
@given(rng=st.randoms(use_true_random=False))
def test_one_varlen_call_gives_what_the_segments_give(rng: random.Random) -> None:
    """The kernel itself needs a GPU; what it is told is checked with one that computes by its definition."""
    lengths, parents = a_tree(rng)
    inputs = heads(sum(lengths), torch.float64)
    told = attention_arguments(lengths, parents, "flash_attention_2", "cpu")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(varlen_attention, "_call", lambda kernel: reference_varlen)
        packed, _ = packed_attention(LAYER, *inputs, None, kernel="flash_attention_2", **told)
    row, _ = segment_attention(LAYER, *inputs, None, segment_lengths=lengths, segment_parents=parents)
    torch.testing.assert_close(packed, row, rtol=1e-10, atol=1e-10)


def test_rows_without_shared_beginnings_gather_no_keys() -> None:
    row = attention_arguments([3, 5, 2], [None] * 3, "varlen", "cpu")["packed_layout"]
    assert row.keys is None
    assert row.query_ends.tolist() == row.key_ends.tolist() == [0, 3, 8, 10]
    assert (row.longest_query, row.longest_key) == (5, 5)


def test_pytorch_brings_a_kernel_for_gpus_and_transformers_builds_no_mask_for_it() -> None:
    from transformers import AttentionInterface
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

    attention.register_attention()
    assert "varlen" in varlen_attention.installed()
    for kernel in [attention.SEGMENTS, *varlen_attention.KERNELS]:
        name = attention.implementation_of(kernel)
        assert name in AttentionInterface().valid_keys()
        assert name not in ALL_MASK_ATTENTION_FUNCTIONS.valid_keys()
        assert "flash" not in name
