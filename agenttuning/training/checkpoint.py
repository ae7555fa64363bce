"""Checkpoints in a store: every rank's share, a step number, and what was decided; complete or not there.

`checkpoints/step-00000050/` holds the engine's files of all ranks, `rank-00000.pt` with each rank's random state, the
metrics so far, and `complete.json`, written last when all ranks are done: without it a checkpoint does not exist.
Here is what they hold and how they are read; `checkpoint_writer` writes them.
"""

import random
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import torch

from agenttuning.errors import ConfigurationError, DataError, StorageError
from agenttuning.machine import cache_directory
from agenttuning.storage import Store
from agenttuning.training.engine import Engine
from agenttuning.training.ranks import Ranks
from agenttuning.trajectory import content_hash

DIRECTORY = "checkpoints"
COMPLETE = "complete.json"
HISTORY = "metrics.jsonl"


@dataclass
class Progress:
    """Where a run stands: all that a resumed run must know besides weights, optimizer and random state.

    Attributes:
        step: steps done.
        total_steps: steps in all, once decided.
        bad_steps: steps skipped for a loss or gradient that was not finite.
        seconds: time in steps so far.
        items: items trained so far, by source.
        tokens: tokens so far.
        supervised: supervised tokens so far.
        shared: tokens that were spared so far, since items of a row began alike.
        notes: what was chosen, cut or continued.
        history: the metrics of every step.
    """

    step: int = 0
    total_steps: int | None = None
    bad_steps: int = 0
    seconds: float = 0.0
    items: dict[str, int] = field(default_factory=dict)
    tokens: int = 0
    supervised: int = 0
    shared: int = 0
    notes: list[str] = field(default_factory=list)
    history: list[dict[str, Any]] = field(default_factory=list)


def load_checkpoint(store: Store, engine: Engine, identity: dict[str, Any], ranks: Ranks) -> Progress | None:
    """Bring engine and random state to where the newest complete checkpoint left them. All ranks call it.

    Where another number of ranks saved it, the files are sorted by weight first, on every node that has ranks; random
    states are then those of a new run.

    Returns:
        Where the run stands, or None where there is no checkpoint.

    Raises:
        ConfigurationError: the checkpoint is of another run.
        DataError: the checkpoint is of another version.
        StorageError: this rank does not see what rank 0 sees.
    """
    name = ranks.from_first(lambda: latest_checkpoint(store))
    if name is None:
        return None
    if not store.exists(f"{name}/{COMPLETE}"):
        raise StorageError(
            f"{store.uri}/{name}: rank 0 sees this checkpoint and rank {ranks.rank} does not; set run.root to a "
            "directory that all nodes share, or to an object store"
        )
    about = store.read_json(f"{name}/{COMPLETE}")
    now, then = identity, about.pop("identity")
    saved_by = about.pop("world_size")
    changed = [f"{k}: {then.get(k)} then, {now[k]} now" for k in now if then.get(k) != now[k]]
    if changed:
        raise ConfigurationError(
            f"{store.uri}/{name} was made under other settings ({'; '.join(changed)}); give this run another name "
            "(run.name=...), or delete that directory"
        )
    history = [orjson.loads(line) for line in store.read(f"{name}/{HISTORY}").splitlines()]
    try:
        progress = Progress(**{**about, "history": history})
    except TypeError as error:
        raise DataError(
            f"{store.uri}/{name}: another version wrote it ({error}); go on with that one, or give this run another "
            "name (run.name=...)"
        ) from error
    if saved_by == ranks.world_size:
        with fetched_checkpoint(store, name, ranks.rank) as directory:
            engine.load(directory)
            _set_random_state(torch.load(directory / rank_file(ranks.rank), weights_only=False))
    else:
        _load_of_others(store, name, engine, ranks)
    return progress


def _load_of_others(store: Store, name: str, engine: Engine, ranks: Ranks) -> None:
    """Load what another number of ZeRO ranks saved; the first rank of each node prepares it for those beside it."""
    from agenttuning.training.zero import make_universal

    place = cache_directory() / "checkpoints" / content_hash([store.uri, name])
    if ranks.local_rank == 0:
        shutil.rmtree(place, ignore_errors=True)
        with fetched_checkpoint(store, name) as directory:
            make_universal(directory, place)
    ranks.barrier()
    engine.load(place)
    ranks.barrier()
    if ranks.local_rank == 0:
        shutil.rmtree(place, ignore_errors=True)


def checkpoint_ranks(store: Store) -> int | None:
    """Return how many ranks saved the newest complete checkpoint; None where there is none."""
    name = latest_checkpoint(store)
    return None if name is None else int(store.read_json(f"{name}/{COMPLETE}")["world_size"])


def checkpoint_names(store: Store) -> list[str]:
    """Return the names in the store of all complete checkpoints, oldest first."""
    found = store.list(prefix=f"{DIRECTORY}/", suffix=f"/{COMPLETE}")
    return sorted(name.rpartition("/")[0] for name in found)


def latest_checkpoint(store: Store) -> str | None:
    """Return the newest complete checkpoint's name in the store, or None."""
    return next(reversed(checkpoint_names(store)), None)


def checkpoint_name(step: int) -> str:
    """Return the name in the store of the checkpoint after `step` steps."""
    return f"{DIRECTORY}/step-{step:08d}"


def rank_file(rank: int) -> str:
    """Return the name in a checkpoint of a rank's random state."""
    return f"rank-{rank:05d}.pt"


@contextmanager
def fetched_checkpoint(store: Store, name: str, rank: int | None = None) -> Iterator[Path]:
    """Give a local directory with the files of a checkpoint: all of them, or those that one rank reads."""
    if (root := store.local_path()) is not None:
        yield root / name
        return
    with scratch_directory("checkpoint") as scratch:
        for file in store.list(prefix=f"{name}/"):
            inside = file.removeprefix(f"{name}/")
            if rank is None or _is_read_by(inside, rank):
                store.fetch(file, Path(scratch) / inside)
        yield Path(scratch)


def scratch_directory(kind: str, root: Path | None = None) -> "tempfile.TemporaryDirectory[str]":
    """Return a temporary directory under `root`, else in the cache: a model may be too large for /tmp."""
    place = root or cache_directory() / "scratch"
    place.mkdir(parents=True, exist_ok=True)
    return tempfile.TemporaryDirectory(prefix=f".tmp-{kind}-", dir=place)


def _is_read_by(file: str, rank: int) -> bool:
    """Whether a rank reads a file: its own, and those of no rank in particular."""
    leaf = file.rpartition("/")[2]
    for mark, own in (("rank-", rank_file(rank)), ("zero_pp_rank_", f"zero_pp_rank_{rank}_")):
        if mark in leaf:
            return own in leaf
    return True


def _set_random_state(state: dict[str, Any]) -> None:
    torch.set_rng_state(state["torch"])
    np.random.set_state(state["numpy"])
    random.setstate(state["python"])
    if "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"])
