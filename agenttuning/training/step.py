"""One optimizer step: its rows through the model, the global loss, the update, and what is measured.

The loss is exact by construction: each row's summed loss is divided by the supervised tokens of the whole step, and
multiplied by the number of ranks, by which the gradient reduction divides.
"""

import resource
import time
from collections import Counter
from collections.abc import Mapping
from typing import Any

import torch

from agenttuning.errors import ConfigurationError
from agenttuning.recipe import Training
from agenttuning.training.batch import Items, make_batch
from agenttuning.training.checkpoint import Progress
from agenttuning.training.engine import Engine
from agenttuning.training.packing import efficiency
from agenttuning.training.plan import StepPlan
from agenttuning.training.ranks import Ranks
from agenttuning.training.rows import Row


def run_step(
    engine: Engine,
    step: StepPlan,
    items: Mapping[str, Items],
    learning_rate: float,
    training: Training,
    ranks: Ranks,
    progress: Progress,
    stop_wish: bool = False,
) -> tuple[dict[str, Any], bool]:
    """Train one step and move `progress` on.

    Args:
        engine: what is trained.
        step: its rows.
        items: the encoded items.
        learning_rate: of this step.
        training: the recipe's section.
        ranks: this process among the others.
        progress: where the run stands; its step, counts and seconds are updated.
        stop_wish: this rank's wish to stop.

    Returns:
        The step's metrics, and whether any rank wishes to stop.

    Raises:
        ConfigurationError: more steps than `training.max_bad_steps` had a loss or gradient that is not finite.
    """
    started = time.monotonic()
    names = list(items)
    losses, counts = _accumulate(engine, step.ranks[ranks.rank], items, step.supervised, ranks)
    *sums, wishes = ranks.sums([*losses, *counts, float(stop_wish)])
    by_source, supervised = sums[: len(names)], sums[len(names) :]
    loss = sum(by_source) / step.supervised
    norm, updated = engine.step(learning_rate)
    seconds = time.monotonic() - started
    rows = [row for rank in step.ranks for row in rank if row]
    _advance(progress, step, rows, seconds, updated)
    metrics: dict[str, Any] = {
        "step": progress.step,
        "loss": loss,
        "learning_rate": learning_rate,
        "grad_norm": norm,
        "tokens": step.tokens,
        "supervised_tokens": step.supervised,
        "shared_tokens": step.tokens - step.computed,
        "tokens_per_second": step.tokens / seconds,
        "supervised_tokens_per_second": step.supervised / seconds,
        "packing_efficiency": efficiency(step.computed, len(rows), training.row_tokens),
        "micro_steps": step.micro_steps,
        "seconds": seconds,
        "elapsed_seconds": progress.seconds,
        "peak_memory_bytes": peak_memory(ranks.device),
        "bad_steps": progress.bad_steps,
        "total_steps": progress.total_steps or training.steps,
    }
    drawn = sum(progress.items.values())
    for name, total, count in zip(names, by_source, supervised, strict=True):
        metrics[f"items/{name}"] = progress.items.get(name, 0)
        metrics[f"share/{name}"] = progress.items.get(name, 0) / drawn
        if count:
            metrics[f"loss/{name}"] = total / count
    progress.history.append(metrics)
    if progress.bad_steps > training.max_bad_steps:
        raise ConfigurationError(
            f"step {progress.step}: loss {loss:.4g}, gradient norm {norm:.4g}; {progress.bad_steps} steps were not "
            f"finite and were skipped, more than training.max_bad_steps={training.max_bad_steps}. Lower "
            f"training.learning_rate ({training.learning_rate:g}), raise training.warmup_ratio, or set "
            "training.dtype=float32; then start under another run.name"
        )
    return metrics, wishes > 0


def peak_memory(device: str) -> int:
    """Return the most memory this process has held: on the GPU it trains on, else resident in host memory, in bytes."""
    if device != "cpu":
        return int(torch.cuda.max_memory_allocated(device))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


def _accumulate(
    engine: Engine, rows: tuple[Row, ...], items: Mapping[str, Items], supervised: int, ranks: Ranks
) -> tuple[list[float], list[float]]:
    """Run this rank's rows forward and backward; return summed loss and supervised tokens by source."""
    sums = torch.zeros(2, len(items), dtype=torch.float64, device=ranks.device)
    for number, row in enumerate(rows, start=1):
        batch = make_batch(row, items)
        # An empty row still runs: under ZeRO all ranks gather weights and reduce gradients together.
        total, losses = engine.losses(batch, 0.0 if batch.empty else ranks.world_size / supervised)
        engine.backward(total, last=number == len(rows))
        if not batch.empty:
            sources = batch.sources.to(ranks.device)
            sums[0].index_add_(0, sources, losses.double())
            sums[1].index_add_(0, sources, batch.weights.to(ranks.device).double())
    found: list[list[float]] = sums.tolist()
    return found[0], found[1]


def _advance(progress: Progress, step: StepPlan, rows: list[Row], seconds: float, updated: bool) -> None:
    progress.step += 1
    progress.seconds += seconds
    progress.bad_steps += not updated
    progress.tokens += step.tokens
    progress.supervised += step.supervised
    progress.shared += step.tokens - step.computed
    drawn = Counter(segment.source for row in rows for segment in row if segment.items == 1)
    progress.items = dict(Counter(progress.items) + drawn)
