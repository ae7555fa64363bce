"""Writes checkpoints: in place on a path; for an object store to local scratch, uploaded while training goes on.

An upload needs no collective call. Each rank's random state goes up last and so tells that its share is there; rank 0
waits for all of them before it marks the checkpoint complete. A kill in between costs this checkpoint, not the one
before it.
"""

import os
import random
import shutil
import threading
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import torch

from agenttuning.errors import StorageError
from agenttuning.machine import cache_directory
from agenttuning.storage import Store
from agenttuning.training.checkpoint import COMPLETE, DIRECTORY, HISTORY, Progress, checkpoint_name, rank_file
from agenttuning.training.engine import Engine
from agenttuning.training.ranks import Ranks
from agenttuning.trajectory import content_hash

TORCH_SAVE = ("inline_container", "PytorchStreamWriter", "iostream error", "cannot be opened")
"""What the errors of `torch.save` that are about the file hold."""

LOOK_SECONDS = 0.2
"""Between two looks at what the other ranks have uploaded."""


class CheckpointWriter:
    """The checkpoints of a run. All ranks call every method equally often.

    Args:
        store: of the training stage.
        identity: what a resumed run must share; compared when it loads.
        ranks: this process among the others.
        keep: checkpoints that stay.
        patience_s: how long rank 0 waits for the uploads of the others.
    """

    def __init__(
        self, store: Store, identity: dict[str, Any], ranks: Ranks, keep: int, patience_s: float = 1800.0
    ) -> None:
        self._store = store
        self._identity = identity
        self._ranks = ranks
        self._keep = keep
        self._patience_s = patience_s
        self._upload: threading.Thread | None = None
        self._error: Exception | None = None

    def save(self, engine: Engine, progress: Progress) -> None:
        """Write a checkpoint, or begin to upload it, and delete those that are too many.

        Raises:
            StorageError: the disk is full or the store does not answer, now or in the upload before.
        """
        self.wait()
        name = checkpoint_name(progress.step)
        root = self._store.local_path()
        directory = root / name if root is not None else self._scratch()
        # What a run that was killed here left behind, of more ranks maybe, must not look like shares of this one.
        self._ranks.from_first(lambda: delete_checkpoint(self._store, name))
        try:
            directory.mkdir(parents=True, exist_ok=True)
            engine.save(directory)
            torch.save(_random_state(), directory / rank_file(self._ranks.rank))
            _sync(directory)
        except (OSError, RuntimeError) as error:
            if not _is_of_the_disk(error):
                raise
            raise self._unwritable(name, error) from error
        history = b"".join(orjson.dumps(m) + b"\n" for m in progress.history)
        about = {**asdict(progress), "history": None, "identity": self._identity}
        if root is not None:
            self._ranks.barrier()
            self._complete(name, history, about)
            self._ranks.barrier()
            return
        self._upload = threading.Thread(target=self._send, args=(directory, name, history, about), daemon=True)
        self._upload.start()

    def wait(self) -> None:
        """Wait until what was begun is uploaded.

        Raises:
            StorageError: it could not be.
        """
        if self._upload is not None:
            self._upload.join()
            self._upload = None
        if self._error is not None:
            raise self._error

    def _send(self, directory: Path, name: str, history: bytes, about: dict[str, Any]) -> None:
        own = rank_file(self._ranks.rank)
        last = directory.with_name(f"{directory.name}-last")
        try:
            last.mkdir(exist_ok=True)
            (directory / own).rename(last / own)
            self._store.upload(directory, name)
            self._store.upload(last, name)
            if self._ranks.rank == 0:
                self._await_others(name)
            self._complete(name, history, about)
        except StorageError as error:
            self._error = error
        except Exception as error:
            self._error = self._unwritable(name, error)
        finally:
            shutil.rmtree(directory, ignore_errors=True)
            shutil.rmtree(last, ignore_errors=True)

    def _await_others(self, name: str) -> None:
        until = time.monotonic() + self._patience_s
        missing = set(range(self._ranks.world_size))
        while missing := {rank for rank in missing if not self._store.exists(f"{name}/{rank_file(rank)}")}:
            if time.monotonic() > until:
                raise StorageError(
                    f"{self._store.uri}/{name}: ranks {sorted(missing)} did not upload their share within "
                    f"{self._patience_s:g} s; see their logs, then run the same command again"
                )
            time.sleep(LOOK_SECONDS)

    def _complete(self, name: str, history: bytes, about: dict[str, Any]) -> None:
        if self._ranks.rank == 0:
            self._store.write(f"{name}/{HISTORY}", history)
            self._store.write_json(f"{name}/{COMPLETE}", {**about, "world_size": self._ranks.world_size})
            _delete_older(self._store, name, self._keep)

    def _scratch(self) -> Path:
        """Return an empty directory of this rank that a killed run's successor empties again."""
        path = cache_directory() / "checkpoints" / content_hash([self._store.uri, self._ranks.rank])
        for old in (path, path.with_name(f"{path.name}-last")):
            shutil.rmtree(old, ignore_errors=True)
        return path

    def _unwritable(self, name: str, error: Exception) -> StorageError:
        return StorageError(
            f"{self._store.uri}/{name}: the checkpoint cannot be written ({error}); it takes about 14 bytes per "
            "parameter: free space there, lower training.keep_checkpoints or set run.root elsewhere, then run the same "
            "command again: it continues from the checkpoint before"
        )


def _is_of_the_disk(error: OSError | RuntimeError) -> bool:
    """Whether a file could not be written: `torch.save` raises a RuntimeError then, as lost peers and full GPUs do."""
    return isinstance(error, OSError) or any(mark in str(error) for mark in TORCH_SAVE)


def delete_torn(store: Store) -> list[str]:
    """Delete and return the checkpoints that were cut off before they were complete. For one rank, before any saves."""
    torn = [name for name, complete in _found(store).items() if not complete]
    for name in torn:
        delete_checkpoint(store, name)
    return torn


def delete_checkpoint(store: Store, name: str) -> None:
    """Delete a checkpoint, complete or not, where there is one.

    Raises:
        StorageError: a file stays.
    """
    # The mark goes first: a deletion that is cut off leaves no half checkpoint that looks whole.
    if store.exists(f"{name}/{COMPLETE}"):
        store.delete(f"{name}/{COMPLETE}")
    for file in store.list(prefix=f"{name}/"):
        store.delete(file)
    if (root := store.local_path()) is not None:
        shutil.rmtree(root / name, ignore_errors=True)


def _delete_older(store: Store, newest: str, keep: int) -> None:
    """Delete checkpoints before the newest `keep`, and what was cut off before it was complete."""
    found = _found(store)
    complete = [name for name in found if found[name]]
    for name in found:
        if name < newest and name not in complete[-keep:]:
            delete_checkpoint(store, name)


def _found(store: Store) -> dict[str, bool]:
    """Return the checkpoints of a store in their order, and whether they are complete."""
    files = store.list(prefix=f"{DIRECTORY}/")
    names = sorted({"/".join(file.split("/")[:2]) for file in files})
    return {name: f"{name}/{COMPLETE}" in files for name in names}


def _sync(directory: Path) -> None:
    for file in directory.rglob("*"):
        if file.is_file():
            with file.open("rb") as stream:
                os.fsync(stream.fileno())


def _random_state() -> dict[str, Any]:
    state: dict[str, Any] = {
        "torch": torch.get_rng_state(),
        "numpy": np.random.get_state(),
        "python": random.getstate(),
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state
