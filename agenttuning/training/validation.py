"""Loss on held-out items, measured on checkpoints by a Ray task beside the workers, which train on meanwhile.

The task reads a checkpoint's weights by name into a model of its own. It waits while the cluster has no room for it; a
checkpoint that was replaced before it came to its turn is passed over. What it found is in `validation.jsonl` of the
training stage. Who starts the training may hand in more to measure, such as a few episodes: `Measure` gets the
checkpoint as a model in a directory. A model that no single process can hold is not for this.
"""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import ray
import torch

from agenttuning.errors import DataError
from agenttuning.machine import cache_directory
from agenttuning.recipe import Recipe, Training
from agenttuning.storage import Store
from agenttuning.training.attention import attention_arguments, implementation_of, register_attention
from agenttuning.training.batch import Items, load_items, make_batch
from agenttuning.training.checkpoint import COMPLETE, latest_checkpoint, scratch_directory
from agenttuning.training.device import choose_numerics
from agenttuning.training.export import copy_companions
from agenttuning.training.loss import PackedCausalLM
from agenttuning.training.mixture import seed_of
from agenttuning.training.rows import packed_rows
from agenttuning.training.weights import exported_dtype, write_checkpoint_weights

FOUND = "validation.jsonl"
SHARE = 10
"""At most one of so many items of a source is held out."""
LOOK_SECONDS = 5.0
"""Time between two looks at the store for new checkpoints; one in an object store costs a listing."""

Tell = Callable[[dict[str, Any]], None]
Measure = Callable[[Path], Mapping[str, float]]
"""Takes a directory with a whole model and its tokenizer, returns metrics by name; it is sent to the task's process."""


def split_items(items: Mapping[str, Items], training: Training, seed: int) -> tuple[dict[str, Items], dict[str, Items]]:
    """Return what is trained on and what is held out, by source; sources too small to hold out any are in the first."""
    if training.validation is None:
        return dict(items), {}
    kept, held = {}, {}
    for name, source in items.items():
        count = min(training.validation.items, len(source) // SHARE)
        order = np.random.default_rng(seed_of(f"{seed}/held out/{name}")).permutation(len(source))
        kept[name] = source.take(np.sort(order[count:]))
        if count:
            held[name] = source.take(np.sort(order[:count]))
    return kept, held


def held_out_loss(
    model_dir: Path, items: Mapping[str, Items], training: Training, trust_remote_code: bool = False
) -> dict[str, float]:
    """Return the mean loss of a token in nats: `loss`, and `loss/<source>` of each source.

    Args:
        model_dir: a whole model.
        items: the held-out items.
        training: reads what training computes with, and the row length.
        trust_remote_code: run the model's own code.
    """
    from transformers import AutoModelForCausalLM

    numerics = choose_numerics(training, 0)
    register_attention()
    causal = AutoModelForCausalLM.from_pretrained(
        model_dir,
        dtype=numerics.torch_dtype,
        attn_implementation=implementation_of(numerics.attention),
        trust_remote_code=trust_remote_code,
    )
    model = PackedCausalLM(causal.to(numerics.device).eval(), training.logits_chunk)
    drawn = [(name, number) for name, source in items.items() for number in range(len(source))]
    counts = {name: source.counts for name, source in items.items()}
    sums = torch.zeros(2, len(items), dtype=torch.float64)
    with torch.no_grad():
        for row in packed_rows(drawn, counts, training.row_tokens, training.share_prefixes, 0):
            batch = make_batch(row, items)
            attention = attention_arguments(batch.lengths, batch.parents, numerics.attention, numerics.device)
            _, losses = model(**batch.inputs(numerics.device), scale=1.0, attention=attention)
            sums[0].index_add_(0, batch.sources, losses.double().cpu())
            sums[1].index_add_(0, batch.sources, batch.weights.double())
    found = {f"loss/{name}": float(sums[0, n] / sums[1, n]) for n, name in enumerate(items)}
    return {"loss": float(sums[0].sum() / sums[1].sum()), **found}


class Validation:
    """The validations of one run, as its driver sees them.

    Args:
        recipe: reads `training`, `mixture.sources` and `run.seed`.
        model_dir: the base model.
        items: one encoded table per source.
        output: store of the training stage.
        tell: told the metrics of each checkpoint: `step`, `loss`, `loss/<source>`, and what `measure` found.
        note: told what was passed over.
        measure: measures more than the loss.
    """

    def __init__(
        self,
        recipe: Recipe,
        model_dir: Path,
        items: Store,
        output: Store,
        tell: Tell,
        note: Callable[[str], None],
        measure: Measure | None = None,
    ) -> None:
        self._arguments = (recipe.model_dump(mode="json"), str(model_dir), items, output, measure)
        self._spec = recipe.training.validation
        self._output = output
        self._tell = tell
        self._note = note
        self._found = read_found(output)
        self._begun = max((str(m["checkpoint"]) for m in self._found), default="")
        self._running: Any = None
        self._next_look = 0.0

    def look(self, now: bool = False) -> None:
        """Take what is finished, and begin with the newest checkpoint if it is newer than all before. Does not wait.

        Does nothing for `LOOK_SECONDS` after the last look, unless it shall look `now`.
        """
        if self._spec is None or (time.monotonic() < self._next_look and not now):
            return
        self._next_look = time.monotonic() + LOOK_SECONDS
        if self._running is not None:
            if not ray.wait([self._running], timeout=0)[0]:
                return
            self._take()
        newest = latest_checkpoint(self._output)
        if newest is not None and newest > self._begun:
            self._begun = newest
            resources = {"num_cpus": self._spec.cpus, "num_gpus": self._spec.gpus}
            self._running = ray.remote(**resources)(_validate).remote(*self._arguments, newest)

    def finish(self) -> None:
        """Wait for what was begun, and measure the last checkpoint."""
        if self._running is not None:
            self._take()
        self.look(now=True)
        if self._running is not None:
            self._take()

    def _take(self) -> None:
        try:
            metrics = ray.get(self._running)
        except ray.exceptions.RayError as error:
            reason = str(error).strip().splitlines()[-1]
            self._note(f"validation: a checkpoint was passed over ({reason})")
        else:
            self._found.append(metrics)
            self._output.write(FOUND, b"".join(orjson.dumps(m) + b"\n" for m in self._found))
            self._tell(metrics)
        self._running = None


def read_found(output: Store) -> list[dict[str, Any]]:
    """Return the metrics of the checkpoints that were measured so far."""
    if not output.exists(FOUND):
        return []
    return [orjson.loads(line) for line in output.read(FOUND).splitlines()]


def _validate(
    recipe_json: dict[str, Any], model_dir: str, items: Store, output: Store, measure: Measure | None, name: str
) -> dict[str, Any]:
    """Measure one checkpoint; the body of the task."""
    from agenttuning.models import resolve_model

    recipe = Recipe.model_validate(recipe_json)
    spec = recipe.training.validation
    assert spec is not None
    training = recipe.training.model_copy(update={"use_gpu": spec.gpus > 0, "attention": "auto"})
    base = Path(model_dir)
    if not base.is_dir():
        base = resolve_model(recipe.model, cache_directory() / "models")
    _, held = split_items(load_items(items, list(recipe.mixture.sources)), training, recipe.run.seed)
    if not held:
        raise DataError("training.validation: no source has ten items, so none can be held out; leave it unset")
    with scratch_directory("validation") as scratch:
        about = output.read_json(f"{name}/{COMPLETE}")
        dtype = exported_dtype(base, about["identity"]["dtype"])
        write_checkpoint_weights(output, name, dtype, Store(scratch), base, training.lora)
        copy_companions(base, Path(scratch), recipe.model.trust_remote_code)
        found = held_out_loss(Path(scratch), held, training, recipe.model.trust_remote_code)
        more = measure(Path(scratch)) if measure is not None else {}
        return {"step": about["step"], "checkpoint": name, **found, **more}
