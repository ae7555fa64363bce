"""What the stages share: fingerprints of what came before, the tracker, and the keys that decide an episode."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from agenttuning.errors import ConfigurationError
from agenttuning.progress import Progress, say
from agenttuning.recipe import Recipe
from agenttuning.session import Session
from agenttuning.storage import Store
from agenttuning.storage.manifest import MANIFEST, StageState
from agenttuning.storage.segments import stored_ids
from agenttuning.trajectory import content_hash

if TYPE_CHECKING:
    from agenttuning.tracking import Tracker

EARLIER_MODEL = "earlier_model"
"""Key of what the last round's model played, in the summary of `generate`."""


def open_tracker(session: Session, stage: str) -> "Tracker":
    """Return the tracker of a stage; use it as a context manager."""
    from agenttuning.tracking import Tracker

    remote = session.store.local_path() is None
    copy = session.store.child("tracking").write if remote else None
    return Tracker(session.recipe, stage, session.scratch("tracking"), copy=copy)


def rules(recipe: Recipe) -> dict[str, Any]:
    """Return the limits that decide how an episode can go."""
    names = {"attempts", "context_tokens", "max_malformed", "max_repeats"}
    limits = {n: [s.max_steps, s.demonstration] for n, s in recipe.environments.items()}
    return {**recipe.rollout.model_dump(include=names), "environments": limits}


def done_key(store: Store, stage: str) -> str:
    """Return the fingerprint of a finished stage.

    Raises:
        ConfigurationError: it has not run to its end.
    """
    if store.exists(MANIFEST):
        manifest = store.read_json(MANIFEST)
        if manifest["done"]:
            return content_hash([manifest["key"], manifest["info"]])
    raise ConfigurationError(f"{stage}: not done yet in {store.uri}; run `agenttuning {stage}` with this recipe first")


def rescored(store: Store) -> dict[str, str]:
    """Return what a stage's summary says of the rewards that were given later, so that curation sees a change of them.

    Args:
        store: the directory of trajectories.
    """
    from agenttuning.rollout.rescore import rescored_segments

    names = rescored_segments(store)
    return {"rescored": content_hash(names)} if names else {}


def lost_episodes(store: Store) -> int:
    """Return how many episodes a finished generation stored that are not there any more: files torn or deleted."""
    info = store.read_json(MANIFEST)["info"]
    parts = [part for part in (info, info.get(EARLIER_MODEL)) if part is not None]
    wanted: int = sum(part.get("total", 0) - part.get("unneeded", 0) for part in parts) - info.get("unfinished", 0)
    return max(0, wanted - len(stored_ids(store)))


def already(stage: str, state: StageState) -> dict[str, Any]:
    """Say that a stage is done, and return what it stored."""
    say(f"{stage}: all is done")
    return state.info


def show_on(bar: Progress) -> Callable[[int, int, Mapping[str, Any]], None]:
    """Return what shows episodes done, episodes in all, and tallies by environment on a bar."""

    def show(done: int, total: int, by_environment: Mapping[str, Any]) -> None:
        bar.update(done, "; ".join(f"{name} {tally}" for name, tally in sorted(by_environment.items())), total)

    return show
