"""The bodies of the stages: each reads directories of the run, writes one, and can be run again.

`pipeline` puts them in order and wraps them in timing and messages. A stage that is done returns what it stored; one
that was cut off continues. Heavy packages are imported inside, so that `agenttuning --help` stays fast.
"""

from typing import TYPE_CHECKING, Any

import pyarrow as pa

from agenttuning.errors import ConfigurationError, DataError
from agenttuning.progress import Progress, say
from agenttuning.recipe import PolicySpec, Recipe
from agenttuning.servers import Servers
from agenttuning.session import Session
from agenttuning.storage import Store
from agenttuning.storage.manifest import MANIFEST, StageState, begin_stage, finish_stage
from agenttuning.trajectory import Conversation, Task, Turn, content_hash

if TYPE_CHECKING:
    from agenttuning.tracking import Tracker


def build_tasks(session: Session) -> list[Task]:
    """Build the train tasks of every environment, or read them where they are built.

    Raises:
        ConfigurationError: an environment is unknown, refuses its settings, or has no tasks.
    """
    from agenttuning.environments.base import environment_class, make_environment

    recipe, store = session.recipe, session.store.child("tasks")
    key = {
        "seed": recipe.run.seed,
        "data": recipe.data.model_dump(),
        "environments": {
            name: {"tasks": spec.train_tasks, "settings": spec.settings, "version": environment_class(name).version}
            for name, spec in recipe.environments.items()
        },
    }
    state = begin_stage(store, "tasks", key)
    if state.done:
        return [Task.model_validate_json(r) for r in store.read_table("train.parquet").column("record").to_pylist()]
    tasks: list[Task] = []
    with Progress("tasks", sum(s.train_tasks for s in recipe.environments.values()), "tasks built") as bar:
        for name, spec in recipe.environments.items():
            with make_environment(name, spec.settings, recipe.data.root) as environment:
                for task in environment.tasks("train", spec.train_tasks, recipe.run.seed):
                    tasks.append(task)
                    bar.update(len(tasks), name)
    if not tasks:
        raise ConfigurationError(
            "environments: no train task was built; the environments' sources have none for the split `train`"
        )
    store.write_table("train.parquet", tasks_table(tasks))
    finish_stage(store, "tasks", key, {"tasks": len(tasks)})
    return tasks


def tasks_table(tasks: list[Task]) -> pa.Table:
    """Return tasks as a table: what people filter on, and the lossless record."""
    columns = ("environment", "split", "family", "origin", "instruction")
    rows = [{"id": t.id, **{c: getattr(t, c) for c in columns}, "record": t.model_dump_json()} for t in tasks]
    return pa.Table.from_pylist(rows)


def generate(session: Session, servers: Servers) -> dict[str, Any]:
    """Play the train tasks with the recipe's policy; every finished episode is durable at once."""
    from agenttuning.rollout.job import play_tasks

    recipe, store = session.recipe, session.store.child("trajectories")
    if not any(spec.train_tasks for spec in recipe.environments.values()):
        say("generate: the recipe asks for no train tasks (environments.<name>.train_tasks); nothing to play")
        return {}
    tasks = build_tasks(session)
    key = {"tasks": content_hash([t.id for t in tasks]), "policy": _policy_key(recipe.policy), "rules": _rules(recipe)}
    state = begin_stage(store, "generate", key)
    if state.done:
        return _already("generate", state)
    session.ray()
    policy = recipe.policy
    if policy.kind == "local":
        endpoint = servers.base()
        served = {"base_url": endpoint.base_url, "model": endpoint.model, "send_seed": endpoint.takes_seed}
        policy = policy.model_copy(update={"kind": "endpoint", **served})
    with _tracker(session, "generate") as tracker, _bar("generate", tasks, recipe) as bar:
        summary = play_tasks(tasks, recipe, policy, store, on_progress=_show(bar))
        info = summary.as_dict()
        tracker.log({f"generate/{k}": v for k, v in info.items() if isinstance(v, int | float)})
    finish_stage(store, "generate", key, info)
    return info


def curate(session: Session) -> dict[str, Any]:
    """Keep the trajectories worth learning from; say by which rule the others were dropped."""
    from agenttuning.curation.run import curate as run_curation

    recipe, store = session.recipe, session.store.child("curated")
    source = session.store.child("trajectories")
    if not any(spec.train_tasks for spec in recipe.environments.values()):
        say("curate: the recipe plays no train tasks; nothing to curate")
        return {}
    key = {
        "trajectories": _done_key(source, "generate"),
        "rules": recipe.curation.model_dump(mode="json"),
        "thresholds": {n: s.reward_threshold for n, s in recipe.environments.items()},
    }
    state = begin_stage(store, "curate", key)
    if state.done:
        return _already("curate", state)
    session.ray()
    with _tracker(session, "curate") as tracker:
        report = run_curation(source, store, recipe)
        header, *rows = report.table()
        tracker.table("curation", header, rows)
    info = {"collected": report.collected, "kept": report.kept}
    if report.kept == 0:
        raise DataError(
            f"curate: none of {report.collected} trajectories passed; curated/report.json has the rule that dropped "
            "each. Lower environments.<name>.reward_threshold, or look at them with `agenttuning show`"
        )
    finish_stage(store, "curate", key, info)
    return info


def mix(session: Session, servers: Servers) -> dict[str, Any]:
    """Collect every source's conversations and encode them with their loss masks."""
    from agenttuning.models import model_fingerprint

    recipe, store = session.recipe, session.store.child("mixture")
    sources = recipe.mixture.sources
    uses_run = any(s.kind == "trajectories" and not s.path for s in sources.values())
    model_dir = session.model_dir()
    key = {
        "mixture": recipe.mixture.model_dump(mode="json"),
        "model": model_fingerprint(model_dir),
        "curated": _done_key(session.store.child("curated"), "curate") if uses_run else None,
        "seed": recipe.run.seed,
    }
    check_mixture(session)
    state = begin_stage(store, "mix", key)
    if state.done:
        return _already("mix", state)
    from transformers import AutoTokenizer

    from agenttuning.rendering.renderer import renderer_for
    from agenttuning.training.encode import encode_conversations, fingerprint

    tokenizer = AutoTokenizer.from_pretrained(model_dir)
    renderer = renderer_for(tokenizer, str(model_dir))
    info: dict[str, Any] = {"sources": {}}
    for name in sources:
        if store.exists(f"items/{name}.parquet") and store.exists(f"items/{name}.json"):
            info["sources"][name] = store.read_json(f"items/{name}.json")
            continue
        conversations = _conversations(session, servers, name)
        table, report = encode_conversations(
            conversations, renderer, recipe.mixture.max_length, recipe.mixture.too_long
        )
        if table.num_rows == 0:
            raise DataError(f"mixture.sources.{name}: no item is left to train on; dropped: {dict(report.dropped)}")
        store.write_table(f"items/{name}.parquet", table)
        described = {**report.to_dict(), "fingerprint": fingerprint(table)}
        store.write_json(f"items/{name}.json", described)
        info["sources"][name] = described
        say(f"mix: {name}: {report.items} items, {report.tokens} tokens, {report.supervised} supervised")
    store.write_json("report.json", info)
    finish_stage(store, "mix", key, info)
    return info


def check_mixture(session: Session) -> None:
    """Find the model and read the sources that are files through, unless the mixture is begun already.

    Hours of episodes should not end at a mistyped path, nor should a directory be begun under one.

    Raises:
        ConfigurationError: no such model or place.
        DataError: an empty, torn or malformed file.
    """
    from agenttuning.conversations.sources import load_conversations

    if session.store.child("mixture").exists(MANIFEST):
        return
    session.model_dir()
    for name, source in session.recipe.mixture.sources.items():
        if source.kind not in ("trajectories", "self"):
            for _ in load_conversations(source.kind, str(source.path), name, source.limit):
                pass


def _conversations(session: Session, servers: Servers, name: str) -> list[Conversation]:
    from agenttuning.conversations.sources import load_conversations
    from agenttuning.conversations.trajectories import conversation_from_trajectory
    from agenttuning.storage.segments import table_trajectories

    recipe = session.recipe
    source = recipe.mixture.sources[name]
    if source.kind == "trajectories":
        store = Store(source.path) if source.path else session.store.child("curated")
        kept = table_trajectories(store.read_table("kept.parquet"))
        found = [conversation_from_trajectory(t) for t in kept]
    elif source.kind == "self":
        found = self_answered(session, servers)
    else:
        found = list(load_conversations(source.kind, str(source.path), name, source.limit))
    return found[: source.limit] if source.limit else found


def self_answered(session: Session, servers: Servers) -> list[Conversation]:
    """Let the base model answer the bundled instructions, or read its answers where it has."""
    from agenttuning.conversations.bundled import bundled_instructions
    from agenttuning.conversations.openai_messages import from_messages, to_messages
    from agenttuning.rollout.answers import self_answers

    recipe, store = session.recipe, session.store.child("mixture")
    if not store.exists("self-answers.json"):
        spec = recipe.mixture.self_answers
        asked = [
            Conversation(
                id=i.id if number == 1 else f"{i.id}-{number}",
                source="self",
                turns=tuple(Turn(role="user", content=text) for text in i.turns),
                meta={"category": i.category},
            )
            for number in range(1, spec.samples + 1)
            for i in bundled_instructions(spec.count, recipe.run.seed)
        ]
        session.ray()
        endpoint = servers.base()
        with Progress("self-answers", len(asked), "conversations") as bar:
            answers = sorted(self_answers(endpoint, asked, spec, recipe.run.seed, bar.update), key=lambda c: c.id)
        store.write_json("self-answers.json", [to_messages(c) for c in answers])
    records = store.read_json("self-answers.json")
    return [from_messages(r, "self") for r in records]


def train(session: Session) -> dict[str, Any]:
    """Fine-tune on the mixture with Ray Train."""
    recipe, store = session.recipe, session.store.child("training")
    items = session.store.child("mixture")
    key = {
        "mixture": _done_key(items, "mix"),
        "training": recipe.training.model_dump(mode="json", exclude={"max_failures", "keep_checkpoints"}),
        "seed": recipe.run.seed,
    }
    state = begin_stage(store, "train", key)
    if state.done:
        return _already("train", state)
    from agenttuning.training.ray_train import run_training

    session.ray()
    total = recipe.training.steps
    with (
        _tracker(session, "train") as tracker,
        Progress("train", total, "steps") as bar,
    ):

        def on_step(event: dict[str, Any]) -> None:
            bar.update(
                int(event["step"]),
                f"loss {event['loss']:.3f}, {event['tokens_per_second']:.0f} tokens/s",
                total=int(event.get("total_steps") or total),
            )
            tracker.log({f"train/{k}": v for k, v in event.items() if isinstance(v, int | float)}, event["step"])

        summary = run_training(recipe, session.model_dir(), items.child("items"), store, on_step)
        info = summary.as_dict()
        tracker.config({"training_summary": info})
    finish_stage(store, "train", key, info)
    return info


def export(session: Session) -> dict[str, Any]:
    """Write the tuned model as safetensors, tokenizer, chat template and model card."""
    from agenttuning.training.export import export_run

    store = session.store.child("model")
    key = {"training": _done_key(session.store.child("training"), "train")}
    state = begin_stage(session.store.child("export"), "export", key)
    if state.done:
        return _already("export", state)
    info = export_run(session.recipe, session.model_dir(), session.store.child("training"), store)
    finish_stage(session.store.child("export"), "export", key, info)
    return info


def evaluate(session: Session, servers: Servers, which: str) -> dict[str, Any]:
    """Play the test tasks and answer the general probe with the `base` or the `tuned` model."""
    from agenttuning.evaluation.general import evaluate_general
    from agenttuning.evaluation.held_in import evaluate_held_in, test_tasks

    recipe, store = session.recipe, session.store.child("evaluation", which)
    tuned = which == "tuned"
    key = {
        "model": _done_key(session.store.child("export"), "export") if tuned else recipe.model.model_dump(),
        "evaluation": recipe.evaluation.model_dump(mode="json", exclude={"concurrency"}),
        "environments": {
            n: s.model_dump(mode="json", exclude={"train_tasks", "reward_threshold"})
            for n, s in recipe.environments.items()
        },
        "rules": _rules(recipe),
        "data": recipe.data.model_dump(),
        "seed": recipe.run.seed,
    }
    state = begin_stage(store, f"evaluate {which}", key)
    if state.done:
        return _already(f"evaluate {which}", state)
    session.ray()
    tasks = test_tasks(recipe)
    model_dir = session.tuned_dir() if tuned else session.model_dir()
    endpoint = servers.tuned() if tuned else servers.base()
    with _tracker(session, f"evaluate-{which}") as tracker:
        with _bar(f"evaluate {which}", tasks, recipe) as bar:
            held_in = evaluate_held_in(endpoint.base_url, endpoint.model, recipe, tasks, store, _show(bar))
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


def _tracker(session: Session, stage: str) -> "Tracker":
    from agenttuning.tracking import Tracker

    remote = session.store.local_path() is None
    copy = session.store.child("tracking").write if remote else None
    return Tracker(session.recipe, stage, session.scratch("tracking"), copy=copy)


def _policy_key(policy: PolicySpec) -> dict[str, Any]:
    """What decides the trajectories; patience and time-outs do not."""
    return policy.model_dump(mode="json", exclude={"request_timeout_s", "patience_s", "api_key_env", "base_url"})


def _rules(recipe: Recipe) -> dict[str, Any]:
    """The limits that decide how an episode can go."""
    names = {"attempts", "context_tokens", "max_malformed", "max_repeats"}
    limits = {n: [s.max_steps, s.demonstration] for n, s in recipe.environments.items()}
    return {**recipe.rollout.model_dump(include=names), "environments": limits}


def _done_key(store: Store, stage: str) -> str:
    """Return the fingerprint of a finished stage.

    Raises:
        ConfigurationError: it has not run to its end.
    """
    if store.exists("manifest.json"):
        manifest = store.read_json("manifest.json")
        if manifest["done"]:
            return content_hash([manifest["key"], manifest["info"]])
    raise ConfigurationError(f"{stage}: not done yet in {store.uri}; run `agenttuning {stage}` with this recipe first")


def _already(stage: str, state: StageState) -> dict[str, Any]:
    say(f"{stage}: all is done")
    return state.info


def _bar(stage: str, tasks: list[Task], recipe: Recipe) -> Progress:
    return Progress(stage, len(tasks) * (recipe.rollout.attempts if stage == "generate" else 1), "episodes")


def _show(bar: Progress) -> Any:
    def show(done: int, total: int, by_environment: dict[str, Any]) -> None:
        bar.update(done, "; ".join(f"{name} {tally}" for name, tally in sorted(by_environment.items())), total)

    return show
