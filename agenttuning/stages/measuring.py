"""Base and tuned model in the environments and on the general probe, and the report."""

from typing import Any

from agenttuning.progress import Progress
from agenttuning.servers import Servers
from agenttuning.session import Session
from agenttuning.stages.common import already, done_key, open_tracker, rules, show_on
from agenttuning.storage.manifest import begin_stage, finish_stage


def evaluate(session: Session, servers: Servers, which: str) -> dict[str, Any]:
    """Play the test tasks and answer the general probe with the `base` or the `tuned` model."""
    from agenttuning.evaluation.general import evaluate_general
    from agenttuning.evaluation.held_in import evaluate_held_in, test_tasks

    recipe, store = session.recipe, session.store.child("evaluation", which)
    tuned = which == "tuned"
    key = {
        "model": done_key(session.store.child("export"), "export") if tuned else recipe.model.model_dump(),
        "evaluation": recipe.evaluation.model_dump(mode="json", exclude={"concurrency"}),
        "environments": {
            n: s.model_dump(mode="json", exclude={"train_tasks", "reward_threshold"})
            for n, s in recipe.environments.items()
        },
        "rules": rules(recipe),
        "data": recipe.data.model_dump(),
        "seed": recipe.run.seed,
    }
    state = begin_stage(store, f"evaluate {which}", key)
    if state.done:
        return already(f"evaluate {which}", state)
    session.ray()
    tasks = test_tasks(recipe)
    model_dir = session.tuned_dir() if tuned else session.model_dir()
    endpoint = servers.tuned() if tuned else servers.base()
    with open_tracker(session, f"evaluate-{which}") as tracker:
        with Progress(f"evaluate {which}", len(tasks), "episodes") as bar:
            held_in = evaluate_held_in(
                endpoint.base_url, endpoint.model, recipe, tasks, store, show_on(bar), send_seed=endpoint.takes_seed
            )
        general = evaluate_general(endpoint.base_url, endpoint.model, model_dir, recipe, store)
        tracker.table("held_in", ["environment", "success", "low", "high", "episodes"], held_in.rows())
    info = {"held_in": held_in.headline(), "general": general.headline()}
    finish_stage(store, f"evaluate {which}", key, info)
    return info


def report(session: Session) -> dict[str, Any]:
    """Write `summary.json` and the HTML page from what is in the run directory."""
    from agenttuning.evaluation.results import assemble_summary
    from agenttuning.report.page import build_report

    summary = assemble_summary(session.store)
    session.store.write_json("summary.json", summary)
    session.store.write("report.html", build_report(session.store).encode())
    return summary
