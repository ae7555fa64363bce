"""Packed attention on a GPU: all segments of a row in one call of a variable-length kernel.

A segment that continues others has more keys than queries: those of the segments above, then its own. So keys and
values are gathered in that order, and the kernel gets cumulative lengths of both; its causal mask is aligned with the
last key, which is each segment's own. Where nothing is shared nothing is gathered. The lengths are given as Python
numbers where the kernel wants numbers, so that no layer has to ask the device.
"""

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

KERNELS = {
    "flash_attention_4": "flash_attn.cute",
    "flash_attention_3": "flash_attn_interface",
    "flash_attention_2": "flash_attn",
    "varlen": "torch.nn.attention.varlen",
}
"""Kernels and the modules that hold them, the best first."""


@dataclass(frozen=True)
class Layout:
    """Where the segments of a row lie.

    Attributes:
        tokens: of the row.
        longest_query: tokens of the longest segment.
        longest_key: tokens of the longest segment with all that it continues.
        query_ends: cumulative tokens of the segments, int32 [segments + 1].
        key_ends: cumulative keys, int32 [segments + 1].
        keys: for each key its place in the row, int64 [keys]; None: the row's own tokens in order.
    """

    tokens: int
    longest_query: int
    longest_key: int
    query_ends: torch.Tensor
    key_ends: torch.Tensor
    keys: torch.Tensor | None


def installed() -> list[str]:
    """Return the kernels that can be imported here, the best first; imports what is installed."""
    return [kernel for kernel in KERNELS if _found(kernel)]


def layout(lengths: Sequence[int], parents: Sequence[int | None], device: str) -> Layout:
    """Lay out a row.

    Args:
        lengths: tokens of each segment.
        parents: for each segment the one that it continues, if any; it stands before.
        device: where the tensors go.
    """
    starts = [0, *torch.tensor(lengths).cumsum(0).tolist()]
    places: list[torch.Tensor] = []
    for number, parent in enumerate(parents):
        own = torch.arange(starts[number], starts[number + 1])
        places.append(own if parent is None else torch.cat([places[parent], own]))
    keys = [len(place) for place in places]
    shared = any(parent is not None for parent in parents)
    return Layout(
        starts[-1],
        max(lengths),
        max(keys),
        torch.tensor(starts, dtype=torch.int32, device=device),
        torch.tensor([0, *keys]).cumsum(0).to(torch.int32).to(device),
        torch.cat(places).to(device) if shared else None,
    )


def varlen(
    kernel: str, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, row: Layout, scale: float
) -> torch.Tensor:
    """Attend causally within segments and to all that they continue.

    Args:
        kernel: out of `KERNELS`.
        query: [1, heads, tokens, head size].
        key: [1, key-value heads, tokens, head size].
        value: the same shape as `key`.
        row: where the segments lie.
        scale: of the scores.

    Returns:
        [1, tokens, heads, head size].
    """
    q, k, v = (whole[0].transpose(0, 1) for whole in (query, key, value))
    if row.keys is not None:
        k, v = k.index_select(0, row.keys), v.index_select(0, row.keys)
    lengths = (row.query_ends, row.key_ends, row.longest_query, row.longest_key)
    return _call(kernel)(q, k, v, lengths, scale)[None]


def _call(kernel: str) -> Callable[..., torch.Tensor]:
    if kernel == "varlen":
        from torch.nn.attention.varlen import varlen_attn

        def torch_kernel(q: Any, k: Any, v: Any, lengths: Any, scale: float) -> torch.Tensor:
            grouped = q.shape[1] != k.shape[1]
            out = varlen_attn(q, k, v, *lengths, scale=scale, window_size=(-1, 0), enable_gqa=grouped)
            return out[0] if isinstance(out, tuple) else out

        return torch_kernel
    function = importlib.import_module(KERNELS[kernel]).flash_attn_varlen_func

    def flash(q: Any, k: Any, v: Any, lengths: Any, scale: float) -> torch.Tensor:
        names = ("cu_seqlens_q", "cu_seqlens_k", "max_seqlen_q", "max_seqlen_k")
        out = function(q, k, v, **dict(zip(names, lengths, strict=True)), softmax_scale=scale, causal=True)
        attended: torch.Tensor = out[0] if isinstance(out, tuple) else out
        return attended

    return flash


def _found(kernel: str) -> bool:
    name = "varlen_attn" if kernel == "varlen" else "flash_attn_varlen_func"
    # A package may lack the kernel or what it needs, and a C extension of another PyTorch raises anything on import.
    try:
        return hasattr(importlib.import_module(KERNELS[kernel]), name)
    except Exception:
        return False
