"""Stored train trajectories graded again, and played again."""

from contextlib import nullcontext
from typing import Any

from agenttuning.errors import DataError
from agenttuning.progress import Progress
from agenttuning.session import Session
from agenttuning.stages.common import rescored
from agenttuning.storage.manifest import MANIFEST


def rescore(session: Session, write: bool) -> list[str]:
    """Grade the stored train trajectories again and return what changed, in lines.

    Raises:
        DataError: nothing is stored.
    """
    from agenttuning.rollout.rescore import rescore as grade_again

    recipe, store = session.recipe, session.store.child("trajectories")
    thresholds = {name: spec.reward_threshold for name, spec in recipe.environments.items()}
    with session.alone("rescoring") if write else nullcontext():
        with Progress("rescore", 0, "segments") as bar:
            found = grade_again(
                store, thresholds, write=write, on_progress=lambda done, total: bar.update(done, total=total)
            )
        if write and store.exists(MANIFEST):
            # Told by the segments, not by this call's changes: one before may have been cut off just here.
            manifest = store.read_json(MANIFEST)
            info = {**manifest["info"], **rescored(store)}
            if info != manifest["info"]:
                store.write_json(MANIFEST, {**manifest, "info": info})
    return found.lines()


def replay(session: Session, environment: str | None, limit: int) -> list[Any]:
    """Replay stored train trajectories, the same number of each environment, and return what became of each."""
    from agenttuning.rollout.replay import replay as play_again
    from agenttuning.storage.segments import read_trajectories

    chosen: dict[str, list[Any]] = {}
    for trajectory in read_trajectories(session.store.child("trajectories")):
        name = trajectory.task.environment
        if environment in (None, name) and len(chosen.setdefault(name, [])) < limit:
            chosen[name].append(trajectory)
    some = [t for group in chosen.values() for t in group]
    if not some:
        raise DataError(
            f"replay: no trajectories{f' of {environment!r}' if environment else ''} are stored in "
            f"{session.store.uri}; run `agenttuning generate` first"
        )
    done = 0
    with Progress("replay", len(some), "episodes") as bar:

        def count(replayed: Any) -> None:
            nonlocal done
            done += 1
            bar.update(done, f"{replayed.environment} {replayed.verdict}")

        return play_again(some, session.recipe, on_done=count)
