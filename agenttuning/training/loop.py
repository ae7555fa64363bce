"""The training loop: a plain function for one process, torchrun or Ray Train alike.

Every step is a function of the plan, the weights and the optimizer's state, so a run that is killed and resumed gives
the same weights: bit for bit on a CPU; on a GPU, whose kernels add gradients in no fixed order, within rounding. When
the last step is done the weights are written once more, by name, for the export; a finished run does nothing when it
is called again.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any

import torch

from agenttuning.errors import ConfigurationError
from agenttuning.recipe import Training
from agenttuning.storage import Store
from agenttuning.training.batch import Items
from agenttuning.training.checkpoint import Progress, checkpoint_ranks, latest_checkpoint, load_checkpoint
from agenttuning.training.checkpoint_writer import CheckpointWriter, delete_torn
from agenttuning.training.device import Numerics, choose_numerics, process_notes
from agenttuning.training.engine import Engine, make_engine
from agenttuning.training.lora import merge, merged_shapes
from agenttuning.training.plan import Plan
from agenttuning.training.ranks import Ranks, join_ranks
from agenttuning.training.schedule import TIMED_STEPS, make_schedule, steps_within
from agenttuning.training.step import peak_memory, run_step
from agenttuning.training.summary import TrainSummary, read_summary, summarise, write_summary
from agenttuning.training.weights import WEIGHTS, exported_dtype, write_checkpoint_weights, write_weights


class Wish(IntEnum):
    """What a report asks of the run."""

    GO_ON = 0
    SAVE = 1
    """A checkpoint now, and on; all ranks wish it in the same step."""
    STOP = 2
    """A checkpoint after the next step, and an early return; one rank's wish is enough."""


Report = Callable[[dict[str, Any]], Wish]
"""Called on every rank after every step with its metrics."""


@dataclass(frozen=True)
class TrainConfig:
    """What a worker needs besides plan and items.

    Attributes:
        training: the recipe's section.
        model_dir: the base model.
        output: store of the training stage.
        seed: of the run.
        trust_remote_code: run the model's own code.
    """

    training: Training
    model_dir: Path
    output: Store
    seed: int = 0
    trust_remote_code: bool = False


def train(
    config: TrainConfig,
    plan: Plan,
    items: Mapping[str, Items],
    report: Report | None = None,
    tell: Callable[[str], None] | None = None,
) -> TrainSummary | None:
    """Train to the end of the plan, from the newest checkpoint where there is one.

    Args:
        config: what to train, how, and where to.
        plan: made for as many ranks as there are.
        items: the encoded items of the plan's sources.
        report: told of every step.
        tell: told, one line each, what was chosen, cut or continued.

    Returns:
        What training amounted to; None when `report` wished to stop.

    Raises:
        ConfigurationError: plan, checkpoint, recipe and machine do not fit together, or training diverged.
        DataError: an item is not what the plan says.
        StorageError: a checkpoint cannot be written.
    """
    training, output = config.training, config.output
    ranks = join_ranks(training.zero_stage, training.use_gpu, training.collective_timeout_s)
    if (finished := ranks.from_first(lambda: read_summary(output))) is not None:
        return finished
    _check_ranks(training, plan, ranks)
    numerics = choose_numerics(training, ranks.local_rank)
    torch.manual_seed(config.seed + ranks.rank)
    saved_by = ranks.from_first(lambda: checkpoint_ranks(output))
    moved = saved_by not in (None, ranks.world_size)
    if moved and tell is not None:
        tell(
            f"training: what {saved_by} workers saved is sorted by weight first; training.collective_timeout_s="
            f"{training.collective_timeout_s:g} must be enough for it"
        )
    engine = make_engine(config.model_dir, training, numerics, config.trust_remote_code, moved)
    identity = {"plan": plan.fingerprint, "zero_stage": training.zero_stage, "dtype": numerics.dtype}
    progress = load_checkpoint(output, engine, identity, ranks)
    if progress is None:
        progress = Progress(notes=[*numerics.notes, *process_notes(training.use_gpu)])
    else:
        moved_from = f", which {saved_by} workers saved" if moved else ""
        progress.notes.append(f"continued from step {progress.step}{moved_from}")
    for name in ranks.from_first(lambda: delete_torn(output)):
        progress.notes.append(f"{name} was cut off while it was written: deleted")
    writer = CheckpointWriter(output, identity, ranks, training.keep_checkpoints, training.collective_timeout_s)
    told = 0
    started = time.monotonic()
    wish = Wish.GO_ON
    while progress.step < (last := _decide_steps(progress, plan, training, ranks, started)):
        if tell is not None:
            for note in progress.notes[told:]:
                tell(f"training: {note}")
            told = len(progress.notes)
        rate = make_schedule(training, last).rate(progress.step)
        stops = wish is Wish.STOP
        metrics, stop = run_step(engine, plan.step(progress.step), items, rate, training, ranks, progress, stops)
        wish = report(metrics) if report is not None else Wish.GO_ON
        due = progress.step % training.checkpoint_every == 0 or progress.step == progress.total_steps
        if due or stop or wish is Wish.SAVE:
            writer.save(engine, progress)
        if stop and progress.step != progress.total_steps:
            writer.wait()
            return None
    writer.wait()
    return _finish(config, plan, engine, numerics, progress, ranks)


def _decide_steps(progress: Progress, plan: Plan, training: Training, ranks: Ranks, started: float) -> int:
    """Return the last step as far as it is known, and fix it for good once it can be."""
    if progress.total_steps is None:
        if training.max_seconds is None or plan.steps <= TIMED_STEPS:
            progress.total_steps = plan.steps
        elif progress.step >= TIMED_STEPS:
            _cut_steps(progress, plan, training.max_seconds, ranks, time.monotonic() - started)
    return progress.total_steps or plan.steps


def _cut_steps(progress: Progress, plan: Plan, limit: float, ranks: Ranks, spent: float) -> None:
    seconds = [float(m["seconds"]) for m in progress.history]
    spent = max(spent, progress.seconds)
    fit = ranks.from_first(lambda: steps_within(limit, plan.tokens.tolist(), seconds, spent))
    progress.total_steps = fit
    if fit < plan.steps:
        why = f"by the speed of the first {len(seconds)}"
        progress.notes.append(f"training.max_seconds={limit:g}: cut from {plan.steps} to {fit} steps {why}")


def _finish(
    config: TrainConfig, plan: Plan, engine: Engine, numerics: Numerics, progress: Progress, ranks: Ranks
) -> TrainSummary:
    """Write weights by name and the summary, the last file of a finished run."""
    dtype, lora = exported_dtype(config.model_dir, numerics.dtype), config.training.lora
    place = config.output.child(WEIGHTS) if ranks.rank == 0 else None
    if lora is not None and lora.quantize is not None:
        # The engine holds the base rounded to 4 bits; the adapters belong on what its files hold.
        name = latest_checkpoint(config.output)
        assert name is not None
        assert place is not None
        write_checkpoint_weights(config.output, name, dtype, place, config.model_dir, lora)
    else:
        shapes, weights = engine.shapes(), engine.weights()
        if lora is not None:
            shapes, weights = merged_shapes(shapes), merge(weights, lora)
        write_weights(shapes, weights, dtype, place)
    summary = summarise(progress, plan, numerics, ranks.world_size, peak_memory(numerics.device))
    if ranks.rank == 0:
        write_summary(config.output, summary, progress.history)
    ranks.barrier()
    return summary


def _check_ranks(training: Training, plan: Plan, ranks: Ranks) -> None:
    if plan.world_size != ranks.world_size:
        raise ConfigurationError(
            f"the plan is made for {plan.world_size} workers, but {ranks.world_size} run; make it with world_size="
            f"{ranks.world_size}"
        )
    if training.zero_stage == 0 and ranks.world_size > 1:
        raise ConfigurationError(
            f"training.zero_stage=0 is plain PyTorch on one worker, but there are {ranks.world_size}; set "
            "training.zero_stage to 1, 2 or 3, or training.workers=1"
        )
