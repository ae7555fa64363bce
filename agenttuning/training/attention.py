"""Attention over packed rows without cross-talk: each segment attends to itself and to the segments it continues.

`segments` is registered with transformers' `AttentionInterface` under a name that has no mask function, so models
build no mask at all; the kernel reads where segments begin from `segment_lengths`, and which one each continues from
`segment_parents`. It is one SDPA call per segment, except in bfloat16 on a CPU, where a blocked kernel on matrix
products is two to three times as fast. On a GPU all segments of a row are one call of a variable-length kernel (see
`varlen_attention`). Sliding windows, soft caps and attention sinks are refused, not ignored.
"""

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention

from agenttuning.errors import ConfigurationError
from agenttuning.training.blocked_attention import LONGEST, blocked_attention
from agenttuning.training.varlen_attention import KERNELS, Layout, layout, varlen

SEGMENTS = "segments"
"""Name under which the kernel for CPUs is registered."""
Parents = Sequence[int | None]

_REFUSED = ("softcap", "s_aux", "position_bias")


def register_attention() -> None:
    """Make the kernels known to transformers. Safe to call again."""
    from transformers import AttentionInterface

    AttentionInterface.register(SEGMENTS, segment_attention)
    for kernel in KERNELS:
        AttentionInterface.register(implementation_of(kernel), functools.partial(packed_attention, kernel=kernel))


def implementation_of(attention: str) -> str:
    """Return the name by which transformers finds a kernel of `Numerics.attention`."""
    # transformers takes every name with "flash" in it for its own.
    return attention if attention == SEGMENTS else "packed_" + attention.replace("flash_attention_", "fa")


def attention_arguments(lengths: list[int], parents: Parents, attention: str, device: str) -> dict[str, Any]:
    """Return what a packed row's forward pass hands every attention layer.

    Args:
        lengths: tokens of each segment of the row, in order.
        parents: for each segment the one that it continues, if any; it stands before.
        attention: as `Numerics.attention` names it.
        device: where the row lies.
    """
    if attention == SEGMENTS:
        return {"segment_lengths": lengths, "segment_parents": parents}
    return {"packed_layout": layout(lengths, parents, device)}


def packed_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    kernel: str,
    scaling: float | None = None,
    dropout: float = 0.0,
    packed_layout: Layout | None = None,
    sliding_window: int | None = None,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """Attend as `segment_attention` does, all segments in one call of a variable-length kernel; see there."""
    row = packed_layout or layout([query.shape[2]], [None], str(query.device))
    refused = _refusals(query, row.tokens, row.longest_key, attention_mask, sliding_window, others)
    if dropout:
        refused.append(f"attention dropout of {dropout}")
    _refuse(refused, module, kernel)
    return varlen(kernel, query, key, value, row, _scale(query, scaling)), None


def segment_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    segment_lengths: list[int] | None = None,
    segment_parents: Parents | None = None,
    sliding_window: int | None = None,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """Attend causally within each segment, and to all of the segments that it continues.

    Args:
        module: the attention layer, as transformers passes it.
        query: [1, heads, tokens, head size].
        key: [1, key-value heads, tokens, head size].
        value: the same shape as `key`.
        attention_mask: must be None.
        scaling: of the scores; None: one over the root of the head size.
        dropout: of the attention weights.
        segment_lengths: tokens of each segment; None: the row is one segment.
        segment_parents: for each segment the one that it continues, if any; None: none does.
        sliding_window: the layer's window, allowed where no segment is longer.
        others: what other layers need; refused where it would change the result.

    Returns:
        [1, tokens, heads, head size], and None for the weights.

    Raises:
        ConfigurationError: the model needs attention that this kernel does not compute.
    """
    lengths = segment_lengths or [query.shape[2]]
    parents = segment_parents or [None] * len(lengths)
    refused = _refusals(query, sum(lengths), _longest(lengths, parents), attention_mask, sliding_window, others)
    _refuse(refused, module, SEGMENTS)
    scale = _scale(query, scaling)
    blocked = query.device.type == "cpu" and query.dtype == torch.bfloat16 and dropout == 0.0
    above = {parent for parent in parents if parent is not None}
    ends: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
    out = []
    queries, keys, values = (torch.split(whole, lengths, 2) for whole in (query, key, value))
    for number, (q, k, v, parent) in enumerate(zip(queries, keys, values, parents, strict=True)):
        if parent is not None:
            k, v = (torch.cat(pair, 2) for pair in zip(ends[parent], (k, v), strict=True))
        if number in above:
            ends[number] = (k, v)
        if blocked and q.shape[2] * k.shape[2] <= LONGEST**2:
            out.append(blocked_attention(q, k, v, scale))
        else:
            out.append(_sdpa(q, k, v, scale, dropout))
    return torch.cat(out, 1), None


def _sdpa(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float, dropout: float) -> torch.Tensor:
    """Attend causally where the queries are the last of the keys."""
    size, all_keys = query.shape[2], key.shape[2]
    # `is_causal` aligns fewer queries with the first keys, not the last.
    mask = None
    if size < all_keys:
        mask = torch.ones(size, all_keys, dtype=torch.bool, device=query.device).tril(all_keys - size)
    attended = scaled_dot_product_attention(
        query,
        key,
        value,
        mask,
        dropout,
        is_causal=mask is None,
        scale=scale,
        enable_gqa=query.shape[1] != key.shape[1],
    )
    return attended.transpose(1, 2)


def _longest(lengths: Sequence[int], parents: Parents) -> int:
    """Return the tokens of the longest item: of a segment and all it continues."""
    ends: list[int] = []
    for length, parent in zip(lengths, parents, strict=True):
        ends.append(length + (0 if parent is None else ends[parent]))
    return max(ends)


def _scale(query: torch.Tensor, scaling: float | None) -> float:
    return query.shape[-1] ** -0.5 if scaling is None else scaling


def _refusals(
    query: torch.Tensor,
    tokens: int,
    longest: int,
    mask: torch.Tensor | None,
    window: int | None,
    others: dict[str, Any],
) -> list[str]:
    refused = [name for name in _REFUSED if others.get(name) is not None]
    if window is not None and longest > window:
        refused.append(f"a sliding window of {window} below an item of {longest} tokens")
    if mask is not None:
        refused.append("an attention mask")
    if query.shape[0] != 1 or tokens != query.shape[2]:
        refused.append(f"a batch of {query.shape[0]} rows with segments of {tokens} in {query.shape[2]} tokens")
    return refused


def _refuse(refused: list[str], module: torch.nn.Module, kernel: str) -> None:
    if refused:
        raise ConfigurationError(
            f"training.attention={kernel} cannot compute {', '.join(refused)} (layer {type(module).__name__}); "
            "train another model, or one whose window is at least mixture.max_length"
        )
