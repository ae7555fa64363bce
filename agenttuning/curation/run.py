"""Curation: judge every stored trajectory, write what is kept, what was dropped and why, and the report.

Reads the segments of a directory of trajectories (or its table, where there are no segments) and writes

- `kept.parquet`: the kept trajectories, as `agenttuning.storage.segments` tables them;
- `dropped.parquet`: id, environment, family, rule, reason, reward and outcome of the others;
- `agentinstruct.jsonl`: the kept ones as AgentInstruct records, or `messages.jsonl` (OpenAI messages) in its place
  where one of them uses tools or reasoning, which AgentInstruct cannot express;
- `report.json`: the report, written last.

Beside the recipe's rules, a trajectory of the same task with the same turns as another is always dropped as
`duplicate`; of such, the one with the lowest id stays. The result depends on the stored trajectories alone, not on
which actor wrote them or how the work was spread. From `RAY_UNITS` segments on, segments are read and judged by Ray
Data; below, starting it costs more than the work. The driver holds the kept trajectories, never the dropped ones.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import orjson
import pyarrow as pa

from agenttuning.conversations.agentinstruct import to_agentinstruct
from agenttuning.conversations.openai_messages import to_messages
from agenttuning.conversations.trajectories import conversation_from_trajectory
from agenttuning.curation.report import CurationReport, Verdict, summarise
from agenttuning.curation.rules import DUPLICATE, Rule, first_objection, rules_named
from agenttuning.errors import AgentTuningError, DataError
from agenttuning.recipe import Recipe
from agenttuning.storage import Store
from agenttuning.storage.segments import SEGMENTS, read_segment, table_trajectories, trajectories_table
from agenttuning.trajectory import Trajectory, content_hash

RAY_UNITS = 1000
"""Segments from which on Ray Data does the work (a segment holds the episodes that ended within about a second)."""
TABLES = ("trajectories.parquet", "kept.parquet")
"""Tables that are read where a directory has no segments."""

KEPT, DROPPED, REPORT = "kept.parquet", "dropped.parquet", "report.json"
AGENTINSTRUCT, MESSAGES = "agentinstruct.jsonl", "messages.jsonl"

DROPPED_SCHEMA = pa.schema(
    [(name, pa.string()) for name in ("id", "environment", "family", "rule", "reason")]
    + [("reward", pa.float64()), ("outcome", pa.string())]
)

OnProgress = Callable[[int, int], None]
"""Called with the number of files judged so far and in all."""


@dataclass(frozen=True)
class Judged:
    """One trajectory after the rules; `record` and `digest` only where they kept it."""

    id: str
    environment: str
    family: str
    task: str
    outcome: str
    reward: float
    turns: int
    rule: str | None
    reason: str | None
    digest: str | None = None
    """Equal for trajectories of one task with equal turns."""
    record: str | None = None
    """The trajectory as JSON."""


def curate(source: Store, target: Store, recipe: Recipe, on_progress: OnProgress | None = None) -> CurationReport:
    """Judge the trajectories in `source` by the recipe's rules and write the result to `target`.

    Needs an initialised Ray only from `RAY_UNITS` segments on.

    Raises:
        ConfigurationError: an unknown rule, or an environment that the recipe does not list.
        DataError: nothing is stored in `source`, a file there is damaged, or it holds test tasks.
    """
    names = [*rules_named(recipe.curation.rules)]
    units = _units(source)
    judge = _judge_on_ray if len(units) >= RAY_UNITS else _judge_here
    first: dict[str, Judged] = {}
    for judged in judge(source, units, recipe, on_progress or (lambda done, total: None)):
        first.setdefault(judged.id, judged)
    everything = _without_duplicates([first[key] for key in sorted(first)])
    kept = [Trajectory.model_validate_json(j.record) for j in everything if j.rule is None and j.record is not None]
    target.write_table(KEPT, trajectories_table(kept))
    target.write_table(DROPPED, _dropped_table(everything))
    report = summarise(map(_verdict, everything), (*names, DUPLICATE), _write_lines(target, kept))
    target.write(REPORT, orjson.dumps(report.model_dump(), option=orjson.OPT_INDENT_2) + b"\n")
    return report


def _units(source: Store) -> list[str]:
    segments = source.list(prefix=f"{SEGMENTS}/", suffix=".jsonl")
    units = segments or [name for name in TABLES if source.exists(name)][:1]
    if not units:
        raise DataError(f"{source.uri}: no trajectories are stored here; run `agenttuning generate` first")
    return units


def _judge_here(source: Store, units: list[str], recipe: Recipe, on_progress: OnProgress) -> Iterator[Judged]:
    rules = rules_named(recipe.curation.rules)
    for done, name in enumerate(units, start=1):
        for trajectory in _read(source, name):
            yield _judge(trajectory, recipe, rules)
        on_progress(done, len(units))


def _judge_on_ray(source: Store, units: list[str], recipe: Recipe, on_progress: OnProgress) -> Iterator[Judged]:
    """Judge the units on Ray Data; results come in the order of the units."""
    import ray.data

    context = ray.data.DataContext.get_current()
    order, bars = context.execution_options.preserve_order, context.enable_progress_bars
    context.execution_options.preserve_order, context.enable_progress_bars = True, False
    try:
        items = ray.data.from_items([{"unit": name} for name in units], override_num_blocks=min(len(units), 200))
        rows = items.map_batches(partial(_judge_batch, source=source, recipe=recipe), batch_size=None)
        for done, row in enumerate(rows.iter_rows(), start=1):
            if row["error"] is not None:
                kind, message = row["error"].split("\n", 1)
                raise _ERRORS.get(kind, DataError)(message)
            for fields in orjson.loads(row["judged"]):
                yield Judged(**fields)
            on_progress(done, len(units))
    finally:
        context.execution_options.preserve_order, context.enable_progress_bars = order, bars


def _judge_batch(batch: dict[str, Any], source: Store, recipe: Recipe) -> pa.Table:
    """Judge some units: one row each, with the judged as JSON or the error as text. Never raises a known failure."""
    rules = rules_named(recipe.curation.rules)
    judged: list[str | None] = []
    errors: list[str | None] = []
    for name in batch["unit"]:
        try:
            found = [vars(_judge(t, recipe, rules)) for t in _read(source, str(name))]
            judged.append(orjson.dumps(found).decode())
            errors.append(None)
        except AgentTuningError as error:
            judged.append(None)
            errors.append(f"{type(error).__name__}\n{error}")
    return pa.table({"judged": pa.array(judged, pa.large_string()), "error": pa.array(errors, pa.large_string())})


_ERRORS = {cls.__name__: cls for cls in AgentTuningError.__subclasses__()}


def _read(source: Store, name: str) -> Iterator[Trajectory]:
    if name in TABLES:
        return table_trajectories(source.read_table(name))
    return read_segment(source, name)


def _judge(trajectory: Trajectory, recipe: Recipe, rules: dict[str, Rule]) -> Judged:
    task = trajectory.task
    if task.split != "train":
        raise DataError(
            f"trajectory {trajectory.id} plays a task of the split {task.split!r}: test tasks are never learned from; "
            "curate the trajectories of train tasks"
        )
    rule, reason = first_objection(trajectory, recipe, rules) or (None, None)
    turns = [turn.model_dump(mode="json") for turn in trajectory.turns] if rule is None else []
    return Judged(
        id=trajectory.id,
        environment=task.environment,
        family=task.family,
        task=task.id,
        outcome=trajectory.outcome.value,
        reward=trajectory.reward,
        turns=sum(1 for turn in trajectory.turns if turn.loss),
        rule=rule,
        reason=reason,
        digest=content_hash([task.id, turns]) if rule is None else None,
        record=trajectory.model_dump_json() if rule is None else None,
    )


def _without_duplicates(judged: list[Judged]) -> list[Judged]:
    """Return the judged, all but the first of those with one digest dropped as duplicates."""
    holder: dict[str, str] = {}
    result = []
    for j in judged:
        if j.digest is not None and holder.setdefault(j.digest, j.id) != j.id:
            reason = f"same task and same turns as {holder[j.digest]}"
            fields = vars(j) | {"rule": DUPLICATE, "reason": reason, "record": None}
            result.append(Judged(**fields))
        else:
            result.append(j)
    return result


def _dropped_table(judged: list[Judged]) -> pa.Table:
    rows = [{name: getattr(j, name) for name in DROPPED_SCHEMA.names} for j in judged if j.rule is not None]
    return pa.Table.from_pylist(rows, schema=DROPPED_SCHEMA)


def _verdict(j: Judged) -> Verdict:
    return Verdict(
        environment=j.environment, family=j.family, task=j.task, outcome=j.outcome, turns=j.turns, rule=j.rule
    )


def _write_lines(target: Store, kept: list[Trajectory]) -> str:
    """Write the kept trajectories as records without metadata (it stands in `kept.parquet`) and return the name."""
    plain = [conversation_from_trajectory(t).model_copy(update={"meta": {}}) for t in kept]
    try:
        records, name, other = [to_agentinstruct(c) for c in plain], AGENTINSTRUCT, MESSAGES
    except DataError:
        records, name, other = [to_messages(c) for c in plain], MESSAGES, AGENTINSTRUCT
    target.write(name, b"".join(orjson.dumps(record) + b"\n" for record in records))
    target.delete(other)
    return name
