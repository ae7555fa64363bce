"""What `training` needs beside its contestants: the GPU's model and arithmetic, and the time that planning takes."""

import sys
import time
from pathlib import Path
from typing import Any

GPU_MODEL = {
    "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32,
    "num_key_value_heads": 8,
}  # fmt: skip
"""A Llama of 1.1 B parameters with SmolLM2's vocabulary."""


def large_model(data: Path, small: Path) -> Path:
    """Return the directory of the GPU's model, made when it is first asked for, with a small model's tokenizer."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    large = data / "gpu-model"
    if not large.exists():
        tokenizer = AutoTokenizer.from_pretrained(small)
        torch.manual_seed(0)
        config = LlamaConfig(vocab_size=len(tokenizer), tie_word_embeddings=True, **GPU_MODEL)
        tokenizer.save_pretrained(large)
        LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(large)
    return large


def step_flops(engine: Any, step: Any) -> float:
    """Return the arithmetic that a step needs: the head where a token is supervised, no pair of tokens of two items."""
    from agenttuning.training.architectures import shape_of

    shape = shape_of(engine.causal.config.to_dict())
    head = shape.vocab * shape.hidden
    segments = [segment for rank in step.ranks for row in rank for segment in row]
    pairs = sum(s.tokens * (s.tokens + 2 * s.start) for s in segments)
    linear = (shape.multiplied - head) * step.computed + head * step.supervised
    return 6.0 * linear + 6.0 * shape.layers * shape.query * pairs


def gpu_peak() -> float:
    """Return the GPU's peak in bfloat16, in FLOP/s."""
    import torch

    from agenttuning.training.gpus import GPUS

    name = torch.cuda.get_device_name()
    known = [gpu for gpu in GPUS if gpu.name.partition("-")[0] in name.replace("-", " ").split()]
    if not known:
        sys.exit(f"the peak of {name} is not known: add it to agenttuning/training/gpus.py")
    return float(known[0].tflops("bfloat16") * 1e12)


def time_planning() -> dict[str, float]:
    """Return CPU time to pack and to plan a million items as long as conversations are, and how full rows are."""
    import numpy as np

    from agenttuning.recipe import Training
    from agenttuning.training.packing import efficiency, pack
    from agenttuning.training.plan import make_plan
    from agenttuning.training.rows import ItemCounts

    tokens = np.clip(np.random.default_rng(0).lognormal(6.5, 0.8, 1_000_000).astype(int), 1, 4096)
    counts = {"agent": ItemCounts.of(tokens[:200_000], tokens[:200_000]), "general": ItemCounts.of(tokens, tokens)}
    started = time.thread_time()
    rows = pack(tokens, 4096)
    packed = time.thread_time()
    training = Training(steps=1_000_000 // 256, items_per_step=256, row_tokens=4096)
    plan = make_plan(counts, {"agent": 0.2, "general": 0.8}, training, seed=0)
    planned = time.thread_time()
    steps = [plan.step(number) for number in range(48)]
    made = time.thread_time()
    return {
        "pack_million_seconds": round(packed - started, 2),
        "plan_million_seconds": round(planned - packed, 2),
        "step_milliseconds": round(1000 * (made - planned) / len(steps), 2),
        "fill_free_order": round(efficiency(int(tokens.sum()), len(rows), 4096), 4),
        "fill_256_items_a_step": round(
            efficiency(sum(step.tokens for step in steps), sum(step.micro_steps for step in steps), 4096), 4
        ),
    }
