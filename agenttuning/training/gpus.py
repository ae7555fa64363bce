"""GPUs by the names Ray gives them: their memory and their peak arithmetic, for sizing.

Peaks are the vendors' data sheets' for dense matrix products, of the SXM variant where there are several; memory is
what PyTorch reports as the device's total.
"""

from dataclasses import dataclass

from agenttuning.errors import ConfigurationError
from agenttuning.recipe import Training


@dataclass(frozen=True)
class Gpu:
    """One kind of GPU.

    Attributes:
        name: as in `ray.util.accelerators`, or the vendor's.
        gib: memory in GiB.
        bf16_tflops: peak in bfloat16 with float32 sums, in TFLOP/s; None where it is not computed natively.
        fp32_tflops: peak in float32 without TF32, in TFLOP/s.
    """

    name: str
    gib: float
    bf16_tflops: float | None
    fp32_tflops: float

    def tflops(self, dtype: str) -> float:
        """Return the peak for a recipe's `training.dtype`, where `auto` takes bfloat16 if it is native."""
        return self.fp32_tflops if dtype == "float32" or self.bf16_tflops is None else self.bf16_tflops


GPUS = (
    Gpu("A100-40G", 39.4, 312.0, 19.5),
    Gpu("A100-80G", 79.1, 312.0, 19.5),
    Gpu("H100", 79.1, 989.0, 67.0),
    Gpu("H200", 139.7, 989.0, 67.0),
    Gpu("B200", 178.3, 2250.0, 75.0),
    Gpu("GB200", 184.0, 2500.0, 80.0),
    Gpu("L4", 22.0, 121.0, 30.3),
    Gpu("L40S", 44.4, 362.0, 91.6),
    Gpu("A10", 22.0, 125.0, 31.2),
    Gpu("A10G", 22.0, 70.0, 31.5),
    Gpu("T4", 14.6, None, 8.1),
    Gpu("V100", 15.8, None, 15.7),
    Gpu("V100-32G", 31.7, None, 15.7),
)
DEFAULT = "H100"
"""Counted with where a recipe names no GPU; it is said."""


def find_gpu(name: str, setting: str = "training.accelerator_type") -> Gpu:
    """Return a GPU by name, in any case; `A100` is the smaller one.

    Args:
        name: as in `GPUS`, or Ray's.
        setting: where the name comes from.

    Raises:
        ConfigurationError: it is not in the table.
    """
    wanted = {"A100": "A100-40G", "A100-80GB": "A100-80G", "A100-40GB": "A100-40G"}.get(name.upper(), name.upper())
    for gpu in GPUS:
        if gpu.name == wanted:
            return gpu
    raise ConfigurationError(
        f"{setting}={name}: memory and speed of this GPU are not known; known: "
        f"{', '.join(gpu.name for gpu in GPUS)}. For --dry-run set training.accelerator_type to one that is like it"
    )


def ray_name(name: str) -> str:
    """Return what Ray calls a GPU on the nodes that have it, which does not tell variants by memory apart."""
    known = next((gpu.name for gpu in GPUS if gpu.name == name.upper()), name)
    return next((kind for kind in ("A100", "V100") if known.upper().startswith(f"{kind}-")), known)


def computed_dtype(training: Training, gpu: Gpu | None) -> str:
    """Return the dtype that a recipe computes in on a GPU, or, `auto` taken for bfloat16, on a CPU (None)."""
    if training.dtype != "auto":
        return training.dtype
    return "float32" if gpu is not None and gpu.bf16_tflops is None else "bfloat16"
