"""Training on the mixture, and the export of what was learned."""

from typing import Any

from agenttuning.progress import Progress, say
from agenttuning.session import Session
from agenttuning.stages.common import already, done_key, open_tracker
from agenttuning.storage.manifest import begin_stage, finish_stage

CHANGEABLE = {
    "accelerator_type", "activation_checkpointing", "attention", "checkpoint_every", "collective_timeout_s",
    "cpus_per_worker", "keep_checkpoints", "logits_chunk", "max_bad_steps", "max_failures", "offload_optimizer",
    "use_gpu", "workers",
}  # fmt: skip
"""Settings of the training section that say how and where it runs: a run that is continued may change them."""


def train(session: Session) -> dict[str, Any]:
    """Fine-tune on the mixture with Ray Train."""
    recipe, store = session.recipe, session.store.child("training")
    items = session.store.child("mixture")
    key = {
        "mixture": done_key(items, "mix"),
        "training": recipe.training.model_dump(mode="json", exclude=CHANGEABLE),
        "seed": recipe.run.seed,
    }
    state = begin_stage(store, "train", key)
    if state.done:
        return already("train", state)
    from agenttuning.stages.validating import episode_player
    from agenttuning.training.ray_train import run_training

    session.ray()
    total = recipe.training.steps
    validation = recipe.training.validation
    episodes = validation.episodes if validation is not None else 0
    play = episode_player(recipe, episodes) if episodes else None
    with (
        open_tracker(session, "train") as tracker,
        Progress("train", total, "steps") as bar,
    ):

        def on_step(event: dict[str, Any]) -> None:
            bar.update(
                int(event["step"]),
                f"loss {event['loss']:.3f}, {event['tokens_per_second']:.0f} tokens/s",
                total=int(event.get("total_steps") or total),
            )
            tracker.log({f"train/{k}": v for k, v in event.items() if isinstance(v, int | float)}, event["step"])

        def on_validation(event: dict[str, Any]) -> None:
            step = int(event["step"])
            won = f", success {event['success']:.0%} of {event['episodes']:.0f} episodes" if "success" in event else ""
            say(f"train: held-out loss {event['loss']:.3f}{won} after {step} steps")
            tracker.log({f"validation/{k}": v for k, v in event.items() if isinstance(v, float)}, step)

        summary = run_training(
            recipe, session.model_dir(), items.child("items"), store, on_step, on_validation=on_validation, measure=play
        )
        info = summary.as_dict()
        tracker.config({"training_summary": info})
    finish_stage(store, "train", key, info)
    return info


def export(session: Session) -> dict[str, Any]:
    """Write the tuned model as safetensors, tokenizer, chat template and model card."""
    from agenttuning.training.export import export_run

    store = session.store.child("model")
    key = {"training": done_key(session.store.child("training"), "train")}
    state = begin_stage(session.store.child("export"), "export", key)
    if state.done:
        return already("export", state)
    sources = session.store.child("mixture").read_json("report.json")["sources"]
    terms = {name: told["terms"] for name, told in sources.items() if "terms" in told}
    info = export_run(session.recipe, session.model_dir(), session.store.child("training"), store, terms)
    finish_stage(session.store.child("export"), "export", key, info)
    return info
