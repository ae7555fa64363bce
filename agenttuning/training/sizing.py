"""What a recipe's training will take: memory per worker, time on a named GPU, steps, tokens and epochs per source.

Arithmetic on the model's shape, no measurement. The memory is that of `agenttuning.training.memory`; the speed is the
GPU's peak times an assumed share, which is printed with it. Item counts and lengths are estimates until the items
exist, and then say `at most` or `at least`. A recipe that cannot fit is refused with the changes that would make it.
"""

import math
from dataclasses import dataclass, replace
from typing import Any

from agenttuning.errors import ConfigurationError
from agenttuning.recipe import Recipe, Training
from agenttuning.training.architectures import shape_of
from agenttuning.training.gpus import DEFAULT, Gpu, computed_dtype, find_gpu
from agenttuning.training.memory import GIB, host_bytes, memory_per_worker, trained_parameters
from agenttuning.training.remedies import find_remedies

PAPER_ITEMS = {"agent": 1866, "gpt4": 3670, "gpt35": 57096}
"""Items of the paper's sources: AgentInstruct, and ShareGPT conversations with GPT-4 and GPT-3.5."""
ASSUMED_FILL = 0.95
"""Share of a row that packing fills at 64 items a step."""
ASSUMED_MFU = 0.4
"""Share of the GPU's peak at which training is assumed to compute, what it computes twice included."""


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
    """What training takes.

    Attributes:
        gpu: what it is counted for; None on a CPU.
        memory: GiB per worker, by part.
        host: GiB of host memory per worker.
        remedies: changes with which a worker would fit, where it does not.
        flops: of the model, counting nothing twice.
        tokens_per_second: of all workers; None on a CPU.
        hours: of all steps; None on a CPU.
    """

    model: str
    parameters: int
    trained: int
    workers: int
    dtype: str
    gpu: Gpu | None
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
    tokens_per_second: float | None
    hours: float | None
    notes: tuple[str, ...]

    @property
    def total(self) -> float:
        """GiB per worker."""
        return sum(self.memory.values())

    @property
    def fits(self) -> bool | None:
        """Whether a worker fits its GPU; None on a CPU."""
        return None if self.gpu is None else self.total <= self.gpu.gib

    @property
    def gpu_hours(self) -> float | None:
        """Hours of all GPUs together."""
        return None if self.hours is None else self.hours * self.workers


def size_recipe(
    recipe: Recipe,
    model_config: dict[str, Any],
    item_stats: dict[str, dict[str, float]] | None = None,
    gpu: Gpu | None = None,
) -> Sizing:
    """Size a recipe.

    Args:
        recipe: reads model, mixture, training and, where training names no GPU, serving.
        model_config: the model's `config.json`.
        item_stats: for each source `items` (count) and `mean_tokens`, as far as known. Sources named as the paper's
            have the paper's counts.
        gpu: what the workers have; None: the one that the recipe names, else `gpus.DEFAULT`.

    Raises:
        ConfigurationError: the model is not a decoder in the Llama form, or the GPU is not known.
    """
    shape, training, stats = shape_of(model_config), recipe.training, item_stats or {}
    named = training.accelerator_type or recipe.serving.accelerator_type
    setting = f"{'training' if training.accelerator_type else 'serving'}.accelerator_type"
    device = (gpu or find_gpu(named or DEFAULT, setting)) if training.use_gpu else None
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
    micro_steps = -(-rows // training.workers)
    dtype = computed_dtype(training, device)
    memory = memory_per_worker(shape, training, dtype, recipe.mixture.max_length)
    attention = 6.0 * shape.layers * shape.query * attended
    flops = 6.0 * shape.multiplied * tokens + attention
    hours = None
    if device is not None:
        # Every worker takes its micro-steps, also with rows that are not there.
        share_of_rows = micro_steps * training.workers / rows
        executed = _passes(training) * shape.multiplied * tokens + attention * (
            4 / 3 if training.activation_checkpointing else 1
        )
        speed = training.workers * device.tflops(dtype) * 1e12 * ASSUMED_MFU
        hours = executed * share_of_rows / speed / 3600
    known = all("mean_tokens" in stats.get(name, {}) for name in weights)
    sizing = Sizing(
        model=recipe.model.path,
        parameters=shape.parameters,
        trained=trained_parameters(shape, training),
        workers=training.workers,
        dtype=dtype,
        gpu=device,
        memory=memory,
        host=host_bytes(shape, training) / GIB,
        remedies=(),
        steps=training.steps,
        items=drawn,
        tokens=round(tokens),
        tokens_bound="" if known else "at most",
        rows_per_step=rows,
        micro_steps=micro_steps,
        sources=sources,
        flops=flops,
        tokens_per_second=tokens / hours / 3600 if hours else None,
        hours=hours,
        notes=_notes(recipe, rows, known, stats, device, named or gpu),
    )
    return replace(sizing, remedies=find_remedies(shape, recipe, device)) if device and not sizing.fits else sizing


def check_fits(sizing: Sizing) -> None:
    """Refuse what cannot fit.

    Raises:
        ConfigurationError: a worker needs more memory than its GPU has; the message says what would fit.
    """
    if sizing.gpu is not None and not sizing.fits:
        raise ConfigurationError(
            f"training: a worker needs {sizing.total:.1f} GiB, {sizing.gpu.name} has {sizing.gpu.gib:g}. It would fit "
            f"with {'; or '.join(sizing.remedies)}"
        )


def format_sizing(sizing: Sizing) -> str:
    """Return the sizing as a text table."""
    device = f"{sizing.gpu.name} of {sizing.gpu.gib:g} GiB" if sizing.gpu else "CPU worker"
    trained = "" if sizing.trained == sizing.parameters else f", {sizing.trained / 1e9:.3g} B of them trained"
    if sizing.trained < sizing.parameters / 1000:
        trained = f", {sizing.trained / 1e6:.3g} M trained"
    lines = [
        f"{sizing.model}: {sizing.parameters / 1e9:.3g} B parameters{trained}, in {sizing.dtype} on "
        f"{sizing.workers} x {device}",
        "",
    ]
    lines += [f"  {part:<42}{size:>9.2f} GiB" for part, size in sizing.memory.items()]
    verdict = {True: "fits", False: "DOES NOT FIT", None: ""}[sizing.fits]
    of = f" of {sizing.gpu.gib:g}: {verdict}" if sizing.gpu else ""
    lines.append(f"  {'per worker':<42}{sizing.total:>9.2f} GiB{of}")
    if sizing.host:
        lines.append(f"  {'host memory per worker (offload)':<42}{sizing.host:>9.2f} GiB")
    lines += [f"  it would fit with {remedy}" for remedy in sizing.remedies]
    bound = f"{sizing.tokens_bound} " if sizing.tokens_bound else ""
    lines += [
        "",
        f"  {sizing.steps:,} steps, {sizing.items:,} items, {bound}{sizing.tokens / 1e6:,.1f} M tokens; "
        f"{bound}{sizing.rows_per_step} rows a step, {sizing.micro_steps} per worker",
        f"  {bound}{sizing.flops:.2e} FLOPs",
    ]
    if sizing.gpu and sizing.hours and sizing.tokens_per_second:
        peak = sizing.gpu.tflops(sizing.dtype)
        lines.append(
            f"  {sizing.tokens_per_second:,.0f} tokens/s, {bound}{sizing.hours:,.1f} hours "
            f"({sizing.gpu_hours:,.1f} GPU hours), assuming {ASSUMED_MFU:.0%} of the {peak:g} TFLOP/s peak of each "
            f"{sizing.gpu.name}"
        )
    lines += [
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


def _passes(training: Training) -> float:
    """Return the arithmetic per parameter and token: two each for forward, inputs' and weights' gradients."""
    weights = 0.0 if training.lora is not None else 2.0
    return 4.0 + weights + (2.0 if training.activation_checkpointing else 0.0)


def _notes(
    recipe: Recipe,
    rows: int,
    known: bool,
    stats: dict[str, dict[str, float]],
    gpu: Gpu | None,
    named: Gpu | str | None,
) -> tuple[str, ...]:
    training, notes = recipe.training, []
    if gpu is not None and named is None:
        notes.append(f"training.accelerator_type names no GPU: counted for {gpu.name}")
    if gpu is not None and gpu.bf16_tflops is None and training.dtype == "bfloat16":
        notes.append(f"{gpu.name} has no bfloat16: it would be emulated, slower than counted; take training.dtype=auto")
    if training.offload_optimizer:
        notes.append(
            "the update on the host and the way there are not in the hours; they matter most at few rows a step"
        )
    if not known:
        notes.append(f"item lengths are not known yet: counted as mixture.max_length={recipe.mixture.max_length} each")
    if papers := [n for n, s in recipe.mixture.sources.items() if n in PAPER_ITEMS and s.path and n not in stats]:
        notes.append(f"items of {', '.join(papers)} are the paper's counts; your files may hold others")
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
