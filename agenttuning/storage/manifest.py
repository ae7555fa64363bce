"""Stage manifests: what a directory was made from, and whether it is done.

A stage's key is its own slice of the recipe, its inputs' fingerprints and the versions that matter. Run again with
the same key, a stage continues where it stopped, and does nothing when all is done. With another key it refuses and
says which keys changed: results of two recipes are never mixed in one directory.
"""

import time
from dataclasses import dataclass
from typing import Any

from agenttuning.errors import ConfigurationError
from agenttuning.storage.store import Store

MANIFEST = "manifest.json"


@dataclass(frozen=True)
class StageState:
    """What was found at a stage's start."""

    done: bool
    started: bool
    """An earlier run of the same key wrote here."""
    info: dict[str, Any]
    """What `finish_stage` stored: the stage's own summary."""


def begin_stage(store: Store, stage: str, key: dict[str, Any]) -> StageState:
    """Open a stage's directory under `key`.

    Raises:
        ConfigurationError: the directory holds results of another key; names the changed entries.
    """
    if not store.exists(MANIFEST):
        store.write_json(MANIFEST, {"stage": stage, "key": key, "done": False, "info": {}})
        return StageState(done=False, started=False, info={})
    manifest = store.read_json(MANIFEST)
    changes = _changes(manifest["key"], key)
    if changes:
        raise ConfigurationError(
            f"{stage}: {store.uri} was made under other settings:\n  " + "\n  ".join(changes[:8]) + "\n"
            "Give this run another name (run.name=...), or delete that directory and the stages after it."
        )
    return StageState(done=bool(manifest["done"]), started=True, info=manifest["info"])


def finish_stage(store: Store, stage: str, key: dict[str, Any], info: dict[str, Any]) -> None:
    """Mark the stage done, with its summary."""
    store.write_json(MANIFEST, {"stage": stage, "key": key, "done": True, "info": info, "finished": time.time()})


def _changes(old: Any, new: Any, where: str = "") -> list[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        keys = [*old, *(k for k in new if k not in old)]
        return [line for k in keys for line in _changes(old.get(k), new.get(k), f"{where}.{k}" if where else str(k))]
    return [] if old == new else [f"{where}: {_short(old)} then, {_short(new)} now"]


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
