"""What the loop trains with: loss, backward, one optimizer step, its state on disk, its weights by name.

Two engines of one shape: plain PyTorch on one worker, and DeepSpeed ZeRO. Both keep float32 master weights and sum
gradients in float32 under bfloat16 weights, clip by the global norm, and leave everything as it was when that norm is
not finite. Neither scales the loss: the loop has already divided it by the step's supervised tokens.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import torch

from agenttuning.errors import ConfigurationError
from agenttuning.recipe import Training
from agenttuning.training.attention import implementation_of, register_attention
from agenttuning.training.batch import Batch
from agenttuning.training.device import Numerics
from agenttuning.training.lora import add_adapters, check_quantized, quantized_loading
from agenttuning.training.packable import check_architecture, check_packing
from agenttuning.training.sharded_load import load_sharded


class Engine(Protocol):
    """A model in training. All ranks call every method equally often, except where a method says otherwise."""

    causal: Any
    """The Hugging Face model."""

    def losses(self, batch: Batch, scale: float) -> tuple[torch.Tensor, torch.Tensor]:
        """Return a row's scaled sum of losses, to hand to `backward`, and each supervised token's, weighted, [n]."""

    def backward(self, loss: torch.Tensor, last: bool) -> None:
        """Add the gradients of a scalar, as it is, to those of the step, of which it may be the last."""

    def step(self, learning_rate: float) -> tuple[float, bool]:
        """Clip, update, clear the gradients.

        Returns:
            The global gradient norm before clipping, and whether the update was made: it is not when the norm is not
            finite, which it never is after a loss that is not.
        """

    def save(self, directory: Path) -> None:
        """Write this rank's share of weights and optimizer into a directory."""

    def load(self, directory: Path) -> None:
        """Read what `save` wrote into this freshly made engine."""

    def shapes(self) -> dict[str, torch.Size]:
        """Return the full shape of every weight by name, in order; a tied weight once."""

    def weights(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Yield every weight in full, in the order of `shapes`, each valid until the next; only a few are held."""


def make_engine(
    model_dir: Path,
    training: Training,
    numerics: Numerics,
    trust_remote_code: bool = False,
    other_ranks: bool = False,
) -> Engine:
    """Load the model and make it trainable. `torch.distributed` is initialised where there are several ranks.

    Args:
        model_dir: the base model.
        training: the recipe's section.
        numerics: what to compute with.
        trust_remote_code: run the model's own code.
        other_ranks: the engine will load what another number of ranks saved.

    Raises:
        ConfigurationError: the recipe's training section contradicts itself or the machine, or the model would be
            trained wrongly on packed rows.
    """
    if training.offload_optimizer and (training.zero_stage == 0 or not training.use_gpu):
        raise ConfigurationError(
            "training.offload_optimizer moves optimizer states from a GPU to host memory by ZeRO; it needs "
            f"training.use_gpu and training.zero_stage of 1 to 3 (got {training.use_gpu} and {training.zero_stage})"
        )
    check_quantized(training)
    engine: Engine
    if training.zero_stage == 0:
        from agenttuning.training.plain import PlainEngine

        engine = PlainEngine(load_causal(model_dir, training, numerics, trust_remote_code), training, numerics)
    else:
        from agenttuning.training.zero import ZeroEngine

        engine = ZeroEngine(model_dir, training, numerics, trust_remote_code, other_ranks)
    check_packing(engine, numerics)
    return engine


def load_causal(model_dir: Path, training: Training, numerics: Numerics, trust_remote_code: bool) -> Any:
    """Load a causal language model for training.

    Raises:
        ConfigurationError: transformers cannot load it, or it cannot be trained on packed rows.
    """
    causal = _read_model(model_dir, training, numerics, trust_remote_code)
    check_architecture(causal.config, type(causal))
    if training.lora is not None:
        add_adapters(causal, training.lora)
    elif training.freeze_embeddings:
        for module in filter(None, (causal.get_input_embeddings(), causal.get_output_embeddings())):
            module.requires_grad_(False)
    if training.lora is not None or training.freeze_embeddings:
        # Recomputation, and ZeRO-3's hooks on whole blocks, need an input with a gradient.
        causal.enable_input_require_grads()
    if training.activation_checkpointing:
        # ZeRO-3 needs the reentrant kind: it gathers weights again in the backward pass.
        causal.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": True})
    return causal.train()


def _read_model(model_dir: Path, training: Training, numerics: Numerics, trust_remote_code: bool) -> Any:
    """Return a model as its files hold it, whole or, under ZeRO-3, in shards."""
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoConfig, AutoModelForCausalLM
    from transformers.integrations import is_deepspeed_zero3_enabled
    from transformers.utils import logging

    logging.disable_progress_bar()
    register_attention()
    attention = implementation_of(numerics.attention)
    try:
        config = AutoConfig.from_pretrained(model_dir, trust_remote_code=trust_remote_code)
        kind = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)
        check_architecture(config, kind)
        if kind is not None and is_deepspeed_zero3_enabled():
            sharded = load_sharded(model_dir, config, kind, numerics.torch_dtype, attention)
            if sharded is not None:
                return sharded
        causal, about = AutoModelForCausalLM.from_pretrained(
            model_dir,
            dtype=numerics.torch_dtype,
            attn_implementation=attention,
            trust_remote_code=trust_remote_code,
            output_loading_info=True,
            **quantized_loading(training, numerics.torch_dtype, numerics.device),
        )
    except (OSError, ValueError, ImportError, KeyError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "mismatch" not in str(error):
            raise
        raise ConfigurationError(f"model {model_dir}: cannot be loaded for training ({error})") from error
    if missing := sorted(about["missing_keys"]):
        raise ConfigurationError(
            f"model {model_dir}: its files lack weights that its code needs: {', '.join(missing[:3])}; take a "
            "whole causal language model"
        )
    return causal


def optimizer_groups(parameters: list[torch.nn.Parameter], weight_decay: float) -> list[dict[str, Any]]:
    """Return AdamW's groups: matrices decay; vectors such as norms and biases do not. What is frozen is in neither."""
    parameters = [p for p in parameters if p.requires_grad]
    matrices = [p for p in parameters if _dimensions(p) > 1]
    vectors = [p for p in parameters if _dimensions(p) <= 1]
    groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def _dimensions(parameter: torch.nn.Parameter) -> int:
    # Under ZeRO-3 a parameter is empty while it is not gathered; its shape is kept beside it.
    return len(getattr(parameter, "ds_shape", parameter.shape))
