"""Curation: judge every stored trajectory, write what is kept, what was dropped and why, and the report.

Reads the segments of directories of trajectories (or their table, where there are no segments) and writes

- `kept.parquet`: the kept trajectories by id, as `agenttuning.storage.segments` tables them;
- `dropped.parquet`: id, environment, family, rule, reason, reward and outcome of the others;
- `messages.jsonl`: the kept ones as OpenAI messages, and `agentinstruct.jsonl`: as AgentInstruct records, which leaves
  out those with tools or reasoning, which that format cannot express;
- `pairs.parquet`: successes and failures of one task, where the recipe asks for them;
- `report.json`: the report, written last.

Two passes over the data, neither of which holds it. The first judges each trajectory by itself and leaves sorted runs
on disk (`work/`, deleted at the end); then duplicates and quotas are settled on signatures and counts alone; the second
merges the runs into the tables. The result depends on the stored trajectories alone, not on which actor wrote them or
how the work was spread. From `RAY_UNITS` segments on, the first pass is done by Ray Data; below, starting it costs
more than the work.
"""

import io
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa

from agenttuning.curation.contamination import EvaluationIndex, build_index
from agenttuning.curation.judge import judge
from agenttuning.curation.pairs import PAIR_SCHEMA, PAIRS, PairShelf
from agenttuning.curation.report import CurationReport
from agenttuning.curation.rules import check_rules
from agenttuning.curation.runs import merged_lines, write_run
from agenttuning.curation.settle import Settled, report_on, settle
from agenttuning.curation.tables import ROWS, lines, parquet
from agenttuning.errors import AgentTuningError, DataError
from agenttuning.reading import reading
from agenttuning.recipe import Recipe
from agenttuning.storage import Store
from agenttuning.storage.segments import (
    TRAJECTORY_SCHEMA,
    read_segment,
    segment_names,
    table_trajectories,
    trajectories_table,
)
from agenttuning.trajectory import Trajectory

RAY_UNITS = 1000
"""Segments from which on Ray Data does the work (a segment holds the episodes that ended within about a second)."""
RUN_UNITS = 32
"""Segments of one run; more where there would be more than `MOST_RUNS`, which are all open at once when merged."""
MOST_RUNS = 400
TABLES = ("trajectories.parquet", "kept.parquet")
"""Tables that are read where a directory has no segments."""

KEPT, DROPPED, REPORT = "kept.parquet", "dropped.parquet", "report.json"
AGENTINSTRUCT, MESSAGES = "agentinstruct.jsonl", "messages.jsonl"
WORK, INDEX = "work", "evaluation.npz"

DROPPED_SCHEMA = pa.schema(
    [(name, pa.string()) for name in ("id", "environment", "family", "rule", "reason")]
    + [("reward", pa.float64()), ("outcome", pa.string())]
)

Unit = tuple[str, str]
"""A file to judge: the store's URI and the file's name."""
OnProgress = Callable[[int, int], None]
"""Called with the number of files judged so far and in all."""


def curate(
    source: Store | Sequence[Store],
    target: Store,
    recipe: Recipe,
    on_progress: OnProgress | None = None,
    evaluation: Mapping[str, Sequence[str]] | None = None,
) -> CurationReport:
    """Judge the trajectories in `source` by the recipe's rules and write the result to `target`.

    Needs an initialised Ray only from `RAY_UNITS` segments on.

    Args:
        source: one directory of trajectories, or several.
        target: the directory of the result.
        recipe: whose `curation` and reward thresholds decide.
        on_progress: told as the first pass goes on.
        evaluation: texts of the evaluation samples by split, for the rule `contamination`.

    Raises:
        ConfigurationError: an unknown rule, or an environment that the recipe does not list.
        DataError: nothing is stored in `source`, a file there is damaged, or it holds test tasks.
    """
    names = check_rules(recipe.curation.rules)
    check_rules(recipe.curation.bad_turns, "curation.bad_turns")
    units = [unit for store in ([source] if isinstance(source, Store) else source) for unit in _units(store)]
    index = build_index(evaluation) if evaluation else None
    work = target.child(WORK)
    _clear(work)
    if index is not None:
        buffer = io.BytesIO()
        np.savez(buffer, allow_pickle=False, **index.arrays())
        work.write(INDEX, buffer.getvalue())
    size = max(RUN_UNITS, -(-len(units) // MOST_RUNS))
    runs = {f"run-{n:05d}": units[start : start + size] for n, start in enumerate(range(0, len(units), size))}
    judge_all = _judge_on_ray if len(units) >= RAY_UNITS else _judge_here
    try:
        judge_all(runs, work, recipe, names, on_progress or (lambda done, total: None))
        with _local(work) as directory:
            settled = settle(directory, recipe, names)
            expressible, pairs = _write_kept(directory, target, settled, recipe.curation.pairs)
        _write_dropped(target, settled)
        kept_as = AGENTINSTRUCT if expressible else MESSAGES
        report = report_on(settled, names, recipe, kept_as, pairs, index)
    finally:
        _clear(work)
    target.write(REPORT, orjson.dumps(report.model_dump(), option=orjson.OPT_INDENT_2) + b"\n")
    return report


def _units(source: Store) -> list[Unit]:
    names = segment_names(source) or [name for name in TABLES if source.exists(name)][:1]
    if not names:
        raise DataError(
            f"{source.uri}: no trajectories are stored here; run `agenttuning generate` or `agenttuning import` first"
        )
    return [(source.uri, name) for name in names]


def _judge_here(
    runs: dict[str, list[Unit]], work: Store, recipe: Recipe, names: tuple[str, ...], on_progress: OnProgress
) -> None:
    total, done = sum(map(len, runs.values())), 0

    def told(units: list[Unit]) -> Iterator[Trajectory]:
        nonlocal done
        for unit in units:
            yield from _read(*unit)
            done += 1
            on_progress(done, total)

    index = _stored_index(work.uri)
    for name, units in runs.items():
        write_run(work, name, (judge(t, recipe, names, index) for t in told(units)), recipe.curation.pairs)
    _stored_index.cache_clear()


def _judge_on_ray(
    runs: dict[str, list[Unit]], work: Store, recipe: Recipe, names: tuple[str, ...], on_progress: OnProgress
) -> None:
    """Judge the runs on Ray Data. The trajectories go from store to store: only names pass through Ray."""
    import ray.data

    context = ray.data.DataContext.get_current()
    bars = context.enable_progress_bars
    context.enable_progress_bars = False
    total, done = sum(map(len, runs.values())), 0
    try:
        rows = [{"run": name, "units": orjson.dumps(units).decode()} for name, units in runs.items()]
        items = ray.data.from_items(rows, override_num_blocks=len(rows))
        judge_batch = partial(_judge_batch, work=work, recipe=recipe, names=names)
        with reading(items.map_batches(judge_batch, batch_size=1).iter_rows()) as rows_judged:
            for row in rows_judged:
                if row["error"] is not None:
                    kind, message = row["error"].split("\n", 1)
                    raise _ERRORS.get(kind, DataError)(message)
                done += len(runs[row["run"]])
                on_progress(done, total)
    finally:
        context.enable_progress_bars = bars


def _judge_batch(batch: dict[str, Any], work: Store, recipe: Recipe, names: tuple[str, ...]) -> dict[str, Any]:
    """Judge some runs: one row each, with the error as text where there was one. Never raises a known failure."""
    errors: list[str | None] = []
    index = _stored_index(work.uri)
    for name, units in zip(batch["run"], batch["units"], strict=True):
        found = (judge(t, recipe, names, index) for unit in orjson.loads(units) for t in _read(*unit))
        try:
            write_run(work, str(name), found, recipe.curation.pairs)
            errors.append(None)
        except AgentTuningError as error:
            errors.append(f"{type(error).__name__}\n{error}")
    return {"run": batch["run"], "error": np.array(errors, dtype=object)}


_ERRORS = {cls.__name__: cls for cls in AgentTuningError.__subclasses__()}


@lru_cache(maxsize=1)
def _stored_index(work: str) -> EvaluationIndex | None:
    store = Store(work)
    if not store.exists(INDEX):
        return None
    with np.load(io.BytesIO(store.read(INDEX))) as arrays:
        return EvaluationIndex.from_arrays(arrays)


def _read(uri: str, name: str) -> Iterator[Trajectory]:
    store = Store(uri)
    if name in TABLES:
        return table_trajectories(store.read_table(name))
    return read_segment(store, name)


@contextmanager
def _local(work: Store) -> Iterator[Path]:
    """Give the runs as a local directory; fetched where the store is remote."""
    if (path := work.local_path()) is not None:
        yield path
        return
    folder = Path(tempfile.mkdtemp(prefix="agenttuning-runs-"))
    try:
        for name in work.list():
            (folder / name).write_bytes(work.read(name))
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _clear(work: Store) -> None:
    if (path := work.local_path()) is not None:
        shutil.rmtree(path, ignore_errors=True)
        return
    for name in work.list():
        work.delete(name)


def _write_kept(directory: Path, target: Store, settled: Settled, pairs: bool) -> tuple[bool, int]:
    """Write the kept trajectories and the pairs; return whether AgentInstruct can express all, and how many pairs."""
    expressible, count = True, 0
    waiting: list[Trajectory] = []
    with ExitStack() as stack:
        table = stack.enter_context(parquet(target, KEPT, TRAJECTORY_SCHEMA))
        records = stack.enter_context(lines(target, AGENTINSTRUCT))
        messages = stack.enter_context(lines(target, MESSAGES))
        shelf = stack.enter_context(PairShelf()) if pairs else None
        for row, line in settled.with_lines(merged_lines(directory)):
            _, _, record, instruct, spoken = orjson.loads(line)
            rule = settled.rule(row)
            if shelf is not None:
                shelf.put(settled.task(row), rule, record)
            if rule is not None:
                continue
            trajectory = Trajectory.model_validate_json(record)
            waiting.append(trajectory)
            if len(waiting) == ROWS:
                table.write(trajectories_table(waiting))
                waiting.clear()
            messages.write(spoken.encode() + b"\n")
            if instruct is None:
                expressible = False
            else:
                records.write(instruct.encode() + b"\n")
        table.write(trajectories_table(waiting))
        if shelf is not None:
            with parquet(target, PAIRS, PAIR_SCHEMA) as paired:
                count = shelf.write(paired)
    if not pairs:
        target.delete(PAIRS)
    return expressible, count


def _write_dropped(target: Store, settled: Settled) -> None:
    with parquet(target, DROPPED, DROPPED_SCHEMA) as table:
        for row in settled.dropped_rows():
            table.add(row)
