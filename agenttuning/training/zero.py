"""DeepSpeed ZeRO: weights, gradients and optimizer states sharded over the ranks (stage 3), or parts of them.

DeepSpeed's own averaging is undone where it stands in the way of token-exact loss: accumulation never divides
(`scale_wrt_gas=False`), and the loop multiplies by the number of ranks what the gradient reduction divides by it. The
loop owns the accumulation boundary, since steps have different numbers of rows.
"""

import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import torch

from agenttuning.errors import StorageError
from agenttuning.recipe import Training
from agenttuning.training.attention import attention_arguments
from agenttuning.training.batch import Batch
from agenttuning.training.device import Numerics
from agenttuning.training.engine import load_causal, optimizer_groups
from agenttuning.training.loss import PackedCausalLM

TAG = "zero"
"""Directory in a checkpoint that holds DeepSpeed's files."""

UNIVERSAL = "universal"
"""Directory beside it that holds them by weight, for any number of ranks."""

PREFIX = "causal."
"""What names in DeepSpeed's files begin with: the attribute of `PackedCausalLM`."""

BUCKET = 50_000_000
"""Least elements of DeepSpeed's communication buckets; wide models get one square matrix."""

DTYPES = {"bfloat16": "bf16", "float32": "fp32"}
"""DeepSpeed's names."""

SORTERS = 8
"""Most processes that sort a checkpoint by weight."""

GATHERED = 250_000_000
"""Elements that are gathered at once to be written."""


def zero_config(
    training: Training, numerics: Numerics, hidden_size: int, world_size: int, other_ranks: bool = False
) -> dict[str, Any]:
    """Return DeepSpeed's configuration for a recipe."""
    bucket = max(BUCKET, hidden_size**2)
    several = world_size > 1
    zero: dict[str, Any] = {
        "stage": training.zero_stage,
        "contiguous_gradients": True,
        "overlap_comm": training.use_gpu,
        "reduce_bucket_size": bucket,
    }
    if training.zero_stage == 3:
        # One rank shards nothing: keeping its weights whole and its gradients in place saves a quarter of the time.
        zero |= {
            "stage3_prefetch_bucket_size": bucket,
            "stage3_param_persistence_threshold": 10 * hidden_size if several else 2**62,
            "memory_efficient_linear": several,
            "reduce_scatter": several,
        }
    if training.offload_optimizer:
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": True}
    return {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": training.max_grad_norm,
        "bf16": {"enabled": numerics.dtype == "bfloat16"},
        "data_types": {"grad_accum_dtype": "fp32"},
        # Gradients are summed in float32, among the ranks too.
        "communication_data_type": "fp32" if several else DTYPES[numerics.dtype],
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "checkpoint": {"load_universal": other_ranks},
        "steps_per_print": 2**31,
    }


def _restore_buffers(causal: Any) -> None:
    """Compute the model's derived buffers anew, in float32.

    While it loads sharded, DeepSpeed lets every tensor be made in bfloat16, rotary frequencies too. Rounded so, they
    turn positions by whole radians after a few thousand tokens, and the model would learn other positions than it is
    served with.
    """
    for module in causal.modules():
        buffers = {n: b for n, b in module.named_buffers(recurse=False) if b.is_floating_point()}
        if buffers and not any(True for _ in module.parameters(recurse=False)):
            for name, buffer in buffers.items():
                setattr(module, name, buffer.float())
            causal._init_weights(module)


class ZeroEngine:
    """See `agenttuning.training.engine.Engine`.

    Args:
        model_dir: the base model; under stage 3 each rank keeps only its shard while loading.
        training: the recipe's section.
        numerics: what to compute with.
        trust_remote_code: run the model's own code.
        other_ranks: what `load` will read was saved by another number of ranks.
    """

    def __init__(
        self,
        model_dir: Path,
        training: Training,
        numerics: Numerics,
        trust_remote_code: bool,
        other_ranks: bool = False,
    ) -> None:
        if numerics.device == "cpu":
            os.environ.setdefault("DS_ACCELERATOR", "cpu")
        import deepspeed
        from transformers import AutoConfig
        from transformers.integrations import HfDeepSpeedConfig

        logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
        # It would compile C++ on the user's machine to replace gloo on one node; gloo does.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
        deepspeed.init_distributed(auto_mpi_discovery=False, verbose=False)
        base = AutoConfig.from_pretrained(model_dir, trust_remote_code=trust_remote_code)
        hidden = int(base.get_text_config().hidden_size)
        config = zero_config(training, numerics, hidden, torch.distributed.get_world_size(), other_ranks)
        # transformers holds this only weakly, and loads sharded only while it lives.
        self._sharded_loading = HfDeepSpeedConfig(config) if training.zero_stage == 3 else None
        self._numerics = numerics
        self._stage = training.zero_stage
        self._other_ranks = other_ranks
        self.causal = load_causal(model_dir, training, numerics, trust_remote_code)
        if self._sharded_loading is not None:
            _restore_buffers(self.causal)
        if self._stage == 3 and torch.distributed.get_world_size() == 1:
            # With nothing to gather, hooks on every small module only cost time.
            layers = list(self.causal._no_split_modules or ())
            deepspeed.utils.set_z3_leaf_modules(self.causal, layers, raise_if_not_found=False)
        model = PackedCausalLM(self.causal, training.logits_chunk)
        groups = optimizer_groups(list(model.parameters()), training.weight_decay)
        optimizer = torch.optim.AdamW(groups, lr=0.0, betas=training.betas, fused=True)
        self._engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=config)

    def losses(self, batch: Batch, scale: float) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the scaled sum and each supervised token's loss."""
        device = self._numerics.device
        attention = attention_arguments(batch.lengths, batch.parents, self._numerics.attention, device)
        total, losses = self._engine(**batch.inputs(device), scale=scale, attention=attention)
        return total, losses

    def backward(self, loss: torch.Tensor, last: bool) -> None:
        """Add a scalar's gradients."""
        self._engine.set_gradient_accumulation_boundary(last)
        self._engine.backward(loss, scale_wrt_gas=False)

    def step(self, learning_rate: float) -> tuple[float, bool]:
        """Clip, update, clear."""
        for group in self._engine.optimizer.param_groups:
            group["lr"] = learning_rate
        skipped = self._engine.skipped_steps
        self._engine.step()
        return float(self._engine.get_global_grad_norm()), self._engine.skipped_steps == skipped

    def save(self, directory: Path) -> None:
        """Write this rank's files of a DeepSpeed checkpoint."""
        self._engine.save_checkpoint(str(directory), tag=TAG, save_latest=False)

    def load(self, directory: Path) -> None:
        """Read this rank's files, or what `make_universal` made of those of other ranks."""
        if not self._other_ranks:
            self._engine.load_checkpoint(str(directory), tag=TAG)
            return
        optimizer = self._engine.optimizer.optimizer
        decays = [group["weight_decay"] for group in optimizer.param_groups]
        self._engine.load_checkpoint(str(directory), tag=UNIVERSAL)
        # DeepSpeed gives all groups the first one's settings, and all states one and the same step counter, which
        # would then count every step once for each of them.
        for group, decay in zip(optimizer.param_groups, decays, strict=True):
            group["weight_decay"] = decay
        for state in optimizer.state.values():
            state["step"] = torch.as_tensor(state["step"]).clone()

    def shapes(self) -> dict[str, torch.Size]:
        """Return the full shape of every weight."""
        return {n: torch.Size(getattr(p, "ds_shape", p.shape)) for n, p in self.causal.named_parameters()}

    def weights(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Yield every weight, gathered a few at a time."""
        import deepspeed

        for group in self._writable():
            gathered = [p for _, p in group] if self._stage == 3 else []
            with deepspeed.zero.GatheredParameters(gathered, enabled=bool(gathered)):
                yield from ((name, p.detach()) for name, p in group)

    def _writable(self) -> Iterator[list[tuple[str, torch.nn.Parameter]]]:
        group: list[tuple[str, torch.nn.Parameter]] = []
        held = 0
        shapes = self.shapes()
        for name, parameter in self.causal.named_parameters():
            size = shapes[name].numel()
            if group and held + size > GATHERED:
                yield group
                group, held = [], 0
            group.append((name, parameter))
            held += size
        yield group


def make_universal(checkpoint: Path, directory: Path) -> None:
    """Sort the files that all ranks saved by weight, so that any number of ranks can load them. Called on one process.

    DeepSpeed's converter forks its workers. It runs in a process of its own, since a fork of this one would inherit
    the locks of its threads (OpenMP's, the process group's) and could wait on them for ever.

    Args:
        checkpoint: what all ranks saved.
        directory: where to; `ZeroEngine.load` takes it. It needs about 26 bytes per parameter while this runs.

    Raises:
        StorageError: the files cannot be sorted.
    """
    workers = str(_sorters(checkpoint / TAG))
    command = [
        *(sys.executable, "-m", "deepspeed.checkpoint.ds_to_universal", "--inject_missing_state"),
        *("--input_folder", str(checkpoint / TAG), "--output_folder", str(directory / UNIVERSAL)),
        *("--num_extract_workers", workers, "--num_merge_workers", workers),
    ]
    environment = {**os.environ, "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        words = [line for line in done.stderr.splitlines() if line.strip()] or [f"exit code {done.returncode}"]
        raise StorageError(
            f"{checkpoint}: its files cannot be sorted by weight in {directory} ({words[-1].strip()}); free space "
            "there (26 bytes per parameter) and memory, or run with as many workers as saved it"
        )


def _sorters(directory: Path) -> int:
    """Return how many processes sort at once: each holds the optimizer file of a rank and copies of its pieces."""
    largest = max((file.stat().st_size for file in directory.glob("*optim_states.pt")), default=1)
    return max(1, min(SORTERS, os.cpu_count() or 1, psutil.virtual_memory().available // (2 * largest)))
