import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import scaled_dot_product_attention

from agenttuning.errors import ConfigurationError
from agenttuning.training import attention
from agenttuning.training.attention import attention_arguments, segment_attention
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


def test_flash_attention_gets_cumulative_lengths_and_plain_numbers() -> None:
    told = attention_arguments([3, 5, 2], "flash_attention_2", "cpu")
    assert told["cu_seq_lens_q"].tolist() == [0, 3, 8, 10]
    assert told["cu_seq_lens_q"].dtype == torch.int32
    assert (told["max_length_q"], told["max_length_k"]) == (5, 5)
