"""The stages in order, each resumable: what `agenttuning run` and the single verbs call.

The base model is evaluated before training, while it is still served for the mixture's answers: starting a server
twice would cost a minute. What a stage needs from another is read from the run directory, so every verb works alone.
"""

import json
from collections.abc import Callable
from typing import Any

from agenttuning import stages
from agenttuning.errors import ConfigurationError
from agenttuning.machine import cache_directory
from agenttuning.progress import say
from agenttuning.recipe import Recipe, dump_recipe
from agenttuning.session import Session, run_store
from agenttuning.storage import Store
from agenttuning.training.sizing import Sizing, check_fits, format_sizing, size_recipe

STAGES = ("generate", "curate", "mix", "evaluate base", "train", "export", "evaluate tuned", "report")
"""The order of a whole run."""

_DIRECTORIES = {
    "generate": "trajectories",
    "curate": "curated",
    "mix": "mixture",
    "evaluate base": "evaluation/base",
    "train": "training",
    "export": "export",
    "evaluate tuned": "evaluation/tuned",
}


def run(recipe: Recipe, only: tuple[str, ...] = STAGES) -> dict[str, Any]:
    """Run stages in order and return what each reported, by name.

    Args:
        recipe: the run.
        only: names out of `STAGES`.

    Raises:
        ConfigurationError: another process is at work in the run's directory; names it.
        AgentTuningError: with its cure; what was finished is stored, and running again continues.
    """
    from agenttuning.servers import Servers

    told: dict[str, Any] = {}
    with Session(recipe, _doing(only)) as session, Servers(session) as servers:
        bodies: dict[str, Callable[[], dict[str, Any]]] = {
            "generate": lambda: stages.generate(session, servers),
            "curate": lambda: stages.curate(session),
            "mix": lambda: stages.mix(session, servers),
            "evaluate base": lambda: stages.evaluate(session, servers, "base"),
            "train": lambda: stages.train(session),
            "export": lambda: stages.export(session),
            "evaluate tuned": lambda: stages.evaluate(session, servers, "tuned"),
            "report": lambda: stages.report(session),
        }
        if {"generate", "mix"} <= set(only):
            stages.check_mixture(session)
        for stage in (s for s in STAGES if s in only):
            if stage == "train":
                servers.stop()
            with session.timed(stage):
                told[stage] = bodies[stage]()
    return told


def _doing(only: tuple[str, ...]) -> str | None:
    """Return what a session does; None where it only reports, which may be done beside whoever is at work."""
    if set(only) <= {"report"}:
        return None
    return "the whole run" if only == STAGES else ", ".join(only)


def closing_words(recipe: Recipe) -> str:
    """Return the final table and where report and model lie."""
    from agenttuning.evaluation.results import final_table

    store = run_store(recipe)
    table = final_table(store.read_json("summary.json"))
    return f"{table}\n\nreport: {store.uri}/report.html\nmodel:  {store.uri}/model"


def describe(recipe: Recipe, only: tuple[str, ...]) -> str:
    """Return the resolved recipe and what would be done, for `--dry-run`."""
    store = run_store(recipe)
    lines = [dump_recipe(recipe).rstrip(), "", f"run directory: {store.uri}"]
    for stage in (s for s in STAGES if s in only):
        lines.append(f"  {stage:15} {_state(store, stage)}")
    if "train" in only:
        lines += ["", format_sizing(_sizing(recipe, store))]
    return "\n".join(lines)


def check_fit(recipe: Recipe, only: tuple[str, ...]) -> None:
    """Refuse a training that cannot fit its GPUs.

    Raises:
        ConfigurationError: with what would fit.
    """
    if "train" in only:
        check_fits(_sizing(recipe, run_store(recipe)))


def _state(store: Store, stage: str) -> str:
    directory = _DIRECTORIES.get(stage)
    if directory is None:
        return "would be written from what is there"
    child = store.child(*directory.split("/"))
    if not child.exists("manifest.json"):
        return "would run"
    return "done: would do nothing, or refuse if its settings changed" if _is_done(child) else "would continue"


def _is_done(store: Store) -> bool:
    return bool(store.read_json("manifest.json")["done"])


def _sizing(recipe: Recipe, store: Store) -> Sizing:
    """Return memory, steps, tokens and epochs; the model's own files are read only where nothing is embedded."""
    from agenttuning.models import resolve_model
    from agenttuning.training.architectures import known_architecture

    config = known_architecture(recipe.model.path)
    if config is None:
        path = resolve_model(recipe.model, cache_directory() / "models")
        config = json.loads((path / "config.json").read_text())
    mixture = store.child("mixture")
    sources = mixture.read_json("report.json")["sources"] if mixture.exists("report.json") else {}
    stats = {n: {"items": s["items"], "mean_tokens": s["tokens"] / max(1, s["items"])} for n, s in sources.items()}
    return size_recipe(recipe, config, stats)


def check_environments(recipe: Recipe) -> None:
    """Build every environment of the recipe once, so that a wrong setting is refused before anything runs.

    Raises:
        ConfigurationError: unknown name, refused setting, or a missing component with its cure.
    """
    from agenttuning.environments.base import environment_class, make_environment

    if not recipe.environments:
        raise ConfigurationError("environments: none named; name at least one, such as `environments: {os: {}}`")
    for name, spec in recipe.environments.items():
        problems = component_problems(environment_class(name).needs.components)
        if problems:
            raise ConfigurationError(f"environments.{name}: {'; '.join(problems)}")
        make_environment(name, spec.settings, recipe.data.root).shutdown()
    say(f"run {recipe.run.name}: {', '.join(recipe.environments)} in {run_store(recipe).uri}")


def component_problems(components: tuple[str, ...]) -> list[str]:
    """Return what is missing of an environment's components beyond Python, each with its cure."""
    from agenttuning.environments.sandbox import sandbox_problem

    probes = {"bubblewrap": sandbox_problem}
    found = (probes[c]() for c in components if c in probes)
    return [problem for problem in found if problem]
