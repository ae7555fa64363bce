"""Attention over packed rows without cross-talk: each segment attends to itself alone.

`segments` is registered with transformers' `AttentionInterface` under a name that has no mask function, so models
build no mask at all; the kernel reads where segments begin from `segment_lengths`. It is one SDPA call per segment,
except in bfloat16 on a CPU, where a blocked kernel on matrix products is two to three times as fast. Flash-attention
gets the same facts as cumulative lengths, given as Python numbers where it wants numbers, so no layer has to ask the
device. Sliding windows, soft caps and attention sinks are refused, not ignored.
"""

from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention

from agenttuning.errors import ConfigurationError
from agenttuning.training.blocked_attention import LONGEST, blocked_attention

SEGMENTS = "segments"
"""Name under which the kernel is registered."""

_REFUSED = ("softcap", "s_aux", "position_bias")


def register_segments() -> None:
    """Make `attn_implementation="segments"` known to transformers. Safe to call again."""
    from transformers import AttentionInterface

    AttentionInterface.register(SEGMENTS, segment_attention)


def attention_arguments(lengths: list[int], implementation: str, device: str) -> dict[str, Any]:
    """Return what a packed row's forward pass hands every attention layer.

    Args:
        lengths: tokens of each segment of the row, in order.
        implementation: as `Numerics.attention` names it.
        device: where the row lies.
    """
    if implementation == SEGMENTS:
        return {"segment_lengths": lengths}
    ends = torch.tensor([0, *lengths], dtype=torch.int32).cumsum(0, dtype=torch.int32).to(device)
    longest = max(lengths)
    return {"cu_seq_lens_q": ends, "cu_seq_lens_k": ends, "max_length_q": longest, "max_length_k": longest}


def segment_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    segment_lengths: list[int] | None = None,
    sliding_window: int | None = None,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """Attend causally within each segment.

    Args:
        module: the attention layer, as transformers passes it.
        query: [1, heads, tokens, head size].
        key: [1, key-value heads, tokens, head size].
        value: the same shape as `key`.
        attention_mask: must be None.
        scaling: of the scores; None: one over the root of the head size.
        dropout: of the attention weights.
        segment_lengths: tokens of each segment; None: the row is one segment.
        sliding_window: the layer's window, allowed where no segment is longer.
        others: what other layers need; refused where it would change the result.

    Returns:
        [1, tokens, heads, head size], and None for the weights.

    Raises:
        ConfigurationError: the model needs attention that this kernel does not compute.
    """
    lengths = segment_lengths or [query.shape[2]]
    refused = [name for name in _REFUSED if others.get(name) is not None]
    if sliding_window is not None and max(lengths) > sliding_window:
        refused.append(f"a sliding window of {sliding_window} below a segment of {max(lengths)} tokens")
    if attention_mask is not None:
        refused.append("an attention mask")
    if query.shape[0] != 1 or sum(lengths) != query.shape[2]:
        refused.append(f"a batch of {query.shape[0]} rows with segments of {sum(lengths)} in {query.shape[2]} tokens")
    if refused:
        raise ConfigurationError(
            f"training.attention=segments cannot compute {', '.join(refused)} (layer {type(module).__name__}); "
            "train this model on a GPU with training.attention=flash_attention_2"
        )
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    blocked = query.device.type == "cpu" and query.dtype == torch.bfloat16 and dropout == 0.0
    parts = zip(*(torch.split(whole, lengths, 2) for whole in (query, key, value)), strict=True)
    out = []
    for q, k, v in parts:
        if blocked and q.shape[2] <= LONGEST:
            out.append(blocked_attention(q, k, v, scale))
        else:
            grouped = q.shape[1] != k.shape[1]
            attended = scaled_dot_product_attention(
                q, k, v, dropout_p=dropout, is_causal=True, scale=scale, enable_gqa=grouped
            )
            out.append(attended.transpose(1, 2))
    return torch.cat(out, 1), None
