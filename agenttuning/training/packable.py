"""Whether a model can be trained on packed rows: refused by what it says of itself, then by trying it.

A model that carries a state from token to token, mixes neighbours by convolution, or does not hand what it is given to
its attention, trains on packed rows without an error, and wrongly: items leak into each other. `check_architecture`
refuses the known kinds before weights are loaded. `check_packing` then compares the losses of a small random row of the
loaded model, packed as training packs it, with those of transformers' own forward pass of each item alone.
"""

from typing import TYPE_CHECKING, Any

import torch
from torch.nn.functional import cross_entropy

from agenttuning.errors import ConfigurationError
from agenttuning.training.attention import implementation_of
from agenttuning.training.batch import Batch
from agenttuning.training.device import Numerics

if TYPE_CHECKING:
    from agenttuning.training.engine import Engine

LAYER_TYPES = {"full_attention", "sliding_attention", "dense", "sparse"}
"""Kinds of layers that see other tokens through attention alone, or none at all."""

CURE = "train a decoder of attention layers alone, such as Llama, Qwen3, Mistral or Gemma (docs/training.md lists them)"

SEGMENT = 8
"""Tokens of a segment of the tried row."""

PARENTS: list[int | None] = [None, 0, 0, None]
"""The tried row: a beginning, two segments that continue it, and one of its own."""

ITEMS = {1: (0, 1), 2: (0, 2), 3: (3,)}
"""The segments of the items that end in each of its segments."""

TOLERANCES = {"float32": 1e-3, "bfloat16": 0.3}
"""Most mean difference of a segment's losses, packed and alone, in nats. SmolLM2-135M differs by 1e-5 in float32 and,
with the kernel for CPUs, by nothing in bfloat16; where its items leak, by 1.5 to 3."""


def check_architecture(config: Any, model: type | None) -> None:
    """Refuse models that are known to mix the items of a packed row.

    Args:
        config: the model's configuration.
        model: its class; None where it is not known yet.

    Raises:
        ConfigurationError: the model keeps a state, has layers other than attention, or an attention of its own.
    """
    text = config.get_text_config()
    kinds = sorted({str(kind) for kind in getattr(text, "layer_types", None) or ()} - LAYER_TYPES)
    reason = ""
    if kinds:
        reason = f"its layers of {', '.join(kinds)} carry what they saw from one item of a packed row to the next"
    elif getattr(model, "_is_stateful", False):
        reason = "it carries a state from one item of a packed row to the next"
    elif model is not None and not getattr(model, "_supports_attention_backend", False):
        reason = "its code takes no attention from outside (transformers' AttentionInterface), so items of a row mix"
    if reason:
        name = model.__name__ if model is not None else type(config).__name__
        raise ConfigurationError(f"model {name} ({config.model_type}) cannot be trained: {reason}; {CURE}")


def check_packing(engine: "Engine", numerics: Numerics) -> None:
    """Compare a packed row with its items alone, on the model as it is loaded. All ranks call it.

    Three items: two that share a beginning, and one of its own. It costs four forward passes of a few dozen tokens.

    Raises:
        ConfigurationError: their losses differ by more than `TOLERANCES`.
    """
    causal = engine.causal
    name = type(causal).__name__
    vocabulary = int(causal.config.get_text_config().vocab_size)
    tokens = torch.randint(vocabulary, (4, SEGMENT), generator=torch.Generator().manual_seed(0))
    causal.eval()
    try:
        with torch.no_grad():
            packed = engine.losses(_row(tokens, PARENTS), 1.0)[1]
            causal.set_attn_implementation("eager")
            items = {last: tokens[list(item)].view(-1) for last, item in ITEMS.items()}
            alone = [_losses(causal, items[last], numerics.device)[-SEGMENT + 1 :] for last in ITEMS]
    except (TypeError, KeyError, AttributeError) as error:
        raise ConfigurationError(
            f"model {name} cannot be trained: a packed row does not pass through it ({error}); {CURE}"
        ) from error
    finally:
        causal.set_attn_implementation(implementation_of(numerics.attention))
        causal.train()
    tolerance = TOLERANCES[numerics.dtype]
    for segment, (found, wanted) in enumerate(zip(packed.cpu().double().view(4, -1)[1:], alone, strict=True), start=1):
        difference = float((found - wanted).abs().mean())
        # A model that gives no numbers at all is not this check's business.
        if wanted.isfinite().all() and not difference <= tolerance:
            raise ConfigurationError(
                f"model {name} cannot be trained: the losses of segment {segment} of a packed row differ from those of "
                f"its item alone by {difference:.2g} nats, allowed are {tolerance:g} in {numerics.dtype}; its code "
                f"mixes items, or does otherwise than with transformers' eager attention: {CURE}"
            )


def _row(tokens: torch.Tensor, parents: list[int | None]) -> Batch:
    """Return a row of segments, [segments, tokens], all tokens supervised but the first of each."""
    count, size = tokens.shape
    begins = torch.tensor([0 if parent is None else size for parent in parents])
    places = begins[:, None] + torch.arange(size)
    starts = torch.arange(count)[:, None] * size
    positions = (starts + torch.arange(size - 1)).view(-1)
    targets = tokens[:, 1:].reshape(-1)
    weights = torch.ones(len(targets))
    return Batch(
        tokens.view(1, -1),
        places.view(1, -1),
        positions,
        targets,
        weights,
        torch.zeros(len(targets), dtype=torch.int64),
        [size] * count,
        parents,
    )


def _losses(causal: Any, tokens: torch.Tensor, device: str) -> torch.Tensor:
    """Return the losses of an item's tokens but the first, in float64 on the host."""
    logits = causal(input_ids=tokens[None].to(device), use_cache=False).logits[0, :-1]
    return cross_entropy(logits.double().cpu(), tokens[1:], reduction="none")
