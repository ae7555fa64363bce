"""Tasks from published data: which source has which splits and files, and WikiTableQuestions and AgentBench themselves.

WikiTableQuestions and AgentBench's questions have answers and no gold program; the columns are text, as AgentBench
creates them. Where there is gold SQL (AgentBench's changes, GeoQuery, defog, files of questions, changes drawn from
WikiTableQuestions' tables) a demonstrator exists. What `tasks` leaves out is counted by reason in a `Counter`.
"""

import json
import lzma
import random
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from agenttuning.environments.database import edits, gold, questions
from agenttuning.environments.database.engine import SQLiteEngine
from agenttuning.environments.database.tables import Table, state_of
from agenttuning.errors import ConfigurationError, DataError
from agenttuning.trajectory import Task

WTQ_SPLITS = {"train": "wtq_training", "test": "wtq_pristine-unseen-tables"}
AGENTBENCH = {"agentbench_dev": "dev.jsonl", "agentbench_standard": "standard.jsonl"}
"""Files of AgentBench's database task; both are for evaluation alone."""
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
        dropped: questions that make no task are counted here, by reason.

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
    folder = Path(root or "")
    if source == "wikitablequestions":
        yield from _wikitablequestions(environment, folder / "db", split, count, seed)
    elif source == "wikitablequestions_edits":
        yield from edits.edit_tasks(environment, split, _wtq_tables(folder / "db", split), count, seed)
    elif source in AGENTBENCH:
        yield from _agentbench_file(environment, folder, source, split, count, seed)
    else:
        if source == "geoquery":
            found = questions.geoquery(folder)
        elif source == "defog":
            found = questions.defog(folder, split)
        else:
            found = questions.in_files(folder / str(file), split)
        asked = list(found)
        random.Random(seed).shuffle(asked)
        counted = Counter[str]() if dropped is None else dropped
        yield from islice(gold.tasks(environment, split, asked, max_chars, counted), count)


def _wikitablequestions(environment: str, folder: Path, split: str, count: int, seed: int) -> Iterator[Task]:
    records = _read(folder / f"{WTQ_SPLITS[split]}.jsonl.xz")
    tables = {record["id"]: record for record in _read(folder / "wtq_tables.jsonl.xz")}
    random.Random(seed).shuffle(records)
    for record in records[:count]:
        try:
            yield _question(environment, split, record, tables[record["table"]])
        except (KeyError, IndexError, TypeError) as error:
            raise DataError(f"{folder}: not as WikiTableQuestions published it ({error!r}): {record!r:.200}") from error


def _wtq_tables(folder: Path, split: str) -> list[Table]:
    """Return the tables that the questions of a split ask, in the order of their ids."""
    try:
        asked = {record["table"] for record in _read(folder / f"{WTQ_SPLITS[split]}.jsonl.xz")}
        other = "test" if split == "train" else "train"
        # The published splits share no table; a file that does is not theirs.
        asked -= {record["table"] for record in _read(folder / f"{WTQ_SPLITS[other]}.jsonl.xz")}
        found = [raw for raw in _read(folder / "wtq_tables.jsonl.xz") if raw["id"] in asked]
        return [_table(_wtq_name(raw["id"]), raw["header"], raw["rows"]) for raw in found]
    except (KeyError, IndexError, TypeError) as error:
        raise DataError(f"{folder}: not as WikiTableQuestions published it ({error!r}); fetch it again") from error


def _agentbench_file(environment: str, root: Path, source: str, split: str, count: int, seed: int) -> Iterator[Task]:
    """Read AgentBench's file as it lies in this project's data root or in AgentBench's own repository."""
    name = AGENTBENCH[source]
    packed = root / "db" / f"agentbench_dbbench_{name}"
    places = (packed, root / "data" / "dbbench" / name, root / "dbbench" / name, root / "db" / name)
    path = next((place for place in places if place.is_file()), packed)
    records = _read(path)
    random.Random(seed).shuffle(records)
    for record in records[:count]:
        try:
            yield _agentbench(environment, split, record)
        except (KeyError, IndexError, TypeError) as error:
            raise DataError(f"{path}: a {source} record is not as published ({error!r}): {record!r:.200}") from error


def _wtq_name(table: str) -> str:
    return "t_" + "_".join(part.removesuffix("-csv") for part in table.removesuffix(".csv").split("/")[1:])


def _question(environment: str, split: str, record: dict[str, Any], raw: dict[str, Any]) -> Task:
    table = _table(_wtq_name(raw["id"]), raw["header"], raw["rows"])
    instruction = f"{record['question']}\nThe table {table.name} has the columns {_listed(table)}."
    return _task(
        environment, split, instruction, table, list(record["answers"]), state_of([table]), "wikitablequestions"
    )


def _agentbench(environment: str, split: str, record: dict[str, Any]) -> Task:
    info = record["table"]["table_info"]
    table = _table(record["table"]["table_name"], [column["name"] for column in info["columns"]], info["rows"])
    family = record["type"][0]
    instruction = f"{record['description']}\nThe table `{table.name}` has the columns {_listed(table)}."
    if family not in ("INSERT", "UPDATE", "DELETE"):
        answers = [str(value) for value in record["label"]]
        return _task(environment, split, instruction, table, answers, state_of([table]), family)
    statement = str(record["label"][0] if record.get("label") else record["sql"]["query"])
    engine = SQLiteEngine()
    engine.create([table])
    reply = engine.execute(statement)
    state = engine.state([table])
    engine.close()
    if reply.error:
        raise DataError(f"agentbench: the gold statement does not run ({reply.text}): {statement:.200}")
    return _task(environment, split, instruction, table, None, state, family, statement)


def _task(
    environment: str,
    split: str,
    instruction: str,
    table: Table,
    answers: list[str] | None,
    state: dict[str, str | None],
    family: str,
    statement: str | None = None,
) -> Task:
    payload: dict[str, Any] = {
        "tables": [table.model_dump(mode="json")],
        "answer": answers,
        "before": state_of([table]),
        "state": state,
    }
    if statement is not None:
        payload |= {"gold": " ".join(statement.split()), "listed": True}
    return Task(
        environment=environment, split=split, instruction=instruction, payload=payload, family=family, origin="dataset"
    )


def _table(name: str, header: list[str], rows: list[list[Any]]) -> Table:
    """Build a table of text, with names made clean and unique and rows made as long as the header."""
    columns: list[str] = []
    for number, title in enumerate(header, start=1):
        clean = " ".join(str(title).split()) or f"column {number}"
        taken = {column.casefold() for column in columns}
        columns.append(clean if clean.casefold() not in taken else f"{clean} {number}")
    width = len(columns)
    cells = [[str(cell) for cell in row[:width]] + [""] * (width - len(row)) for row in rows]
    return Table(name=name, columns=columns, types=["text"] * width, rows=cells)


def _listed(table: Table) -> str:
    return ", ".join(f"`{column}`" for column in table.columns)


def _read(path: Path) -> list[dict[str, Any]]:
    opener = lzma.open if path.suffix == ".xz" else open
    try:
        with opener(path, "rt", encoding="utf-8") as lines:
            records = [json.loads(line) for line in lines if line.strip()]
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file; data.root must hold db/{path.name}") from error
    except (OSError, EOFError, lzma.LZMAError, ValueError) as error:
        raise DataError(f"{path}: not readable as JSON lines ({error}); fetch it again") from error
    if not records:
        raise DataError(f"{path}: the file is empty; fetch it again")
    return records
