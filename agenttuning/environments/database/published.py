"""Tasks from published data: WikiTableQuestions, and the development set of AgentBench's database task.

Both have answers and no demonstrations. Columns are text, as AgentBench creates them. The expected tables of a
change come from running its gold statement on a copy here.
"""

import json
import lzma
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from agenttuning.environments.database.engine import SQLiteEngine
from agenttuning.environments.database.tables import Table, state_of
from agenttuning.errors import ConfigurationError, DataError
from agenttuning.trajectory import Task

WTQ_SPLITS = {"train": "wtq_training", "test": "wtq_pristine-unseen-tables"}


def load(environment: str, source: str, root: str | None, split: str, count: int, seed: int) -> Iterator[Task]:
    """Yield up to `count` tasks of a published source in an order that the seed decides.

    Raises:
        ConfigurationError: no `data.root`, or a split that the source does not have.
        DataError: a file is missing or not as its format says.
    """
    if count == 0:
        return
    splits = tuple(WTQ_SPLITS) if source == "wikitablequestions" else ("test",)
    if split not in splits:
        raise ConfigurationError(
            f"{environment}: source {source!r} has no split {split!r} (it has {', '.join(splits)}); "
            f"set environments.{environment}.{split}_tasks=0"
        )
    if root is None:
        raise ConfigurationError(f"{environment}: source {source!r} needs data.root, the directory of published data")
    folder = Path(root) / "db"
    if source == "wikitablequestions":
        records = _read(folder / f"{WTQ_SPLITS[split]}.jsonl.xz")
        tables = {record["id"]: record for record in _read(folder / "wtq_tables.jsonl.xz")}
    else:
        records, tables = _read(folder / "agentbench_dbbench_dev.jsonl"), {}
    random.Random(seed).shuffle(records)
    for record in records[:count]:
        try:
            if tables:
                yield _question(environment, split, record, tables[record["table"]])
            else:
                yield _agentbench(environment, split, record)
        except (KeyError, IndexError, TypeError) as error:
            raise DataError(f"{folder}: a {source} record is not as published ({error!r}): {record!r:.200}") from error


def _question(environment: str, split: str, record: dict[str, Any], raw: dict[str, Any]) -> Task:
    name = "t_" + "_".join(part.removesuffix("-csv") for part in raw["id"].removesuffix(".csv").split("/")[1:])
    table = _table(name, raw["header"], raw["rows"])
    instruction = f"{record['question']}\nThe table {name} has the columns {_listed(table)}."
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
    engine = SQLiteEngine()
    engine.create([table])
    reply = engine.execute(record["label"][0])
    state = engine.state([table])
    engine.close()
    if reply.error:
        raise DataError(f"agentbench_dev: the gold statement does not run ({reply.text}): {record['label'][0]:.200}")
    return _task(environment, split, instruction, table, None, state, family)


def _task(
    environment: str,
    split: str,
    instruction: str,
    table: Table,
    answers: list[str] | None,
    state: dict[str, str | None],
    family: str,
) -> Task:
    before = state_of([table])
    payload = {"tables": [table.model_dump(mode="json")], "answer": answers, "before": before, "state": state}
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
