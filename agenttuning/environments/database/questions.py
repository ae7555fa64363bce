"""Published questions with gold SQL: GeoQuery, defog, and any SQLite files with a file of questions.

GeoQuery asks one database, so it has a train split alone, of its published query split's `train` and `dev` queries.
defog has eleven databases, two of which are its test split. A file of questions says its splits itself.
"""

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from agenttuning.environments.database.gold import Database, Question
from agenttuning.environments.database.postgres import read_postgres
from agenttuning.environments.database.stored import read_sqlite
from agenttuning.errors import DataError

DEFOG_TEST = ("derm_treatment", "restaurants")
"""Databases of defog's test split; no train question asks them."""
DEFOG_FILES = ("questions_gen", "instruct_basic", "instruct_advanced")
TEXT, DATABASE, SQL, HINT = ("question",), ("database", "db_id"), ("sql", "SQL", "query"), ("hint", "evidence")
"""Keys of a record of questions: this project's first, then those of BIRD and Spider."""


def geoquery(root: Path) -> Iterator[Question]:
    """Yield GeoQuery's train questions from `db/text2sql-data/`.

    Raises:
        DataError: a file is missing or not as published.
    """
    folder = root / "db" / "text2sql-data"
    database = Database(read_sqlite(folder / "geography-db.added-in-2020.sqlite"))
    path = folder / "geography.json"
    for record in read_records(path):
        try:
            if record["query-split"] == "test":
                continue
            for sentence in record["sentences"]:
                text, sql = sentence["text"], record["sql"][0]
                for name, value in sentence["variables"].items():
                    text, sql = text.replace(name, value), sql.replace(name, value)
                yield Question(text, database, (sql,), family="geoquery")
        except (KeyError, TypeError, AttributeError) as error:
            raise DataError(f"{path}: a record is not as published ({error!r}): {record!r:.200}") from error


def defog(root: Path, split: str) -> Iterator[Question]:
    """Yield defog's questions of a split from `db/defog/`.

    Each has its gold SQL by its authors for MySQL and for SQLite; the two must agree.

    Raises:
        DataError: a file is missing or not as published.
    """
    folder = root / "db" / "defog"
    databases: dict[str, Database] = {}
    for name in DEFOG_FILES:
        pairs = zip(_rows(folder / f"{name}_mysql.csv"), _rows(folder / f"{name}_sqlite.csv"), strict=True)
        for mysql, sqlite in pairs:
            try:
                database = mysql["db_name"]
                if (database in DEFOG_TEST) is (split == "train"):
                    continue
                if database not in databases:
                    path = folder / f"{database}.sql"
                    databases[database] = Database(read_postgres(path.read_text(encoding="utf-8"), str(path)))
                yield Question(
                    mysql["question"].replace("`", ""),
                    databases[database],
                    tuple(_statements(mysql["query"].replace(f"{database}.", ""))),
                    tuple(_statements(sqlite["query"])),
                    hint=mysql.get("full_instructions") or mysql.get("instructions") or "",
                    family=f"defog_{database}",
                )
            except (KeyError, OSError, TypeError) as error:
                raise DataError(f"{folder / name}: not as published ({error!r}); fetch it again") from error


def in_files(path: Path, split: str) -> Iterator[Question]:
    """Yield the questions of a split from a file of records that name SQLite files beside it.

    Args:
        path: JSON (a list) or JSON lines. A record has `question`, `database` (or `db_id`), `sql` (or `SQL`, `query`;
            one statement or a list of equally right ones), and may have `hint` (or `evidence`) and `split` (`train`
            where it has none). The database lies at `<database>.sqlite` beside the file, in a folder of its name, or
            in such a folder one level below: the layouts of BIRD and Spider.
        split: `train`, `test` or `shifted`.

    Raises:
        DataError: a record lacks a key, or its database is not there.
    """
    databases: dict[str, Database] = {}
    for record in read_records(path):
        text, name, sql = (_first(record, keys) for keys in (TEXT, DATABASE, SQL))
        if not text or not name or not sql:
            raise DataError(f"{path}: a record needs question, database and sql (got {record!r:.200})")
        if record.get("split", "train") != split:
            continue
        if name not in databases:
            databases[name] = Database(read_sqlite(_database(path.parent, str(name))))
        gold = tuple(sql) if isinstance(sql, list) else (str(sql),)
        hint = _first(record, HINT)
        yield Question(str(text), databases[name], gold, hint=str(hint or ""), family=str(name))


def read_records(path: Path) -> list[dict[str, Any]]:
    """Return the records of a JSON list or of JSON lines.

    Raises:
        DataError: the file is missing, empty or torn, or holds something else than records.
    """
    try:
        text = path.read_text(encoding="utf-8")
        # Not splitlines(): it would tear a line at U+2028, which JSON may hold as it is.
        records = json.loads(text) if path.suffix == ".json" else [json.loads(x) for x in text.split("\n") if x.strip()]
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file of questions") from error
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: not readable as JSON ({error}); fetch it again") from error
    if not isinstance(records, list) or not records or not all(isinstance(record, dict) for record in records):
        raise DataError(f"{path}: must hold a list of records, one for each question")
    return records


def _database(folder: Path, name: str) -> Path:
    if not name.replace("_", "").replace("-", "").replace(".", "").isalnum():
        raise DataError(f"{folder}: {name!r} is no name of a database")
    file = f"{name}.sqlite"
    places = (folder / file, folder / name / file, *sorted(folder.glob(f"*/{name}/{file}")))
    return next((place for place in places if place.is_file()), folder / file)


def _first(record: dict[str, Any], keys: tuple[str, ...]) -> Any:
    return next((record[key] for key in keys if record.get(key)), None)


def _rows(path: Path) -> list[dict[str, str]]:
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file; data.root must hold db/defog/{path.name}") from error


def _statements(text: str) -> list[str]:
    """Return the statements of a gold field: each is a right answer of its own."""
    return [part.strip() for part in text.split(";") if part.strip()]
