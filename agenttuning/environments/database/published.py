"""Tasks from published data: which source has which splits and files, and AgentBench's files themselves.

WikiTableQuestions and AgentBench's questions have answers and no gold program; the columns are text, as AgentBench
creates them. Where there is gold SQL (AgentBench's changes, GeoQuery, defog, files of questions, changes drawn from
WikiTableQuestions' tables) a demonstrator exists. What `tasks` leaves out is counted by reason in a `Counter`.
"""

import random
import re
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from agenttuning.environments.database import edits, gold, questions
from agenttuning.environments.database import wikitablequestions as wtq
from agenttuning.environments.database.engine import SQLiteEngine
from agenttuning.environments.database.tables import Table, agentbench_hash, state_of
from agenttuning.errors import ConfigurationError, DataError
from agenttuning.trajectory import Task

AGENTBENCH = {"agentbench_dev": "dev.jsonl", "agentbench_standard": "standard.jsonl"}
"""Files of AgentBench's database task; both are for evaluation alone."""
_MD5 = re.compile(r"\b[0-9a-f]{32}\b")
SPLITS: dict[str, tuple[str, ...]] = {
    "wikitablequestions": ("train", "test"),
    "wikitablequestions_edits": ("train", "test"),
    "agentbench_dev": ("test",),
    "agentbench_standard": ("test",),
    "geoquery": ("train",),
    "defog": ("train", "test"),
    "sqlite": ("train", "test", "shifted"),
}
"""The splits that each published source has."""


def load(
    environment: str,
    source: str,
    root: str | None,
    split: str,
    count: int,
    seed: int,
    *,
    file: str | None = None,
    max_chars: int = 800,
    dropped: Counter[str] | None = None,
) -> Iterator[Task]:
    """Yield up to `count` tasks of a published source in an order that the seed decides.

    Args:
        environment: the registered name that the tasks carry.
        source: a key of `SPLITS`.
        root: the data root; None where the source needs none (`sqlite` with an absolute path).
        split: `train`, `test` or `shifted`.
        count: how many.
        seed: decides which and their order.
        file: for `sqlite`: the file of questions, relative to the data root.
        max_chars: length at which the environment cuts a result; a longer gold result makes no task.
        dropped: questions and tables that make no task are counted here, by reason.

    Raises:
        ConfigurationError: no `data.root`, or a split that the source does not have.
        DataError: a file is missing or not as its format says.
    """
    if count == 0:
        return
    if split not in SPLITS[source]:
        raise ConfigurationError(
            f"{environment}: source {source!r} has no split {split!r} (it has {', '.join(SPLITS[source])}); "
            f"set environments.{environment}.{split}_tasks=0"
        )
    if root is None and not (source == "sqlite" and file and Path(file).is_absolute()):
        raise ConfigurationError(f"{environment}: source {source!r} needs data.root, the directory of published data")
    folder, counted = Path(root or ""), Counter[str]() if dropped is None else dropped
    if source == "wikitablequestions":
        yield from _wikitablequestions(environment, folder, split, count, seed, counted)
    elif source == "wikitablequestions_edits":
        yield from edits.edit_tasks(environment, split, _wtq_tables(folder, split, counted), count, seed)
    elif source in AGENTBENCH:
        yield from islice(_agentbench_file(environment, folder, source, split, seed, counted), count)
    else:
        if source == "geoquery":
            found = questions.geoquery(folder)
        elif source == "defog":
            found = questions.defog(folder, split)
        else:
            found = questions.in_files(folder / str(file), split)
        asked = list(found)
        random.Random(seed).shuffle(asked)
        yield from islice(gold.tasks(environment, split, asked, max_chars, counted), count)


def _wikitablequestions(
    environment: str, root: Path, split: str, count: int, seed: int, dropped: Counter[str]
) -> Iterator[Task]:
    records = wtq.questions(root, split)
    random.Random(seed).shuffle(records)
    try:
        found = wtq.tables(root, (record["table"] for record in records))
        shared = wtq.held_out(found, _evaluation_tables(root)) if split == "train" else set()
        dropped[wtq.STANDS] += sum(record["table"] in shared for record in records)
        kept = [record for record in records if record["table"] not in shared]
    except (KeyError, IndexError, TypeError) as error:
        raise DataError(f"{root}: not as WikiTableQuestions published it ({error!r}); fetch it again") from error
    yield from wtq.question_tasks(environment, split, root, kept[:count], {raw["id"]: raw for raw in found})


def _wtq_tables(root: Path, split: str, dropped: Counter[str]) -> list[Table]:
    """Return the tables that the questions of a split ask, in the order of their ids."""
    try:
        asked = {record["table"] for record in wtq.questions(root, split)}
        # The published splits share no table; a file that does is not theirs.
        asked -= {record["table"] for record in wtq.questions(root, "test" if split == "train" else "train")}
        found = [raw for raw in wtq.tables(root, asked) if raw["id"] in asked]
        shared = wtq.held_out(found, _evaluation_tables(root)) if split == "train" else set()
        dropped[wtq.STANDS] += len(shared)
        kept = [raw for raw in found if raw["id"] not in shared]
        return [wtq.text_table(wtq.name_of(raw["id"]), raw["header"], raw["rows"]) for raw in kept]
    except (KeyError, IndexError, TypeError) as error:
        raise DataError(f"{root}: not as WikiTableQuestions published it ({error!r}); fetch it again") from error


def _evaluation_tables(root: Path) -> Iterator[list[list[Any]]]:
    """Yield the rows of every table of AgentBench's files that are in the data root."""
    for source in AGENTBENCH:
        if (path := _agentbench_path(root, source)).is_file():
            yield from (record["table"]["table_info"]["rows"] for record in wtq.read_lines(path))


def _agentbench_file(
    environment: str, root: Path, source: str, split: str, seed: int, dropped: Counter[str]
) -> Iterator[Task]:
    """Yield a task for each record of AgentBench's file; count those that make none."""
    path = _agentbench_path(root, source)
    records = wtq.read_lines(path)
    random.Random(seed).shuffle(records)
    for record in records:
        try:
            made = _agentbench(environment, split, record)
        except (KeyError, IndexError, TypeError) as error:
            raise DataError(f"{path}: a {source} record is not as published ({error!r}): {record!r:.200}") from error
        if isinstance(made, Task):
            yield made
        else:
            dropped[made] += 1


def _agentbench_path(root: Path, source: str) -> Path:
    """Return AgentBench's file as it lies in this project's data root or in AgentBench's own repository."""
    name = AGENTBENCH[source]
    packed = root / "db" / f"agentbench_dbbench_{name}"
    places = (packed, root / "data" / "dbbench" / name, root / "dbbench" / name, root / "db" / name)
    return next((place for place in places if place.is_file()), packed)


def _agentbench(environment: str, split: str, record: dict[str, Any]) -> Task | str:
    """Return the task of a record, or the reason why it makes none.

    A change is graded by what its gold statement leaves; by the hash that AgentBench stored, where that does not run.
    """
    info = record["table"]["table_info"]
    table = wtq.text_table(record["table"]["table_name"], [column["name"] for column in info["columns"]], info["rows"])
    family = record["type"][0]
    instruction = f"{record['description']}\nThe table `{table.name}` has the columns {_listed(table)}."
    if family not in ("INSERT", "UPDATE", "DELETE"):
        answers = [str(value) for value in record["label"]]
        return _task(environment, split, instruction, table, answers, state_of([table]), family)
    stored = _MD5.search(str(record.get("answer_md5")))
    statement = str(record["label"][0] if record.get("label") else record.get("sql", {}).get("query", ""))
    engine = SQLiteEngine()
    engine.create([table])
    reply = engine.execute(statement)
    state = engine.state([table])
    engine.close()
    if not reply.error and state != state_of([table]):
        return _task(
            environment,
            split,
            instruction,
            table,
            None,
            state,
            family,
            {"gold": " ".join(statement.split()), "listed": True},
        )
    more: dict[str, Any] = {"hash": "agentbench", "before": state_of([table], agentbench_hash)}
    if stored is None or more["before"] == {table.name: stored[0]}:
        what = "fails" if reply.error else "changes nothing"
        return f"the gold statement {what}, and no other answer_md5 is stored"
    return _task(environment, split, instruction, table, None, {table.name: stored[0]}, family, more)


def _task(
    environment: str,
    split: str,
    instruction: str,
    table: Table,
    answers: list[str] | None,
    state: dict[str, str | None],
    family: str,
    more: dict[str, Any] | None = None,
) -> Task:
    payload: dict[str, Any] = {
        "tables": [table.model_dump(mode="json")],
        "answer": answers,
        "before": state_of([table]),
        "state": state,
    }
    payload |= more or {}
    return Task(
        environment=environment, split=split, instruction=instruction, payload=payload, family=family, origin="dataset"
    )


def _listed(table: Table) -> str:
    return ", ".join(f"`{column}`" for column in table.columns)
