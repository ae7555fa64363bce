"""Plain PyTorch on one worker: AdamW on float32 master weights, no DeepSpeed.

It is what `training.zero_stage: 0` runs, and the reference that the ZeRO engine is tested against.
"""

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from agenttuning.recipe import Training
from agenttuning.training.attention import attention_arguments
from agenttuning.training.batch import Batch
from agenttuning.training.device import Numerics
from agenttuning.training.engine import optimizer_groups
from agenttuning.training.loss import PackedCausalLM

STATE = "plain.pt"
"""File in a checkpoint: master weights by name and the optimizer's state."""


class PlainEngine:
    """See `agenttuning.training.engine.Engine`.

    Args:
        causal: a Hugging Face causal language model in the dtype of `numerics`.
        training: the recipe's section.
        numerics: what to compute with.
    """

    def __init__(self, causal: Any, training: Training, numerics: Numerics) -> None:
        self.causal = causal.to(numerics.device)
        self._model = PackedCausalLM(self.causal, training.logits_chunk)
        self._numerics = numerics
        self._max_norm = training.max_grad_norm
        self._weights = dict(self.causal.named_parameters())
        self._master = {name: _master(weight) for name, weight in self._weights.items() if weight.requires_grad}
        groups = optimizer_groups(list(self._master.values()), training.weight_decay)
        self._optimizer = torch.optim.AdamW(groups, lr=0.0, betas=training.betas, fused=True)

    def losses(self, batch: Batch, scale: float) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the scaled sum and each supervised token's loss."""
        device = self._numerics.device
        attention = attention_arguments(batch.lengths, batch.parents, self._numerics.attention, device)
        total, losses = self._model(**batch.inputs(device), scale=scale, attention=attention)
        return total, losses

    def backward(self, loss: torch.Tensor, last: bool) -> None:
        """Add a scalar's gradients."""
        torch.autograd.backward(loss)

    def step(self, learning_rate: float) -> tuple[float, bool]:
        """Clip, update, clear."""
        gradients = [m.grad for m in self._master.values() if m.grad is not None]
        norm = float(torch.nn.utils.get_total_norm(gradients, foreach=True))
        if not math.isfinite(norm):
            self._optimizer.zero_grad(set_to_none=True)
            return norm, False
        excess = (norm + 1e-6) / self._max_norm
        if excess > 1:
            torch._foreach_mul_(gradients, 1 / excess)
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        self._lower()
        return norm, True

    def save(self, directory: Path) -> None:
        """Write master weights and optimizer state."""
        weights = {name: master.detach() for name, master in self._master.items()}
        torch.save({"weights": weights, "optimizer": self._optimizer.state_dict()}, directory / STATE)

    def load(self, directory: Path) -> None:
        """Read what `save` wrote."""
        state = torch.load(directory / STATE, map_location=self._numerics.device, weights_only=True, mmap=True)
        with torch.no_grad():
            for name, master in self._master.items():
                master.copy_(state["weights"][name])
        self._optimizer.load_state_dict(state["optimizer"])
        self._lower()

    def shapes(self) -> dict[str, torch.Size]:
        """Return the shape of every weight."""
        return {name: weight.shape for name, weight in self._weights.items()}

    def weights(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Yield every weight."""
        for name, weight in self._weights.items():
            yield name, weight.detach()

    def _lower(self) -> None:
        """Round the master weights into the weights that compute."""
        pairs = [(self._weights[name], m) for name, m in self._master.items() if self._weights[name] is not m]
        if pairs:
            with torch.no_grad():
                torch._foreach_copy_([w for w, _ in pairs], [m for _, m in pairs])


def _master(weight: torch.nn.Parameter) -> torch.nn.Parameter:
    """Return the float32 weight that the optimizer moves: the weight itself, or a copy that collects its gradients."""
    if weight.dtype == torch.float32:
        return weight
    master = torch.nn.Parameter(weight.detach().float())

    def collect(lower: torch.Tensor) -> None:
        assert lower.grad is not None
        if master.grad is None:
            master.grad = lower.grad.float()
        else:
            master.grad += lower.grad
        lower.grad = None

    register: Callable[..., Any] = weight.register_post_accumulate_grad_hook
    register(collect)
    return master
