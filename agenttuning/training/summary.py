"""What a finished training run amounted to: `trained.json` and `metrics.jsonl` in the training stage's store."""

from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

import orjson

from agenttuning.errors import DataError
from agenttuning.storage import Store
from agenttuning.training.checkpoint import HISTORY, Progress
from agenttuning.training.device import Numerics
from agenttuning.training.plan import Plan

SUMMARY = "trained.json"
"""Written last: where it is, training is done."""

LAST_STEPS = 10
"""Steps over which the closing loss is averaged."""


@dataclass(frozen=True)
class TrainSummary:
    """What training amounted to.

    Attributes:
        steps: optimizer steps done.
        planned_steps: steps the recipe asked for.
        bad_steps: steps skipped for a loss or gradient that was not finite.
        tokens: tokens trained on.
        supervised_tokens: those of them with a loss.
        prefix_tokens_saved: those of them that did not pass through the network again, being shared.
        items: items by source.
        item_share: share of each source in the items.
        epochs: how often each source was gone through.
        first_loss: loss of the first step.
        last_loss: mean loss of the last ten.
        seconds: time in steps.
        tokens_per_second: over all workers.
        supervised_tokens_per_second: over all workers.
        packing_efficiency: share of the rows' capacity that held tokens, mean over steps.
        peak_memory_bytes: of the first worker.
        workers: processes that trained.
        device: what they computed on.
        dtype: of weights and activations.
        attention: kernel.
        notes: what was chosen, cut or continued.
    """

    steps: int
    planned_steps: int
    bad_steps: int
    tokens: int
    supervised_tokens: int
    prefix_tokens_saved: int
    items: dict[str, int]
    item_share: dict[str, float]
    epochs: dict[str, float]
    first_loss: float | None
    last_loss: float | None
    seconds: float
    tokens_per_second: float
    supervised_tokens_per_second: float
    packing_efficiency: float
    peak_memory_bytes: int
    workers: int
    device: str
    dtype: str
    attention: str
    notes: list[str]

    def as_dict(self) -> dict[str, Any]:
        """Return the summary as JSON values."""
        return asdict(self)


def summarise(progress: Progress, plan: Plan, numerics: Numerics, workers: int, peak_memory: int) -> TrainSummary:
    """Return the summary of a run that is done."""
    sizes = {name: len(counts.tokens) for name, counts in plan.items.items()}
    drawn = sum(progress.items.values())
    losses = [m["loss"] for m in progress.history]
    last = [x for x in losses[-LAST_STEPS:] if x is not None]
    return TrainSummary(
        steps=progress.step,
        planned_steps=plan.steps,
        bad_steps=progress.bad_steps,
        tokens=progress.tokens,
        supervised_tokens=progress.supervised,
        prefix_tokens_saved=progress.shared,
        items=progress.items,
        item_share={name: count / drawn for name, count in progress.items.items()},
        epochs={name: count / sizes[name] for name, count in progress.items.items()},
        first_loss=losses[0] if losses else None,
        last_loss=fmean(last) if last else None,
        seconds=progress.seconds,
        tokens_per_second=progress.tokens / progress.seconds,
        supervised_tokens_per_second=progress.supervised / progress.seconds,
        packing_efficiency=fmean(m["packing_efficiency"] for m in progress.history),
        peak_memory_bytes=peak_memory,
        workers=workers,
        device=numerics.device,
        dtype=numerics.dtype,
        attention=numerics.attention,
        notes=progress.notes,
    )


def write_summary(store: Store, summary: TrainSummary, history: list[dict[str, Any]]) -> None:
    """Write the metrics of every step, then the summary."""
    store.write(HISTORY, b"".join(orjson.dumps(m) + b"\n" for m in history))
    store.write_json(SUMMARY, summary.as_dict())


def read_summary(store: Store) -> TrainSummary | None:
    """Return the summary of a run that is done, or None.

    Raises:
        DataError: the file is torn or of another version.
    """
    if not store.exists(SUMMARY):
        return None
    try:
        return TrainSummary(**store.read_json(SUMMARY))
    except TypeError as error:
        raise DataError(
            f"{store.uri}/{SUMMARY}: another version wrote it ({error}); go on with that one, or give this run another "
            "name (run.name=...)"
        ) from error
