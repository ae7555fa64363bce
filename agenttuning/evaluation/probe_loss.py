"""Teacher-forced loss of a model on dialogues: nats per assistant token, one forward pass per dialogue.

A dialogue is rendered by the model's own chat template, ids and mask in one pass; the loss is the negative
log-likelihood of the masked tokens, computed in float32. Nothing is packed, so no dialogue can see another.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from agenttuning.errors import DataError
from agenttuning.evaluation.scoring import token_mean
from agenttuning.trajectory import Turn

FLOAT32_BYTES = 4 << 30
"""On a CPU, weights up to this size are held in float32; larger ones in bfloat16."""
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
) -> LossResult:
    """Measure a model's loss on dialogues.

    Args:
        model_dir: weights, tokenizer and chat template.
        dialogues: id, category and turns of each; assistant turns with `loss=True` count.
        on_progress: called with the number of dialogues done.

    Raises:
        DataError: a dialogue has no token to count, or the template cannot express it.
        ConfigurationError: the tokenizer has no chat template that can be rendered.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    from agenttuning.rendering.renderer import renderer_for

    renderer = renderer_for(AutoTokenizer.from_pretrained(model_dir), str(model_dir))
    device, dtype = placement(model_dir)
    logging.disable_progress_bar()
    model: Any = AutoModelForCausalLM.from_pretrained(model_dir, dtype=getattr(torch, dtype)).to(device)
    model.eval()
    found: list[DialogueLoss] = []
    with torch.inference_mode():
        for identity, category, turns in dialogues:
            rendered = renderer.render(list(turns))
            ids = torch.from_numpy(rendered.ids).long().to(device)
            targets = torch.from_numpy(rendered.mask).nonzero().flatten().to(device)
            if len(targets) == 0:
                raise DataError(f"dialogue {identity}: no assistant token to measure; give it an assistant message")
            hidden = model(input_ids=ids[None], use_cache=False, logits_to_keep=targets - 1).logits[0]
            loss = torch.nn.functional.cross_entropy(hidden.float(), ids[targets])
            found.append(DialogueLoss(id=identity, category=category, loss=loss.item(), tokens=len(targets)))
            if on_progress is not None:
                on_progress(len(found))
    losses, tokens = [d.loss for d in found], [d.tokens for d in found]
    return LossResult(
        mean=token_mean(losses, tokens), tokens=sum(tokens), device=device, dtype=dtype, dialogues=tuple(found)
    )


def placement(model_dir: Path) -> tuple[str, str]:
    """Return the device and dtype: a GPU with room in bfloat16, else the CPU in float32 (bfloat16 for large models)."""
    import torch

    weights = sum(path.stat().st_size for path in model_dir.glob("*.safetensors"))
    if torch.cuda.is_available() and torch.cuda.mem_get_info()[0] > weights * GPU_HEADROOM:
        return "cuda", "bfloat16"
    return "cpu", "float32" if weights <= FLOAT32_BYTES else "bfloat16"
