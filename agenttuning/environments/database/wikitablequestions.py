"""WikiTableQuestions: questions with answers about tables of Wikipedia, packed or in its own repository's layout.

| packed, below `db/` | as published, below the root, `WikiTableQuestions/` or `db/WikiTableQuestions/` |
|---|---|
| `wtq_training.jsonl.xz` | `data/training.tsv` |
| `wtq_pristine-unseen-tables.jsonl.xz` | `data/pristine-unseen-tables.tsv` |
| `wtq_tables.jsonl.xz` | `csv/<n>-csv/<n>.csv` |

AgentBench's database task draws on the same tables. Where its files are in the data root, a train table that holds
most of the cells of one of theirs is left out.
"""

import csv
import io
import json
import lzma
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from agenttuning.environments.database.tables import Table, state_of
from agenttuning.errors import DataError
from agenttuning.trajectory import Task

FILES = {"train": "training", "test": "pristine-unseen-tables"}
HEADER = ["id", "utterance", "context", "targetValue"]
HELD_OUT = 0.8
"""Share of an evaluation table's cells that a train table may not hold."""
FEWEST_WORDS = 5
"""Different cells with a letter that tell a table from others."""
STANDS = "its table stands in AgentBench's evaluation files"
Raw = dict[str, Any]


def questions(root: Path, split: str) -> list[Raw]:
    """Return the questions of a split: `question`, `answers` and the id of their `table`.

    Raises:
        DataError: a file is missing or not as published.
    """
    folder = _published(root)
    if folder is None:
        return read_lines(root / "db" / f"wtq_{FILES[split]}.jsonl.xz")
    path = folder / "data" / f"{FILES[split]}.tsv"
    head, *lines = _text(path).rstrip("\n").split("\n")
    if head.split("\t") != HEADER or any(line.count("\t") != len(HEADER) - 1 for line in lines):
        raise DataError(f"{path}: not as published; each line must have {', '.join(HEADER)}, apart by tabs")
    fields = [line.split("\t") for line in lines]
    return [
        {"question": _plain(text), "table": table, "answers": [_plain(value) for value in target.split("|")]}
        for _, text, table, target in fields
    ]


def tables(root: Path, wanted: Iterable[str]) -> list[Raw]:
    """Return tables by their ids, each with `id`, `header` and `rows`; of the packed ones, all that are there.

    Raises:
        DataError: a file is missing or not as published.
    """
    folder = _published(root)
    if folder is None:
        return read_lines(root / "db" / "wtq_tables.jsonl.xz")
    found = []
    for name in sorted(set(wanted)):
        if ".." in Path(name).parts or Path(name).is_absolute():
            raise DataError(f"{folder}: {name!r} is no table below it")
        rows = list(csv.reader(io.StringIO(_text(folder / name), newline=""), doublequote=False, escapechar="\\"))
        found.append({"id": name, "header": rows[0], "rows": [row for row in rows[1:] if row]})
    return found


def held_out(raw: Iterable[Raw], evaluation: Iterable[list[list[Any]]]) -> set[str]:
    """Return the ids of tables that hold `HELD_OUT` of the different cells of an evaluation table's rows.

    A table of numbers alone cannot be told from others and is passed over.
    """
    having: dict[str, list[str]] = defaultdict(list)
    for table in raw:
        for cell in _cells(table["rows"]):
            having[cell].append(table["id"])
    found: set[str] = set()
    for rows in evaluation:
        cells = _cells(rows)
        if sum(any(map(str.isalpha, cell)) for cell in cells) < FEWEST_WORDS:
            continue
        held = Counter(name for cell in cells for name in having.get(cell, ()))
        found |= {name for name, count in held.items() if count >= HELD_OUT * len(cells)}
    return found


def question_tasks(
    environment: str, split: str, root: Path, records: list[Raw], known: dict[str, Raw]
) -> Iterator[Task]:
    """Yield the tasks of questions.

    Raises:
        DataError: a record is not as published.
    """
    for record in records:
        try:
            raw = known[record["table"]]
            table = text_table(name_of(raw["id"]), raw["header"], raw["rows"])
            listed = ", ".join(f"`{column}`" for column in table.columns)
            state = state_of([table])
            yield Task(
                environment=environment,
                split=split,
                instruction=f"{record['question']}\nThe table {table.name} has the columns {listed}.",
                payload={
                    "tables": [table.model_dump(mode="json")],
                    "answer": list(record["answers"]),
                    "before": state,
                    "state": state,
                },
                family="wikitablequestions",
                origin="dataset",
            )
        except (KeyError, IndexError, TypeError) as error:
            raise DataError(f"{root}: not as WikiTableQuestions published it ({error!r}): {record!r:.200}") from error


def name_of(table: str) -> str:
    """Return the SQL name of a table from its id, such as `t_204_590` of `csv/204-csv/590.csv`."""
    return "t_" + "_".join(part.removesuffix("-csv") for part in table.removesuffix(".csv").split("/")[1:])


def text_table(name: str, header: list[str], rows: list[list[Any]]) -> Table:
    """Build a table of text, with names made clean and unique and rows made as long as the header."""
    columns: list[str] = []
    for number, title in enumerate(header, start=1):
        clean = " ".join(str(title).split()) or f"column {number}"
        taken = {column.casefold() for column in columns}
        columns.append(clean if clean.casefold() not in taken else f"{clean} {number}")
    width = len(columns)
    cells = [[str(cell) for cell in row[:width]] + [""] * (width - len(row)) for row in rows]
    return Table(name=name, columns=columns, types=["text"] * width, rows=cells)


def read_lines(path: Path) -> list[Raw]:
    """Return the records of JSON lines, packed or not.

    Raises:
        DataError: missing, torn or empty.
    """
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


def _published(root: Path) -> Path | None:
    """Return the folder of the repository's own layout, where the packed files are not there and it is."""
    if (root / "db" / f"wtq_{FILES['train']}.jsonl.xz").is_file():
        return None
    places = (root, root / "WikiTableQuestions", root / "db" / "WikiTableQuestions")
    return next((place for place in places if (place / "data" / f"{FILES['train']}.tsv").is_file()), None)


def _text(path: Path) -> str:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return file.read().replace("\r\n", "\n")
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: not readable ({error}); fetch WikiTableQuestions again") from error


def _plain(value: str) -> str:
    """Undo the escapes of a field."""
    return value.replace("\\n", "\n").replace("\\p", "|").replace("\\\\", "\\")


def _cells(rows: list[list[Any]]) -> set[str]:
    return {str(cell).strip().casefold() for row in rows for cell in row}
