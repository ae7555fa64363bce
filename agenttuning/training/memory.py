"""Memory of one training worker, from the model's shape and the recipe: what is alive at the step's peak.

It counts the tensors that the two engines hold, as tests measure them: weights in the compute dtype, gradients summed
in float32, AdamW's two moments and float32 master weights, DeepSpeed's buffers under the configuration that the engine
gives it, what autograd keeps of a packed row, and the logits of one chunk with the head's gradient. On a GPU attention
keeps no weights; on a CPU in bfloat16 it does.
"""

from typing import Any

from agenttuning.recipe import Training
from agenttuning.training.architectures import Shape
from agenttuning.training.device import Numerics

GIB = 2**30
LIVE_PARAMETERS, SUB_GROUP = 10**9, 10**9
"""DeepSpeed's defaults, in elements, for what the engine does not set: stage3_max_live_parameters, sub_group_size."""
QUANTIZED = 0.5 + 1 / 64 + 4 / (64 * 256)
"""Bytes of a weight in 4 bits: a byte of scale for 64 of them, and four for 256 scales."""
FRAGMENTATION = 0.1
"""Allowance for memory that the allocator holds and cannot use, as a share of what comes and goes in a step."""
RUNTIME_GPU, RUNTIME_CPU = 2.0, 1.5
"""GiB of a process with its libraries; on a GPU the context, cuBLAS and NCCL."""

ALLOWANCE = f"fragmentation allowance ({FRAGMENTATION:.0%})"
RUNTIME = "runtime and libraries"


def memory_per_worker(shape: Shape, training: Training, dtype: str, longest: int) -> dict[str, float]:
    """Return GiB by part at the peak of a step of one worker; the parts add up to what its device needs.

    Args:
        shape: of the model.
        training: the recipe's section.
        dtype: that it computes in, `bfloat16` or `float32`.
        longest: tokens of the longest item; read on a CPU alone.
    """
    tensors = tensor_bytes(shape, training, dtype, longest)
    moving = sum(tensors.values()) - sum(tensors[part] for part in ("parameters", "gradients", "optimizer states"))
    runtime = RUNTIME_GPU if training.use_gpu else RUNTIME_CPU
    parts = {**tensors, ALLOWANCE: FRAGMENTATION * moving, RUNTIME: runtime * GIB}
    return {name: size / GIB for name, size in parts.items() if size}


def tensor_bytes(shape: Shape, training: Training, dtype: str, longest: int) -> dict[str, float]:
    """Return bytes of tensors by part, as `memory_per_worker` takes them, without allowance and runtime."""
    element = 2 if dtype == "bfloat16" else 4
    stage, world = training.zero_stage, training.workers
    trained, adapters = trained_parameters(shape, training), _adapters(shape, training)
    parameters = element * (shape.parameters + adapters) / (world if stage == 3 else 1)
    if training.lora is not None and training.lora.quantize is not None:
        linear = shape.layers * sum(inputs * outputs for inputs, outputs in shape.linears.values())
        parameters += (QUANTIZED - element) * linear
    share = trained / (world if stage else 1)
    optimizer = (12.0 if element == 2 or stage else 8.0) * share  # ZeRO copies float32 weights to master weights too.
    gradients = _gradients(trained, share, stage, element, several=world > 1)
    step = 4 * min(share, SUB_GROUP) if stage == 3 else 0.0
    if training.offload_optimizer:
        # The sums of stages 2 and 3 lie beside the states that they update.
        optimizer, step = 0.0, 0.0
        gradients = element * trained if stage == 1 else 0.0
    held, passing = _zero_buffers(shape, training, dtype)
    kept, behind = _activations(shape, training, element, longest)
    logits, head_gradient = _logits(shape, training, element)
    # The peak is in the head, or where the head's gradient is scaled, or in a block's backward pass, when the head's
    # part is gone, or in the update, when all of them are.
    activations = max(kept, kept + 2 * head_gradient - logits, behind - logits)
    return {
        "parameters": parameters,
        "gradients": gradients,
        "optimizer states": optimizer,
        "ZeRO buffers": held + passing,
        "activations": activations,
        "logits": logits,
        "update beyond the last two": max(0.0, step - activations - logits - passing),
    }


def host_bytes(shape: Shape, training: Training) -> float:
    """Return the host memory that one worker's offloaded optimizer takes: states, and gradients in float32."""
    if not training.offload_optimizer:
        return 0.0
    return 16 * trained_parameters(shape, training) / (training.workers if training.zero_stage else 1)


def trained_parameters(shape: Shape, training: Training) -> int:
    """Return how many parameters the optimizer moves."""
    if training.lora is not None:
        return _adapters(shape, training)
    return shape.parameters - (shape.embeddings if training.freeze_embeddings else 0)


def _adapters(shape: Shape, training: Training) -> int:
    return 0 if training.lora is None else shape.adapter_parameters(training.lora.rank, training.lora.targets)


def _gradients(trained: int, share: float, stage: int, element: int, several: bool) -> float:
    """Return the bytes of gradients between two micro-steps.

    Sums are in float32, whole under stages 0 and 1. Beside them stage 1 keeps the last micro-step's in the compute
    dtype, and stage 2 the partition's in the dtype in which ranks add them up.
    """
    if stage == 1:
        return float(trained * (4 + element))
    if stage == 2:
        return share * (4 + (4 if several else element))
    return 4.0 * share if stage == 3 else 4.0 * trained


def _zero_buffers(shape: Shape, training: Training, dtype: str) -> tuple[float, float]:
    """Return the bytes of DeepSpeed's buffers that are always held, and of those in the forward and backward pass."""
    if not training.zero_stage:
        return 0.0, 0.0
    from agenttuning.training.zero import zero_config

    element = 2 if dtype == "bfloat16" else 4
    numerics = Numerics("cuda:0" if training.use_gpu else "cpu", dtype, "auto")
    zero: dict[str, Any] = zero_config(training, numerics, shape.hidden, training.workers)["zero_optimization"]
    bucket = int(zero["reduce_bucket_size"])
    several = training.workers > 1
    # Among ranks a full bucket is cast to float32 to be summed.
    summed = 4.0 * min(bucket, trained_parameters(shape, training)) if several else 0.0
    if training.zero_stage == 3:
        gathered = min(shape.parameters, LIVE_PARAMETERS + int(zero["stage3_prefetch_bucket_size"])) if several else 0
        return float(element * bucket), summed + element * gathered
    if training.zero_stage == 2:
        return 0.0, summed + element * bucket * (2 if zero["overlap_comm"] else 1)
    return 0.0, summed


def _activations(shape: Shape, training: Training, element: int, longest: int) -> tuple[float, float]:
    """Return the bytes that autograd keeps of a row for the backward pass, and the most when that is in a block."""
    lora, row = training.lora, training.row_tokens
    frozen = element * shape.hidden if lora is not None else 0  # A norm whose weight is frozen keeps one thing less.
    block = float(shape.saved_bytes(element) - 2 * frozen)
    if lora is not None:
        adapted = shape.adapted(lora.targets)
        block += element * lora.rank * len(adapted)
        block += (element + 1) * sum(size for size, _ in adapted) if lora.dropout else 0
    if not training.use_gpu:
        block += _cpu_attention(shape, row, element, longest)
    last = (4 + 2 * element) * shape.hidden + 4 - frozen + element * shape.hidden
    work = element * (3 * shape.inner + 2 * shape.hidden)
    if training.activation_checkpointing:
        inputs = shape.layers * element * shape.hidden
        return row * (inputs + last), row * (inputs + block + work)
    return row * (shape.layers * block + last), row * (shape.layers * block + work)


def _cpu_attention(shape: Shape, row: int, element: int, longest: int) -> float:
    """Return the bytes per token that the kernels for CPUs keep more than flash-attention does."""
    from agenttuning.training.blocked_attention import BLOCK, LONGEST

    keys = min(longest, row)
    if element == 4 or keys > LONGEST:
        return element * shape.query  # The segments' outputs are joined into a row.
    seen = sum(min(BLOCK, keys - start) * min(start + BLOCK, keys) for start in range(0, keys, BLOCK)) / keys
    return element * shape.heads * seen - 4 * shape.heads


def _logits(shape: Shape, training: Training, element: int) -> tuple[float, float]:
    """Return the bytes of the head's work, and of its weight's gradient, which stays for the backward pass."""
    from agenttuning.training.loss import ROWS

    chunk = min(training.logits_chunk, training.row_tokens)
    trained = training.lora is None and not training.freeze_embeddings
    gradient = element * shape.vocab * shape.hidden if trained else 0
    several = 4 * shape.vocab * shape.hidden if trained and training.row_tokens > chunk else 0
    rows = 2 * 4 * min(ROWS, chunk) * shape.vocab
    return float(element * chunk * shape.vocab + several + max(rows, gradient)), float(gradient)
