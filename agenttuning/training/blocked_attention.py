"""Causal attention of one segment, and to what it continues, from matrix products, for bfloat16 on a CPU.

PyTorch's CPU flash kernel multiplies in small tiles that cannot use the CPU's bfloat16 units; whole products can.
Queries go in blocks of 256, so that keys of the future are mostly never touched, and query heads that share a
key-value head are one product. Scores are rounded to bfloat16 as in transformers' `eager` attention, softmax is
computed in float32. The weights are kept for the backward pass, so memory grows with the square of the length: longer
segments than `LONGEST` belong to the flash kernel.
"""

from collections.abc import Callable
from typing import Any

import torch

BLOCK = 256
"""Queries of one block."""

LONGEST = 2048
"""The weights are kept for at most this squared of queries times keys: 4 MB per head and layer."""


def blocked_attention(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float) -> torch.Tensor:
    """Attend causally.

    Args:
        query: [1, heads, tokens, head size].
        key: [1, key-value heads, keys, head size]; the heads divide evenly among them. The last keys are those of the
            queries' own tokens; all before are seen by every query.
        value: the same shape as `key`.
        scale: of the scores.

    Returns:
        [1, tokens, heads, head size].
    """
    apply: Callable[..., torch.Tensor] = _Blocked.apply
    return apply(query, key, value, scale)


class _Blocked(torch.autograd.Function):
    """Shapes: K key-value heads, G query heads for each, S tokens, D head size, n queries that see e keys."""

    @staticmethod
    def forward(ctx: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float) -> torch.Tensor:
        heads, size, width = query.shape[1:]
        groups = key.shape[1]
        shared = heads // groups
        seen = key.shape[2] - size
        q = query.reshape(groups, shared, size, width)
        k, v = key[0].contiguous(), value[0].contiguous()
        out = query.new_empty(size, groups, shared, width)
        kept = []
        for start, end in _blocks(size):
            n, e = end - start, seen + end
            block = q[:, :, start:end].reshape(groups, shared * n, width)
            scores = torch.bmm(block, k[:, :e].transpose(1, 2)).mul_(scale).view(groups, shared, n, e)
            scores[..., seen + start :] += query.new_full((n, n), float("-inf")).triu_(1)
            weights = torch.softmax(scores, -1).view(groups, shared * n, e)
            attended = torch.bmm(weights, v[:, :e]).view(groups, shared, n, width)
            out[start:end] = attended.permute(2, 0, 1, 3)
            kept += [block, weights]
        ctx.save_for_backward(k, v, *kept)
        ctx.scale = scale
        return out.view(1, size, heads, width)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, None]:
        k, v, *kept = ctx.saved_tensors
        groups, keys, width = k.shape
        size, heads = gradients[0].shape[1:3]
        shared = heads // groups
        grad = gradients[0][0].view(size, groups, shared, width).permute(1, 2, 0, 3)
        grad_q = k.new_empty(groups, shared, size, width)
        # Blocks add up here, so these two sums are kept in float32.
        grad_k = k.new_zeros(k.shape, dtype=torch.float32)
        grad_v = grad_k.clone()
        for number, (start, end) in enumerate(_blocks(size)):
            n, e = end - start, keys - size + end
            block, weights = kept[2 * number : 2 * number + 2]
            out = grad[:, :, start:end].reshape(groups, shared * n, width)
            grad_v[:, :e] += torch.bmm(weights.transpose(1, 2), out)
            grad_weights = torch.bmm(out, v[:, :e].transpose(1, 2))
            scores = torch._softmax_backward_data(grad_weights, weights, -1, weights.dtype).mul_(ctx.scale)
            grad_q[:, :, start:end] = torch.bmm(scores, k[:, :e]).view(groups, shared, n, width)
            grad_k[:, :e] += torch.bmm(scores.transpose(1, 2), block)
        return grad_q.view(1, heads, size, width), grad_k.to(k.dtype)[None], grad_v.to(v.dtype)[None], None


def _blocks(size: int) -> list[tuple[int, int]]:
    return [(start, min(start + BLOCK, size)) for start in range(0, size, BLOCK)]
