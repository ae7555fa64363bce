"""What one training worker computes on: device, dtype and attention, chosen from the recipe and the machine.

Every `auto` is resolved here, once, and what was chosen and why is kept as text for the log.
"""

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from agenttuning.errors import ConfigurationError
from agenttuning.machine import cpu_bfloat16, loaded_allocator
from agenttuning.recipe import Training
from agenttuning.training.varlen_attention import KERNELS, installed

if TYPE_CHECKING:
    import torch


CAPABILITIES = {"flash_attention_4": ((9, 0), (99, 0)), "flash_attention_3": ((9, 0), (10, 0))}
"""CUDA compute capabilities, from and below, of kernels that do not run on every GPU with bfloat16."""


@dataclass(frozen=True)
class Numerics:
    """What a worker computes with.

    Attributes:
        device: `cpu` or `cuda:<n>`.
        dtype: `bfloat16` or `float32`: of weights, activations and their gradients; master weights are float32.
        attention: `segments`, or a kernel of `varlen_attention.KERNELS`.
        notes: one line per choice, with its reason.
    """

    device: str
    dtype: str
    attention: str
    notes: tuple[str, ...] = ()

    @property
    def torch_dtype(self) -> "torch.dtype":
        """The dtype as torch names it."""
        import torch

        return {"bfloat16": torch.bfloat16, "float32": torch.float32}[self.dtype]


def choose_numerics(training: Training, local_rank: int = 0) -> Numerics:
    """Resolve device, dtype and attention on the machine this runs on.

    Raises:
        ConfigurationError: the recipe asks for a GPU or a kernel that is not here, or for a kernel that does not
            compute in its dtype.
    """
    device = local_device(training.use_gpu, local_rank)
    dtype, why_dtype = _dtype(training)
    attention, why_attention = _attention(training, dtype)
    return Numerics(
        device, dtype, attention, (f"dtype {dtype}: {why_dtype}", f"attention {attention}: {why_attention}")
    )


def process_notes(use_gpu: bool) -> tuple[str, ...]:
    """Return what this process really runs with: its allocator and its threads, which are set where it starts."""
    import torch

    allocator, why = loaded_allocator() or "malloc", ""
    if allocator == "malloc" and (asked := os.environ.get("LD_PRELOAD")):
        why = f", since LD_PRELOAD={asked} is not on this node"
    wait = os.environ.get("OMP_WAIT_POLICY", "not set")
    threads = f"threads {torch.get_num_threads()}: OMP_WAIT_POLICY {wait}"
    return (threads,) if use_gpu else (f"allocator {allocator}{why}", threads)


def local_device(use_gpu: bool, local_rank: int) -> str:
    """Return the device of a worker, whether it sees its own GPU alone or all of its node.

    Raises:
        ConfigurationError: it sees none.
    """
    import torch

    if not use_gpu:
        return "cpu"
    if not torch.cuda.is_available():
        raise ConfigurationError(
            "training.use_gpu is set, but this worker sees no GPU; check its driver and CUDA_VISIBLE_DEVICES, or "
            "unset training.use_gpu"
        )
    return f"cuda:{local_rank % torch.cuda.device_count()}"


def _dtype(training: Training) -> tuple[str, str]:
    import torch

    if training.dtype != "auto":
        return training.dtype, "as the recipe says"
    if training.use_gpu:
        native = torch.cuda.is_bf16_supported(including_emulation=False)
        return ("bfloat16", "the GPU computes it") if native else ("float32", "the GPU has no bfloat16")
    if extension := cpu_bfloat16():
        return "bfloat16", f"the CPU has {extension}"
    return "float32", "the CPU has neither AMX nor AVX512-BF16, so bfloat16 would be slower"


def _attention(training: Training, dtype: str) -> tuple[str, str]:
    import torch

    asked = training.attention
    if asked == "segments":
        return asked, "as the recipe says"
    if asked in KERNELS:
        if not training.use_gpu or asked not in installed():
            raise ConfigurationError(
                f"training.attention={asked} needs training.use_gpu and the module {KERNELS[asked]}; "
                "install it in the cluster's image, or set training.attention=auto"
            )
        if dtype != "bfloat16":
            raise ConfigurationError(
                f"training.attention={asked} computes in 16 bits, but the dtype is {dtype}; set "
                "training.attention=segments or training.dtype=bfloat16"
            )
        if not _runs(asked):
            raise ConfigurationError(
                f"training.attention={asked} is not written for this GPU (compute capability "
                f"{'.'.join(map(str, torch.cuda.get_device_capability()))}); set training.attention=auto"
            )
        return asked, "as the recipe says"
    if not training.use_gpu:
        return "segments", "one call per packed segment"
    if dtype != "bfloat16":
        return "segments", f"the kernels made for packed rows do not compute in {dtype}"
    best = next((kernel for kernel in installed() if _runs(kernel)), "segments")
    return best, "the best here of those made for packed rows"


def _runs(kernel: str) -> bool:
    """Whether the GPU is one that a kernel is written for."""
    import torch

    least, below = CAPABILITIES.get(kernel, ((0, 0), (99, 0)))
    return least <= torch.cuda.get_device_capability() < below
