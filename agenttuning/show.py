"""`agenttuning show`: episodes of a run as text, and rendered training items with their trained tokens coloured.

Reads what is stored, also while a stage is still running; `progress` says how generation goes or went.
"""

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from agenttuning.errors import ConfigurationError, DataError
from agenttuning.machine import cache_directory
from agenttuning.progress import duration, say
from agenttuning.recipe import Recipe
from agenttuning.rollout.replay import SAME
from agenttuning.rollout.tally import Tally
from agenttuning.rollout.watch import PROGRESS
from agenttuning.session import run_store
from agenttuning.storage import Store
from agenttuning.storage.lease import holder
from agenttuning.storage.segments import read_trajectories, table_trajectories
from agenttuning.trajectory import Trajectory

_COLOURS = {"system": "\x1b[35m", "user": "\x1b[36m", "tool": "\x1b[36m", "assistant": "\x1b[32m"}
_RESET = "\x1b[0m"


def show_run(recipe: Recipe, what: str, item: str | None, environment: str | None, limit: int) -> None:
    """Print a list, or one trajectory or item.

    Args:
        recipe: names the run.
        what: `trajectories`, `curated`, `base`, `tuned`, `progress`, or the name of a mixture source.
        item: an id or its beginning; None prints a list.
        environment: only its trajectories.
        limit: rows of the list.

    Raises:
        ConfigurationError: `what` names nothing.
        DataError: nothing is stored, or no such id.
    """
    store = run_store(recipe)
    if what in recipe.mixture.sources:
        _show_item(recipe, store, what, item, limit)
        return
    if what == "progress":
        say(progress_text(store.child("trajectories")))
        return
    found = (t for t in _episodes(store, what, recipe) if environment in (None, t.task.environment))
    if item is None:
        if what == "trajectories" and holder(store.child("trajectories")) is not None:
            say(progress_text(store.child("trajectories")))
        shown = 0
        for trajectory in found:
            say(summary_line(trajectory))
            shown += 1
            if shown == limit:
                break
        if not shown:
            raise DataError(
                f"show: no {what} stored in {store.uri} yet; run `agenttuning generate` or `evaluate` first"
            )
        say(f"(--id ID prints one whole; --what also knows base, tuned and {', '.join(recipe.mixture.sources)})")
        return
    for trajectory in found:
        if trajectory.id.startswith(item) or trajectory.task.id.startswith(item):
            say(trajectory_text(trajectory))
            return
    raise DataError(f"show: no id in {what} begins with {item!r}; leave --id out for a list")


def progress_text(store: Store) -> str:
    """Return how generation goes: who is at work, and a row for each environment.

    Raises:
        DataError: nothing was played yet.
    """
    if not store.exists(PROGRESS):
        raise DataError(f"show: {store.uri} has no {PROGRESS}; run `agenttuning generate` first")
    told, now = store.read_json(PROGRESS), holder(store)
    age = duration(max(0.0, time.time() - told["time"]))
    lines = [f"nobody is at work; as it stood {age} ago:"]
    if now is not None:
        work = f"{told['actors']} actors, {told['in_flight']} episodes in flight"
        lines = [f"{now['purpose']}, by {now['user']} (process {now['pid']} on {now['host']}); {age} ago: {work}"]
    for name, fields in told["environments"].items():
        tally = Tally(**{key: value for key, value in fields.items() if key != "success"})
        lines.append(f"  {name:16} {tally}")
    if told.get("concurrency"):
        lines.append(f"  up to {told['concurrency']} requests in flight (policy.concurrency)")
    if told.get("spent"):
        lines.append(f"  spent {told['spent']:.4g} in all, episodes that were cut off included")
    return "\n".join(lines)


def replay_text(replayed: Sequence[Any]) -> str:
    """Return what replays came to: counts by environment, and each that did not go as stored."""
    counts = Counter((r.environment, r.verdict) for r in replayed)
    lines = [f"{name}: {count} {verdict}" for (name, verdict), count in sorted(counts.items())]
    for r in replayed:
        if r.verdict != SAME:
            where = f" at turn {r.turn}" if r.turn is not None else ""
            lines += [f"--- {r.id} {r.verdict}{where}", f"stored: {r.stored[:400]}", f"now:    {r.found[:400]}"]
    return "\n".join(lines)


def summary_line(t: Trajectory) -> str:
    """Return one line about a trajectory."""
    return f"{t.id}  {t.task.family:24} reward {t.reward:.2f}  {t.outcome.value:14} {t.steps:2} steps  {t.policy}"


def trajectory_text(t: Trajectory) -> str:
    """Return a whole trajectory as coloured text."""
    lines = [summary_line(t), f"task {t.task.id}, {t.task.split} split, seed {t.seed}, attempt {t.attempt}"]
    for turn in t.turns:
        mark = {True: "trained", False: "not trained", None: ""}[turn.loss]
        lines.append(f"{_COLOURS[turn.role]}--- {turn.role} {mark}{_RESET}")
        lines.append(turn.content)
    lines.append(f"--- outcome {t.outcome.value}, reward {t.reward}, score {t.score}, diagnostics {t.diagnostics}")
    return "\n".join(lines)


def _episodes(store: Store, what: str, recipe: Recipe) -> Iterator[Trajectory]:
    if what == "trajectories":
        return read_trajectories(store.child("trajectories"))
    if what == "curated":
        return table_trajectories(store.child("curated").read_table("kept.parquet"))
    if what in ("base", "tuned"):
        return read_trajectories(store.child("evaluation", what, "trajectories"))
    known = ", ".join(["trajectories", "curated", "base", "tuned", "progress", *recipe.mixture.sources])
    raise ConfigurationError(f"show: --what {what!r} is unknown; known: {known}")


def _show_item(recipe: Recipe, store: Store, source: str, item: str | None, limit: int) -> None:
    table = store.child("mixture").read_table(f"items/{source}.parquet")
    if item is None:
        for row in table.slice(0, limit).select(["id", "tokens", "supervised"]).to_pylist():
            say(f"{row['id']}  {row['tokens']:5} tokens, {row['supervised']:4} trained")
        say("(--id ID prints one with its trained tokens coloured)")
        return
    import numpy as np
    from transformers import AutoTokenizer

    from agenttuning.models import resolve_model
    from agenttuning.rendering.pieces import Rendered
    from agenttuning.rendering.show import coloured

    tokenizer = AutoTokenizer.from_pretrained(resolve_model(recipe.model, cache_directory() / "models"))
    for row in table.to_pylist():
        if row["id"].startswith(item):
            rendered = Rendered(np.array(row["ids"], np.int32), np.array(row["mask"], np.bool_))
            say(coloured(rendered, tokenizer))
            return
    raise DataError(f"show: no item of source {source!r} begins with {item!r}; leave --id out for a list")
