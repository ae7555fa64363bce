"""Trajectories from elsewhere, and the choice of those worth learning from."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from agenttuning.errors import DataError
from agenttuning.progress import Progress, say
from agenttuning.recipe import Recipe
from agenttuning.session import Session
from agenttuning.stages.common import already, done_key, lost_episodes, open_tracker
from agenttuning.stages.rounds import earlier_rounds
from agenttuning.storage import Store
from agenttuning.storage.manifest import MANIFEST, begin_stage, finish_stage
from agenttuning.storage.segments import segment_names
from agenttuning.trajectory import content_hash

if TYPE_CHECKING:
    from agenttuning.conversations.importing import ImportOptions


def import_data(session: Session, path: str, name: str | None, options: "ImportOptions") -> dict[str, Any]:
    """Store recorded trajectories from elsewhere below `imported/<name>`, for `curate`; unset, named by the path."""
    from agenttuning.conversations.importing import import_trajectories, name_of

    store = session.store.child("imported", name or name_of(path))
    key = {"path": path, "options": asdict(options)}
    state = begin_stage(store, "import", key)
    if state.done:
        return already("import", state)
    info = import_trajectories(path, store, options).as_dict()
    if info["without_reward"]:
        say(f"import: {info['without_reward']} records have no reward; it is 0 unless you name one with --reward")
    finish_stage(store, "import", key, info)
    return info


def curate(session: Session) -> dict[str, Any]:
    """Keep the trajectories worth learning from; say by which rule the others were dropped."""
    from agenttuning.curation.run import curate as run_curation

    recipe, store = session.recipe, session.store.child("curated")
    sources = _trajectory_sources(session)
    if not sources:
        say("curate: the recipe plays no train tasks and nothing was imported; nothing to curate")
        return {}
    key = {
        "trajectories": [fingerprint for _, fingerprint in sources],
        "rules": recipe.curation.model_dump(mode="json"),
        "thresholds": {n: s.reward_threshold for n, s in recipe.environments.items()},
    }
    _forget_old_input(session, key)
    state = begin_stage(store, "curate", key)
    if state.done:
        return already("curate", state)
    session.ray()
    with open_tracker(session, "curate") as tracker:
        evaluation = _evaluation_texts(recipe)
        with Progress("curate", 1, "files judged") as bar:

            def judged(done: int, total: int) -> None:
                bar.update(done, total=total)

            report = run_curation([source for source, _ in sources], store, recipe, judged, evaluation)
        header, *rows = report.table()
        tracker.table("curation", header, rows)
    say(report.text())
    info = {"collected": report.collected, "kept": report.kept}
    if report.kept == 0:
        raise DataError(
            f"curate: none of {report.collected} trajectories passed; curated/report.json has the rule that dropped "
            "each. Lower environments.<name>.reward_threshold, or look at them with `agenttuning show`"
        )
    finish_stage(store, "curate", key, info)
    return info


def _evaluation_texts(recipe: Recipe) -> dict[str, list[str]]:
    """Return the texts of what training text is compared with, by evaluation split."""
    from agenttuning.curation.evaluation_sets import evaluation_splits
    from agenttuning.evaluation.held_in import test_tasks
    from agenttuning.evaluation.material import bundled_dialogues, bundled_instructions

    if not recipe.curation.own_tests or "contamination" not in recipe.curation.rules:
        return evaluation_splits(recipe)
    dialogues = bundled_dialogues(recipe.evaluation.general_dialogues)
    general = {
        "general/dialogues": ["\n".join(m.content for m in dialogue.messages) for dialogue in dialogues],
        "general/instructions": [i.prompt for i in bundled_instructions(recipe.evaluation.general_instructions)],
    }
    return {
        **evaluation_splits(recipe, test_tasks(recipe)),
        **{name: texts for name, texts in general.items() if texts},
    }


def _trajectory_sources(session: Session) -> list[tuple[Store, str]]:
    """Return the directories of trajectories that curation reads, each with its fingerprint.

    They are the run's own where the recipe plays train tasks, what was imported, what earlier rounds played, and
    `curation.inputs`.

    Raises:
        ConfigurationError: the run's own are not all played.
    """
    found: list[tuple[Store, str]] = []
    if any(spec.train_tasks for spec in session.recipe.environments.values()):
        found.append(_played(session.store))
    found += [(store, done_key(store, _made_by(store))) for store in _imported(session)]
    found += [_played(before) for before in earlier_rounds(session)]
    for uri in session.recipe.curation.inputs:
        found.append((Store(uri), content_hash([uri, segment_names(Store(uri))])))
    return found


def _played(run: Store) -> tuple[Store, str]:
    played = run.child("trajectories")
    fingerprint = done_key(played, "generate")
    if lost := lost_episodes(played):
        say(f"curate: {lost} episodes of {played.uri} are gone, in files torn or deleted; `generate` plays them again")
    return played, fingerprint


def _made_by(store: Store) -> str:
    """Return the verb that began a directory of imported trajectories: `import` or `derive`."""
    return str(store.read_json(MANIFEST)["stage"])


def _forget_old_input(session: Session, key: dict[str, Any]) -> None:
    """Let other trajectories under the same rules be judged anew, as long as no mixture is made of the old ones.

    More were played, or a grader was mended. Judging costs no inference, and writes every file of the stage again.
    """
    store = session.store.child("curated")
    if session.store.child("mixture").exists(MANIFEST) or not store.exists(MANIFEST):
        return
    old = store.read_json(MANIFEST)["key"]
    if old != key and {**old, "trajectories": None} == {**key, "trajectories": None}:
        say("curate: the stored trajectories are others than before; judging them again")
        store.delete(MANIFEST)


def _imported(session: Session) -> list[Store]:
    names = session.store.list(prefix="imported/", suffix="/manifest.json")
    return [session.store.child(*name.split("/")[:-1]) for name in names]
