"""Loads a base model under ZeRO-3 with no rank ever holding more of it than its shard and one weight.

transformers maps every file on every rank, and those of rank 0 stay in its resident memory until the last weight is
copied. Here rank 0 reads one weight at a time from the safetensors and hands it to the others, who keep their shares.
Models whose files name or cut weights otherwise than their code does are left to transformers.
"""

from pathlib import Path
from typing import Any

import torch

from agenttuning.errors import ConfigurationError


def load_sharded(model_dir: Path, config: Any, model: type, dtype: torch.dtype, attention: str) -> Any | None:
    """Return a causal language model in shards; None where transformers has to convert its files. All ranks call it.

    Args:
        model_dir: a directory with safetensors.
        config: the model's configuration.
        model: its class.
        dtype: to load it in; that of DeepSpeed's configuration.
        attention: as transformers names it.

    Raises:
        ConfigurationError: a stored weight has another shape than the model's.
    """
    import deepspeed
    from transformers.modeling_utils import ContextManagers

    from agenttuning.training.master_weights import read_base_weights

    kind: Any = model
    config._attn_implementation = attention
    config.dtype = dtype
    with ContextManagers(kind.get_init_context(dtype, False, False, False)):
        causal = kind(config)
    causal.tie_weights()
    stored = read_base_weights(model_dir)
    tensors = {n: t for n, t in causal.state_dict(keep_vars=True).items()}
    names: dict[int, list[str]] = {}
    for name, tensor in tensors.items():
        if name in stored:
            names.setdefault(id(tensor), []).append(name)
    if any(len(names.get(id(tensor), ())) != 1 for tensor in tensors.values()) or causal._get_dtype_plan(dtype):
        return None
    first = torch.distributed.get_rank() == 0
    for (name,) in names.values():
        tensor, weight = tensors[name], stored[name]
        shape = torch.Size(getattr(tensor, "ds_shape", tensor.shape))
        if shape != weight.shape:
            raise ConfigurationError(
                f"model {model_dir}: {name} is {tuple(weight.shape)} in its files and {tuple(shape)} by its "
                "config.json; take files and configuration of one model"
            )
        # What is not a parameter is whole on every rank.
        cut = hasattr(tensor, "ds_id")
        with deepspeed.zero.GatheredParameters([tensor], modifier_rank=0, enabled=cut), torch.no_grad():
            if first or not cut:
                tensor.copy_(weight.read())
    return causal
