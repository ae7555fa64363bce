"""What a report needs, read from a run directory. Every part may be missing: a run is reported at any point of its way.

Nothing is computed here that a stage has not stored, but for smoothing and shares. A part that cannot be read is named
in `Gathered.problems` and left out, so that one damaged file does not cost the page.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import orjson
import yaml

from agenttuning.errors import AgentTuningError
from agenttuning.storage import Store
from agenttuning.storage.segments import read_trajectories, table_trajectories
from agenttuning.trajectory import Trajectory

MODELS = ("base", "tuned")

Value = TypeVar("Value")


@dataclass
class Gathered:
    """All parts of a run's report; None or empty where a stage has not run."""

    name: str
    uri: str
    recipe_text: str | None = None
    recipe: dict[str, Any] = field(default_factory=dict)
    generation: dict[str, Any] = field(default_factory=dict)
    """Summary of the last call of `generate`, from its manifest."""
    curation: dict[str, Any] | None = None
    """`curated/report.json`."""
    mixture: dict[str, Any] | None = None
    """`mixture/report.json`: what each source holds."""
    plan: dict[str, Any] | None = None
    """What the training drew: `mixture` by source, and `packing_efficiency`."""
    training: dict[str, Any] = field(default_factory=dict)
    """`training/trained.json`: what the training amounted to."""
    metrics: list[dict[str, Any]] = field(default_factory=list)
    """One entry per step, in order."""
    held_in: dict[str, dict[str, Any]] = field(default_factory=dict)
    general: dict[str, dict[str, Any]] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    timings: dict[str, Any] = field(default_factory=dict)
    """`timings.json`: `seconds` by stage and `peak_memory_bytes`."""
    episodes: dict[str, list[Trajectory]] = field(default_factory=dict)
    """Evaluation episodes of `base` and `tuned`, and the `kept` and `collected` train trajectories."""
    problems: list[str] = field(default_factory=list)


def gather(run: Store) -> Gathered:
    """Read a run directory."""
    g = Gathered(name=run.uri.partition("?")[0].rsplit("/", 1)[-1], uri=run.uri.partition("?")[0])

    def read(name: str, reader: Callable[[str], Value]) -> Value | None:
        try:
            return reader(name) if run.exists(name) else None
        except (AgentTuningError, yaml.YAMLError, ValueError, KeyError, TypeError, AttributeError) as error:
            g.problems.append(f"{name}: {str(error).splitlines()[0]}")
            return None

    g.recipe_text = read("recipe.yaml", lambda n: run.read(n).decode())
    g.recipe = read("recipe.yaml", lambda n: dict(yaml.safe_load(run.read(n)))) or {}
    g.generation = read("trajectories/manifest.json", lambda n: dict(run.read_json(n)["info"])) or {}
    g.curation = read("curated/report.json", run.read_json)
    g.mixture = read("mixture/report.json", run.read_json)
    g.summary = read("summary.json", run.read_json) or {}
    g.timings = read("timings.json", run.read_json) or {}
    g.metrics = read(_history(run), lambda n: steps_of(run.read(n))) or []
    g.training = read("training/trained.json", run.read_json) or {}
    g.plan = read("training/plan.json", run.read_json) or drawn(g.training)
    for which in MODELS:
        held_in = read(f"evaluation/{which}/held_in.json", run.read_json)
        general = read(f"evaluation/{which}/general.json", run.read_json)
        if held_in:
            g.held_in[which] = held_in
        if general:
            g.general[which] = general
        g.episodes[which] = _episodes(run.child("evaluation", which, "trajectories"), g.problems)
    g.episodes["kept"] = read("curated/kept.parquet", lambda n: list(table_trajectories(run.read_table(n)))) or []
    g.episodes["collected"] = [] if g.episodes["kept"] else _episodes(run.child("trajectories"), g.problems)
    return g


def _episodes(store: Store, problems: list[str]) -> list[Trajectory]:
    try:
        return list(read_trajectories(store))
    except AgentTuningError as error:
        problems.append(str(error).splitlines()[0])
        return []


def steps_of(data: bytes) -> list[dict[str, Any]]:
    """Return the steps of a metrics file in order; of a step done twice (after a restart) the later one counts.

    A torn last line is passed over.
    """
    found: dict[int, dict[str, Any]] = {}
    for line in data.splitlines():
        try:
            event = orjson.loads(line)
        except orjson.JSONDecodeError:
            continue
        if isinstance(event, dict) and isinstance(event.get("step"), int):
            found[event["step"]] = event
    return [found[step] for step in sorted(found)]


def drawn(trained: dict[str, Any]) -> dict[str, Any] | None:
    """Return the realised mixture out of a training's summary, in the shape of a plan's."""
    if not isinstance(trained, dict) or not trained.get("items"):
        return None
    share, epochs = trained["item_share"], trained["epochs"]
    mixture = {n: {"items": c, "item_share": share[n], "epochs": epochs[n]} for n, c in trained["items"].items()}
    return {"mixture": mixture, "packing_efficiency": trained["packing_efficiency"]}


def _history(run: Store) -> str:
    """Return the name of the metrics: of the finished training, else of the newest checkpoint."""
    checkpoints = run.list(prefix="training/checkpoints/", suffix="/metrics.jsonl")
    finished = "training/metrics.jsonl"
    return finished if run.exists(finished) or not checkpoints else checkpoints[-1]


def smoothed(points: list[tuple[float, float]], window: int) -> list[tuple[float, float]]:
    """Return the running mean over the last `window` finite values."""
    out: list[tuple[float, float]] = []
    recent: list[float] = []
    for x, y in points:
        if y == y and abs(y) != float("inf"):
            recent = [*recent, y][-window:]
            out.append((x, sum(recent) / len(recent)))
    return out
