"""Low-rank adapters (LoRA, Hu et al. 2021) through PEFT: put into a model for training, merged into its weights after.

PEFT's layers are injected into the model in place, so that engines, loss and attention see the same model as without.
Only the adapters are trained. What is written at the end is W + alpha / rank * B A under the names of the base model:
the tuned model loads and is served without PEFT. In QLoRA (Dettmers et al. 2023) the frozen linear layers lie in 4 bits
while adapters are trained; W is then what the base model's files hold, not what was rounded.
"""

import importlib.util
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from agenttuning.errors import ConfigurationError
from agenttuning.recipe import Lora, Training

BASE, DOWN, UP = ".base_layer.weight", ".lora_A.default.weight", ".lora_B.default.weight"
"""Ends of names: a base weight and its adapters, which come right behind it."""


def check_quantized(training: Training) -> None:
    """Refuse 4-bit bases where they cannot be trained on.

    Raises:
        ConfigurationError: the recipe quantizes under ZeRO, or bitsandbytes is not installed.
    """
    if training.lora is None or training.lora.quantize is None:
        return
    said = f"training.lora.quantize={training.lora.quantize}"
    if training.zero_stage:
        raise ConfigurationError(
            f"{said} holds weights as packed bytes, which ZeRO can neither cut nor gather (training.zero_stage="
            f"{training.zero_stage}); set training.zero_stage=0 and training.workers=1, or leave quantize unset"
        )
    if importlib.util.find_spec("bitsandbytes") is None:
        raise ConfigurationError(f"{said} needs the package bitsandbytes: pip install 'agenttuning[qlora]'")


def quantized_loading(training: Training, dtype: torch.dtype, device: str) -> dict[str, Any]:
    """Return what `from_pretrained` takes to load the frozen linear layers in 4 bits, if the recipe wants it."""
    if training.lora is None or training.lora.quantize is None:
        return {}
    from transformers import BitsAndBytesConfig

    config = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=training.lora.quantize,
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )
    return {"quantization_config": config, "device_map": {"": device}}


def add_adapters(causal: Any, lora: Lora) -> None:
    """Put adapters on a causal language model's linear layers, and freeze all else. B begins as zeros.

    Raises:
        ConfigurationError: `training.lora.targets` names no layer of this model.
    """
    from peft import LoraConfig, inject_adapter_in_model

    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=list(lora.targets) if lora.targets else "all-linear",
    )
    try:
        inject_adapter_in_model(config, causal)
    except ValueError as error:
        linear = {n.rpartition(".")[2] for n, m in causal.named_modules() if isinstance(m, torch.nn.Linear)}
        raise ConfigurationError(
            f"training.lora.targets={list(lora.targets or ())}: {str(error).splitlines()[0]} Known: "
            f"{', '.join(sorted(linear))}"
        ) from error


def merged_shapes(shapes: Mapping[str, torch.Size]) -> dict[str, torch.Size]:
    """Return the shapes of the merged weights by the base model's names, in their order."""
    return {_base_name(name): shape for name, shape in shapes.items() if not name.endswith((DOWN, UP))}


def merge(weights: Iterator[tuple[str, torch.Tensor]], lora: Lora) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield weights under the base model's names, adapters merged in float32; at most one matrix is held.

    Args:
        weights: by the names of the model with adapters, each valid until the next.
        lora: the recipe's section.
    """
    held: torch.Tensor | None = None
    down: torch.Tensor | None = None
    name_held = ""
    for name, weight in weights:
        if name.endswith(BASE):
            name_held, held = _base_name(name), weight.detach().clone()
        elif name.endswith(DOWN):
            down = weight.detach().float()
        elif name.endswith(UP):
            assert held is not None
            assert down is not None
            merged = held.float().addmm_(weight.detach().float(), down, alpha=lora.alpha / lora.rank)
            yield name_held, merged
            held = down = None
        else:
            yield name, weight


def _base_name(name: str) -> str:
    return name.replace(".base_layer.", ".")
