"""Token-exact loss of a packed row: logits only where a token is supervised, cross entropy in float32.

Most tokens of agent data are prompt and observation. They are dropped before the LM head, so the logits of a row
take a third of the memory and time or less; what is left goes through the head in chunks. The result is one loss per
supervised token. Who sums them divides by the supervised tokens of the whole optimizer step, over all micro-batches
and ranks, so that packing and the number of ranks change nothing.
"""

from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from agenttuning.errors import ConfigurationError

ROWS = 256
"""Rows of logits that are held in float32 at once."""


class PackedCausalLM(nn.Module):
    """A causal language model that takes a packed row and returns the loss of each supervised token.

    Args:
        causal: a Hugging Face causal language model whose logits are its output embedding's, at most capped or scaled.
        logits_chunk: supervised positions whose logits are held at once.

    Raises:
        ConfigurationError: the model keeps its decoder or its head elsewhere.
    """

    def __init__(self, causal: Any, logits_chunk: int) -> None:
        super().__init__()
        if causal.base_model is causal or causal.get_output_embeddings() is None:
            raise ConfigurationError(
                f"model {type(causal).__name__}: no decoder and output embedding found apart; training needs a causal "
                "language model such as Llama, Qwen or Mistral"
            )
        self.causal = causal
        self.logits_chunk = logits_chunk
        self.cap, self.factor = _after_head(causal.config)

    def forward(
        self,
        input_ids: torch.Tensor,
        position_ids: torch.Tensor,
        positions: torch.Tensor,
        targets: torch.Tensor,
        attention: dict[str, Any],
    ) -> torch.Tensor:
        """Return the loss of each supervised token, float32 [n].

        Args:
            input_ids: [1, tokens].
            position_ids: [1, tokens], restarting at 0 in each segment.
            positions: places whose next token is supervised, [n].
            targets: the tokens that follow there, [n].
            attention: what `attention_arguments` gave.
        """
        states = self.causal.base_model(
            input_ids=input_ids, position_ids=position_ids, use_cache=False, **attention
        ).last_hidden_state[0]
        chosen = states.index_select(0, positions)
        if len(targets) <= self.logits_chunk:
            return self._losses(chosen, targets)
        # Reentrant: ZeRO-3 gathers the head again in the backward pass only so.
        parts = [
            checkpoint(self._losses, *part, use_reentrant=True)
            for part in zip(chosen.split(self.logits_chunk), targets.split(self.logits_chunk), strict=True)
        ]
        return torch.cat(parts)

    def _losses(self, states: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        logits = self.causal.get_output_embeddings()(states)
        if self.factor != 1.0:
            logits = logits * self.factor
        if self.cap is not None:
            logits = torch.tanh(logits / self.cap) * self.cap
        return token_losses(logits, targets)


def token_losses(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return the cross entropy of each row: [n] in float32 (float64 for float64 logits).

    The logits' memory is reused for their gradient, so nothing else may read them afterwards.

    Args:
        logits: [n, vocabulary].
        targets: [n].
    """
    losses: torch.Tensor = _TokenLosses.apply(logits, targets)
    return losses


class _TokenLosses(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        wide = torch.promote_types(logits.dtype, torch.float32)
        losses = logits.new_empty(len(targets), dtype=wide)
        values = logits.detach()
        for start in range(0, len(targets), ROWS):
            rows = values[start : start + ROWS].to(wide, copy=True)
            wanted = targets[start : start + ROWS, None]
            total = rows.logsumexp(-1, keepdim=True)
            losses[start : start + ROWS] = (total - rows.gather(-1, wanted))[:, 0]
            rows.sub_(total).exp_()
            rows.scatter_add_(-1, wanted, rows.new_full(wanted.shape, -1.0))
            values[start : start + ROWS] = rows
        ctx.save_for_backward(values)
        return losses

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        (values,) = ctx.saved_tensors
        return values.mul_(gradients[0].to(values.dtype)[:, None]), None


def _after_head(config: Any) -> tuple[float | None, float]:
    """Return the soft cap and the factor that some models apply to their logits."""
    cap = getattr(config, "final_logit_softcapping", None)
    factor = getattr(config, "logit_scale", None) or 1.0
    divisor = getattr(config, "logits_scaling", None) or 1.0
    return cap, factor / divisor
