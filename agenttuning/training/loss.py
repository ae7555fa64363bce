"""Token-exact loss of a packed row: logits only where a token is supervised, cross entropy in float32.

Most tokens of agent data are prompt and observation. They are dropped before the LM head; what is left goes through it
in chunks, whose logits turn into gradients on the spot and are never kept. The head is one module call per row however
many chunks there are: under ZeRO-3 all ranks gather weights in step, and their rows differ in supervised tokens. Who
calls divides by the supervised tokens of the whole optimizer step, over all micro-batches and ranks, so that packing
and the number of ranks change nothing.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn.functional import linear

from agenttuning.errors import ConfigurationError

ROWS = 256
"""Rows of logits that are held in float32 at once."""


class PackedCausalLM(nn.Module):
    """A causal language model that takes a packed row and returns its loss.

    Args:
        causal: a Hugging Face causal language model whose head is linear, its logits at most scaled and capped.
        logits_chunk: supervised positions whose logits are held at once.

    Raises:
        ConfigurationError: the model keeps its decoder or its head elsewhere.
    """

    def __init__(self, causal: Any, logits_chunk: int) -> None:
        super().__init__()
        head = causal.get_output_embeddings()
        if causal.base_model is causal or not isinstance(head, nn.Linear):
            raise ConfigurationError(
                f"model {type(causal).__name__}: no decoder with a linear head on it; training needs a causal language "
                "model such as Llama, Qwen or Mistral"
            )
        self.causal = causal
        self.head = LossHead(head, causal.config, logits_chunk)

    def forward(
        self,
        input_ids: torch.Tensor,
        position_ids: torch.Tensor,
        positions: torch.Tensor,
        targets: torch.Tensor,
        weights: torch.Tensor,
        scale: float,
        attention: dict[str, Any],
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the scaled sum of the losses (a scalar to differentiate) and each token's loss (without gradient).

        Args:
            input_ids: [1, tokens].
            position_ids: [1, tokens], the place of each token in its item.
            positions: places whose next token is supervised, [n].
            targets: the tokens that follow there, [n].
            weights: how many items each of them counts for, [n].
            scale: of the sum.
            attention: what `attention_arguments` gave.
        """
        states = self.causal.base_model(
            input_ids=input_ids, position_ids=position_ids, use_cache=False, **attention
        ).last_hidden_state[0]
        total, losses = self.head(states.index_select(0, positions), targets, weights, scale)
        return total, losses


class LossHead(nn.Module):
    """The LM head and the cross entropy behind it.

    It holds the head's own parameters, so that ZeRO-3 gathers them for it.

    Args:
        head: the model's output embedding.
        config: of the model; some scale or cap their logits.
        logits_chunk: rows whose logits are held at once.
    """

    def __init__(self, head: nn.Linear, config: Any, logits_chunk: int) -> None:
        super().__init__()
        self.weight = head.weight
        self.bias = head.bias
        self.chunk = logits_chunk
        self.cap = getattr(config, "final_logit_softcapping", None)
        divisor = getattr(config, "logits_scaling", None) or 1.0
        self.factor = (getattr(config, "logit_scale", None) or 1.0) / divisor

    def forward(
        self, states: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor, scale: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return `scale` times the weighted sum of the losses, and each row's loss, weighted too, without gradient.

        Args:
            states: [n, hidden size].
            targets: [n].
            weights: of the losses, [n].
            scale: of the sum and its gradients.
        """
        apply: Callable[..., tuple[torch.Tensor, torch.Tensor]] = _HeadLoss.apply
        return apply(states, self.weight, self.bias, targets, weights, scale, self)


class _HeadLoss(torch.autograd.Function):
    """Computes the gradients together with the loss, while a chunk's logits exist; backward only hands them out."""

    @staticmethod
    def forward(
        ctx: Any,
        states: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        targets: torch.Tensor,
        weights: torch.Tensor,
        scale: float,
        head: LossHead,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        wide = torch.promote_types(states.dtype, torch.float32)
        losses = states.new_empty(len(targets), dtype=wide)
        grad_states = torch.empty_like(states)
        # Several chunks add up in float32; a single one needs no second copy of the weight's size.
        several = len(targets) > head.chunk
        trained = ctx.needs_input_grad[1]
        grad_weight = weight.new_zeros(weight.shape, dtype=wide) if several and trained else None
        grad_bias = None if bias is None else bias.new_zeros(bias.shape, dtype=wide)
        for start in range(0, len(targets), head.chunk):
            chunk = slice(start, start + head.chunk)
            logits = linear(states[chunk], weight, bias)
            losses[chunk] = _losses_then_gradients(logits, targets[chunk], weights[chunk], scale, head)
            grad_states[chunk] = logits @ weight
            if trained:
                part = logits.t() @ states[chunk]
                grad_weight = part if grad_weight is None else grad_weight.add_(part)
            if grad_bias is not None:
                grad_bias += logits.sum(0, dtype=wide)
        total = losses.sum()
        # 1, or not a number where the loss is not finite: then no gradient is, and the step is skipped for its norm.
        ok = total * 0 + 1
        narrow_bias = None if bias is None or grad_bias is None else grad_bias.to(bias)
        narrow_weight = None if grad_weight is None else grad_weight.to(weight.dtype)
        ctx.save_for_backward(grad_states, narrow_weight, narrow_bias, ok)
        ctx.mark_non_differentiable(losses)
        return total * scale, losses

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        *found, ok = ctx.saved_tensors
        factor = gradients[0] * ok
        return (*(g if g is None else g * factor.to(g.dtype) for g in found), None, None, None, None)


def _losses_then_gradients(
    logits: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor, scale: float, head: LossHead
) -> torch.Tensor:
    """Return each row's weighted loss, and overwrite the logits with the gradients of the scaled sum."""
    wide = torch.promote_types(logits.dtype, torch.float32)
    losses = []
    for start in range(0, len(targets), ROWS):
        rows = logits[start : start + ROWS].to(wide, copy=True).mul_(head.factor)
        bent = None
        if head.cap is not None:
            bent = torch.tanh(rows / head.cap)
            rows = bent * head.cap
        wanted = targets[start : start + ROWS, None]
        counts = weights[start : start + ROWS, None].to(wide)
        total = rows.logsumexp(-1, keepdim=True)
        losses.append(((total - rows.gather(-1, wanted)) * counts)[:, 0])
        rows = rows.sub_(total).exp_()
        rows.scatter_add_(-1, wanted, rows.new_full(wanted.shape, -1.0))
        if bent is not None:
            rows *= 1 - bent.square_()
        logits[start : start + ROWS] = rows.mul_(counts * (scale * head.factor))
    return torch.cat(losses)
