"""Teacher-forced loss of a model on dialogues: nats per assistant token.

A dialogue is rendered by the model's own chat template, ids and mask in one pass; the loss is the negative
log-likelihood of the masked tokens, computed in float32. Dialogues of like length go through the model side by side,
padded at their end, where a causal model cannot look; nothing is packed, so no dialogue sees another.
"""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from agenttuning.errors import DataError
from agenttuning.evaluation.scoring import token_mean
from agenttuning.rendering.pieces import Rendered
from agenttuning.training.master_weights import read_header
from agenttuning.trajectory import Turn

BATCH_TOKENS = 1024
"""Tokens of one forward pass, padding included; a longer dialogue goes alone."""
FLOAT32_WEIGHTS = 2 << 30
"""On a CPU, models of up to so many weights are held in float32; larger ones in bfloat16."""
GPU_HEADROOM = 1.25
"""A GPU is used where its free memory exceeds the weights by this factor: the served model may hold the rest."""


class DialogueLoss(BaseModel):
    """One dialogue under one model."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    category: str
    loss: float
    """Mean over the dialogue's assistant tokens, nats."""
    tokens: int
    """Assistant tokens, their end tokens included."""


class LossResult(BaseModel):
    """All dialogues under one model."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    mean: float
    """Mean over all assistant tokens of all dialogues, nats."""
    tokens: int
    device: str
    dtype: str
    dialogues: tuple[DialogueLoss, ...]


def dialogue_loss(
    model_dir: Path,
    dialogues: Sequence[tuple[str, str, Sequence[Turn]]],
    on_progress: Callable[[int], None] | None = None,
    trust_remote_code: bool = False,
) -> LossResult:
    """Measure a model's loss on dialogues.

    Args:
        model_dir: weights, tokenizer and chat template.
        dialogues: id, category and turns of each; assistant turns with `loss=True` count.
        on_progress: called with the number of dialogues done.
        trust_remote_code: run the model's own code.

    Raises:
        DataError: a dialogue has no token to count, or the template cannot express it.
        ConfigurationError: the tokenizer has no chat template that can be rendered.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    from agenttuning.rendering.renderer import renderer_for

    tokenizer = AutoTokenizer.from_pretrained(model_dir, trust_remote_code=trust_remote_code)
    renderer = renderer_for(tokenizer, str(model_dir))
    device, dtype = placement(model_dir)
    logging.disable_progress_bar()
    model: Any = AutoModelForCausalLM.from_pretrained(
        model_dir, dtype=getattr(torch, dtype), trust_remote_code=trust_remote_code
    ).to(device)
    model.eval()
    rendered = [renderer.render(list(turns)) for _, _, turns in dialogues]
    for (identity, _, _), one in zip(dialogues, rendered, strict=True):
        if not one.mask.any():
            raise DataError(f"dialogue {identity}: no assistant token to measure; give it an assistant message")
    losses: dict[int, float] = {}
    with torch.inference_mode():
        for batch in batches([len(one.ids) for one in rendered], BATCH_TOKENS):
            losses |= dict(zip(batch, _batch_losses(model, [rendered[i] for i in batch], device), strict=True))
            if on_progress is not None:
                on_progress(len(losses))
    found = tuple(
        DialogueLoss(id=identity, category=category, loss=losses[i], tokens=int(rendered[i].mask.sum()))
        for i, (identity, category, _) in enumerate(dialogues)
    )
    tokens = [d.tokens for d in found]
    mean = token_mean([d.loss for d in found], tokens)
    return LossResult(mean=mean, tokens=sum(tokens), device=device, dtype=dtype, dialogues=found)


def batches(lengths: Sequence[int], most: int) -> list[list[int]]:
    """Return the indices in groups of like length whose padded size is at most `most`; a longer one stands alone."""
    groups: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda i: (lengths[i], i)):
        if groups and lengths[index] * (len(groups[-1]) + 1) <= most:
            groups[-1].append(index)
        else:
            groups.append([index])
    return groups


def _batch_losses(model: Any, batch: list[Rendered], device: str) -> list[float]:
    """Return the mean loss of each dialogue; logits are made only where some dialogue has a target."""
    import torch

    longest = max(len(one.ids) for one in batch)
    ids = torch.zeros(len(batch), longest, dtype=torch.long)
    mask = torch.zeros(len(batch), longest, dtype=torch.bool)
    for row, one in enumerate(batch):
        ids[row, : len(one.ids)] = torch.from_numpy(one.ids)
        mask[row, : len(one.mask)] = torch.from_numpy(one.mask)
    ids, mask = ids.to(device), mask.to(device)
    targets = mask.any(dim=0).nonzero().flatten()
    logits = model(input_ids=ids, use_cache=False, logits_to_keep=targets - 1).logits
    means = []
    for row in range(len(batch)):
        own = mask[row, targets]
        loss = torch.nn.functional.cross_entropy(logits[row, own].float(), ids[row, targets[own]])
        means.append(loss.item())
    return means


def placement(model_dir: Path) -> tuple[str, str]:
    """Return the device and dtype: a GPU with room in bfloat16, else the CPU in float32 (bfloat16 for large models).

    The number of weights decides, not their bytes, so that a model and what was tuned from it are measured alike.
    """
    import torch

    headers = [read_header(path)[0] for path in model_dir.glob("*.safetensors")]
    weights = sum(math.prod(tensor["shape"]) for header in headers for tensor in header.values())
    if torch.cuda.is_available() and torch.cuda.mem_get_info()[0] > 2 * weights * GPU_HEADROOM:
        return "cuda", "bfloat16"
    return "cpu", "float32" if weights <= FLOAT32_WEIGHTS else "bfloat16"
