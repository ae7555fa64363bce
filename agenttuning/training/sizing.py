"""What a recipe's training will take: memory per worker, steps, tokens, epochs per source, arithmetic.

Arithmetic on the model's shape, no measurement: bf16 training with AdamW and fp32 master weights as DeepSpeed's ZeRO
holds them with its default buckets, packed rows one per micro-step, attention that keeps no score matrix. Item counts
and lengths are estimates until the items exist, and then say `at most` or `at least`.
"""

import math
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from agenttuning.recipe import Recipe, Training
from agenttuning.training.architectures import Shape, shape_of

GIB = 2**30
PAPER_ITEMS = {"agent": 1866, "gpt4": 3670, "gpt35": 57096}
"""Items of the paper's sources: AgentInstruct, and ShareGPT conversations with GPT-4 and GPT-3.5."""
ASSUMED_FILL = 0.95
"""Share of a row that packing fills at 64 items a step."""
ASSUMED_TFLOPS = 400.0
"""Model TFLOP/s of one GPU for the time: about 40 % of an H100's bf16 peak."""
LIVE_PARAMETERS, PREFETCHED, BUCKET, SUB_GROUP = 10**9, 5 * 10**7, 5 * 10**8, 10**9
"""DeepSpeed's defaults, in elements: stage3_max_live_parameters, prefetch and reduce buckets, sub_group_size."""


@dataclass(frozen=True)
class SourceSizing:
    """One source of the mixture.

    Attributes:
        share: of the items of every step.
        drawn: items drawn over all steps.
        items: items it has, where known or bounded.
        epochs: drawn / items, or None.
        bound: `""` where the count is known; `at least` where `items` is an upper bound.
    """

    share: float
    drawn: float
    items: int | None
    epochs: float | None
    bound: str


@dataclass(frozen=True)
class Sizing:
    """What training takes. `memory` is in GiB per worker, by part; `host` in GiB of host memory per worker."""

    model: str
    parameters: int
    workers: int
    device: str
    capacity: float | None
    memory: dict[str, float]
    host: float
    remedies: tuple[str, ...]
    steps: int
    items: int
    tokens: int
    tokens_bound: str
    rows_per_step: int
    micro_steps: int
    sources: dict[str, SourceSizing]
    flops: float
    gpu_hours: float | None
    notes: tuple[str, ...]

    @property
    def total(self) -> float:
        """GiB per worker."""
        return sum(self.memory.values())

    @property
    def fits(self) -> bool | None:
        """Whether a worker fits its device; None where the device's memory is not known."""
        return None if self.capacity is None else self.total <= self.capacity


def size_recipe(
    recipe: Recipe,
    model_config: dict[str, Any],
    item_stats: dict[str, dict[str, float]] | None = None,
    gpu_gib: float = 80.0,
) -> Sizing:
    """Size a recipe.

    Args:
        recipe: reads model, mixture and training.
        model_config: the model's `config.json`.
        item_stats: for each source `items` (count) and `mean_tokens`, as far as known. Sources named as the paper's
            have the paper's counts.
        gpu_gib: memory of one GPU.

    Raises:
        ConfigurationError: the model is not a decoder in the Llama form.
    """
    shape, training, stats = shape_of(model_config), recipe.training, item_stats or {}
    drawn = training.steps * training.items_per_step
    weights = {name: source.weight for name, source in recipe.mixture.sources.items()}
    sources: dict[str, SourceSizing] = {}
    tokens = attended = 0.0
    for name, weight in weights.items():
        share = weight / sum(weights.values())
        sources[name] = _source(recipe, name, share, drawn * share, stats.get(name, {}))
        mean = stats.get(name, {}).get("mean_tokens", recipe.mixture.max_length)
        tokens += drawn * share * mean
        attended += drawn * share * mean**2
    filled = math.ceil(tokens / training.steps / (training.row_tokens * ASSUMED_FILL))
    rows = max(1, min(filled, training.items_per_step))
    capacity = gpu_gib if training.use_gpu else None
    memory = memory_per_worker(shape, training)
    flops = 6.0 * shape.multiplied * tokens + 6.0 * shape.layers * shape.query * attended
    known = all("mean_tokens" in stats.get(name, {}) for name in weights)
    return Sizing(
        model=recipe.model.path,
        parameters=shape.parameters,
        workers=training.workers,
        device=f"GPU of {gpu_gib:g} GiB" if training.use_gpu else "CPU worker",
        capacity=capacity,
        memory=memory,
        host=_host(shape, training),
        remedies=_remedies(shape, training, gpu_gib) if capacity and sum(memory.values()) > capacity else (),
        steps=training.steps,
        items=drawn,
        tokens=round(tokens),
        tokens_bound="" if known else "at most",
        rows_per_step=rows,
        micro_steps=-(-rows // training.workers),
        sources=sources,
        flops=flops,
        gpu_hours=flops / ASSUMED_TFLOPS / 1e12 / 3600 if training.use_gpu else None,
        notes=_notes(recipe, rows, known, stats),
    )


def memory_per_worker(shape: Shape, training: Training) -> dict[str, float]:
    """Return GiB by part for one worker."""
    count, stage, world = shape.parameters, training.zero_stage, training.workers
    trained = _trained(shape, training)
    element = 4 if training.dtype == "float32" else 2
    states = 12 if element == 2 else 8
    weights = element * count / (world if stage == 3 else 1)
    gradients = element * trained / (world if stage >= 2 else 1)
    optimizer = states * trained / (world if stage >= 1 else 1)
    if element == 2:
        optimizer += 4 * min(trained / (world if stage >= 1 else 1), SUB_GROUP)
    if training.offload_optimizer:
        optimizer = 0.0
    buffers = element * min(count, BUCKET) if stage else 0
    if stage == 3:
        buffers += element * (min(count, LIVE_PARAMETERS) + min(count, PREFETCHED))
    elif stage:
        buffers += element * min(count, BUCKET)
    row, block = training.row_tokens, shape.saved_bytes(element)
    activations = row * shape.layers * block
    if training.activation_checkpointing:
        activations = row * (shape.layers * element * shape.hidden + block)
    logits = min(training.logits_chunk, row) * shape.vocab * (element + 8 if element == 2 else 8)
    moving = buffers + activations + logits
    parts = {
        "parameters": weights,
        "gradients": gradients,
        "optimizer states": optimizer,
        "ZeRO buffers": buffers,
        "activations": activations,
        "logits": logits,
        "fragmentation (10 % of the last three)": 0.1 * moving,
        "runtime and libraries": (2.0 if training.use_gpu else 1.5) * GIB,
    }
    return {name: size / GIB for name, size in parts.items() if size}


def format_sizing(sizing: Sizing) -> str:
    """Return the sizing as a text table."""
    lines = [f"{sizing.model}: {sizing.parameters / 1e9:.3g} B parameters on {sizing.workers} x {sizing.device}", ""]
    lines += [f"  {part:<42}{size:>9.2f} GiB" for part, size in sizing.memory.items()]
    verdict = {True: "fits", False: "DOES NOT FIT", None: ""}[sizing.fits]
    of = f" of {sizing.capacity:g}: {verdict}" if sizing.capacity else ""
    lines.append(f"  {'per worker':<42}{sizing.total:>9.2f} GiB{of}")
    if sizing.host:
        lines.append(f"  {'host memory per worker (offload)':<42}{sizing.host:>9.2f} GiB")
    lines += [f"  it would fit with {remedy}" for remedy in sizing.remedies]
    bound = f"{sizing.tokens_bound} " if sizing.tokens_bound else ""
    lines += [
        "",
        f"  {sizing.steps:,} steps, {sizing.items:,} items, {bound}{sizing.tokens / 1e6:,.1f} M tokens; "
        f"{bound}{sizing.rows_per_step} rows a step, {sizing.micro_steps} per worker",
        f"  {bound}{sizing.flops:.2e} FLOPs"
        + (f", {sizing.gpu_hours:,.1f} GPU hours at {ASSUMED_TFLOPS:g} TFLOP/s" if sizing.gpu_hours else ""),
        "",
        f"  {'source':<14}{'share':>8}{'drawn':>10}{'items':>12}  epochs",
    ]
    for name, source in sizing.sources.items():
        items = f"{source.items:,}" if source.items else "not known"
        epochs = f"{source.bound} {source.epochs:.2f}".strip() if source.epochs else "not known"
        lines.append(f"  {name:<14}{source.share:>8.1%}{source.drawn:>10,.0f}{items:>12}  {epochs}")
    return "\n".join([*lines, *(f"\n  note: {note}" for note in sizing.notes)])


def _source(recipe: Recipe, name: str, share: float, drawn: float, stats: dict[str, float]) -> SourceSizing:
    source, bound = recipe.mixture.sources[name], ""
    items: int | None = int(stats["items"]) if "items" in stats else None
    if items is None and source.kind in ("trajectories", "self"):
        played = sum(e.train_tasks for e in recipe.environments.values()) * recipe.rollout.attempts
        items = played if source.kind == "trajectories" else recipe.mixture.self_answers.count
        bound = "at least"
    elif items is None:
        items = PAPER_ITEMS.get(name)
    if items and source.limit:
        items = min(items, source.limit)
    return SourceSizing(share, drawn, items or None, drawn / items if items else None, bound)


def _trained(shape: Shape, training: Training) -> int:
    if training.lora is not None:
        return shape.adapter_parameters(training.lora.rank)
    return shape.parameters - (shape.embeddings if training.freeze_embeddings else 0)


def _host(shape: Shape, training: Training) -> float:
    """Return GiB of host memory that one worker's offloaded optimizer takes: states, and gradients in fp32."""
    if not training.offload_optimizer:
        return 0.0
    return 16 * _trained(shape, training) / (training.workers if training.zero_stage else 1) / GIB


def _remedies(shape: Shape, training: Training, gpu_gib: float) -> tuple[str, ...]:
    """Return changes with which a worker fits: each set of settings with the fewest workers that it needs."""
    settings: list[tuple[str, Any]] = [
        (name, value)
        for name, value in (("zero_stage", 3), ("activation_checkpointing", True), ("offload_optimizer", True))
        if getattr(training, name) != value
    ]
    said: list[str] = []
    fewest = 32
    for count in range(len(settings) + 1):
        for chosen in combinations(settings, count):
            for factor in (1, 2, 4, 8, 16):
                change = {**dict(chosen), **({"workers": training.workers * factor} if factor > 1 else {})}
                total = sum(memory_per_worker(shape, training.model_copy(update=change)).values())
                if total <= gpu_gib and factor < fewest:
                    fewest = factor
                    said.append(", ".join(f"training.{k}={str(v).lower()}" for k, v in change.items()))
                    break
    return tuple(said) or ("no setting of this recipe: take a larger GPU or a smaller model",)


def _notes(recipe: Recipe, rows: int, known: bool, stats: dict[str, dict[str, float]]) -> tuple[str, ...]:
    training, notes = recipe.training, []
    if not known:
        notes.append(f"item lengths are not known yet: counted as mixture.max_length={recipe.mixture.max_length} each")
    if named := [n for n, s in recipe.mixture.sources.items() if n in PAPER_ITEMS and s.path and n not in stats]:
        notes.append(f"items of {', '.join(named)} are the paper's counts; your files may hold others")
    if rows < training.workers:
        notes.append(
            f"{rows} rows a step leave {training.workers - rows} of {training.workers} workers with empty rows; "
            "raise training.items_per_step or lower training.workers"
        )
    if training.dtype == "auto" and not training.use_gpu:
        notes.append("dtype=auto counted as bfloat16; in float32 parameters and activations take twice as much")
    if training.zero_stage == 0 and training.workers > 1:
        notes.append("zero_stage=0 is plain PyTorch on one worker; use 1, 2 or 3 with several")
    return tuple(notes)
