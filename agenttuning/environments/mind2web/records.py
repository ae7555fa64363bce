"""Mind2Web's record: one task on one web site, with the page before each of its actions.

The models are those of the published files (`annotation_id`, `website`, `domain`, `subdomain`, `confirmed_task`,
`action_reprs`, `actions`); fields that nothing here reads, such as `raw_html`, are ignored. `load` reads a folder of
such files, whether published or made by the recorder; `entries` and `fetch` read only what is drawn, for the published
ones are large.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from agenttuning.errors import ConfigurationError, DataError

SPLITS = ("train", "test_task", "test_website", "test_domain")
"""The published folders."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class Operation(_Part):
    """What is done to the element."""

    op: Literal["CLICK", "TYPE", "SELECT"]
    original_op: str = ""
    value: str = ""


class Candidate(_Part):
    """One element of the page; `attributes` is a JSON text with the bounding box and what the element carries."""

    tag: str
    backend_node_id: str
    attributes: str = "{}"
    is_original_target: bool | None = None
    is_top_level_target: bool | None = None


class ActionRecord(_Part):
    """One action: the page before it, the elements that are right, and the others."""

    action_uid: str
    operation: Operation
    cleaned_html: str
    pos_candidates: tuple[Candidate, ...]
    neg_candidates: tuple[Candidate, ...]


class Record(_Part):
    """One task."""

    annotation_id: str
    website: str
    domain: str
    subdomain: str
    confirmed_task: str
    action_reprs: tuple[str, ...]
    actions: tuple[ActionRecord, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _one_text_per_action(self) -> "Record":
        if len(self.action_reprs) != len(self.actions):
            raise ValueError(f"{len(self.action_reprs)} action_reprs for {len(self.actions)} actions")
        return self


def sample_id(record: Record, action: ActionRecord) -> str:
    """Return the key of an action in a file of scores."""
    return f"{record.annotation_id}_{action.action_uid}"


def checked(data: Any, where: str) -> Record:
    """Return `data` as a record.

    Raises:
        DataError: it is none; the message names the place, the field and the rule.
    """
    try:
        return Record.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"])) or "the record"
        raise DataError(
            f"{where}: {field}: {first['msg']}; see docs/environments/mind2web.md for the format"
        ) from error


@dataclass(frozen=True)
class Entry:
    """Where a record lies, and what drawing tasks needs to know of it."""

    path: Path
    number: int
    """Its place in the file."""
    website: str
    actions: int


def load(root: Path, split: str) -> Iterator[Record]:
    """Yield the records of `root/<split>/*.json`, file by file in the order of their names.

    Each file is a JSON list of records.

    Raises:
        ConfigurationError: the folder is not there or has no such file.
        DataError: a file is no JSON, no list, or holds something that is no record.
    """
    for path in _paths(root, split):
        for number, item in enumerate(_items(path)):
            yield checked(item, f"{path}, record {number}")


def entries(root: Path, split: str) -> Iterator[Entry]:
    """Yield where the records of a split lie, holding one file at a time.

    Raises:
        ConfigurationError: as `load`.
        DataError: as `load`.
    """
    for path in _paths(root, split):
        for number, item in enumerate(_items(path)):
            record = checked(item, f"{path}, record {number}")
            yield Entry(path, number, record.website, len(record.actions))


def fetch(wanted: Iterable[Entry]) -> Iterator[tuple[Entry, Record]]:
    """Yield the records of some entries, reading every file once.

    Raises:
        DataError: as `load`.
    """
    by_path: dict[Path, list[Entry]] = {}
    for entry in wanted:
        by_path.setdefault(entry.path, []).append(entry)
    for path, inside in by_path.items():
        items = _items(path)
        for entry in inside:
            yield entry, checked(items[entry.number], f"{path}, record {entry.number}")


def _paths(root: Path, split: str) -> list[Path]:
    paths = sorted((root / split).glob("*.json"), key=_number)
    if not paths:
        raise ConfigurationError(
            f"no Mind2Web files in {root / split}; put the published {split}_*.json there, or set "
            "environments.mind2web.settings.source to recorded"
        )
    return paths


def _items(path: Path) -> list[Any]:
    try:
        data = orjson.loads(path.read_bytes())
    except orjson.JSONDecodeError as error:
        raise DataError(f"{path}: not JSON ({error}); fetch the file again") from error
    if not isinstance(data, list):
        raise DataError(f"{path}: a Mind2Web file is a JSON list of records, not {type(data).__name__}")
    return data


def has_split(root: Path, split: str) -> bool:
    """Tell whether `root` holds files of a split."""
    return any((root / split).glob("*.json"))


def _number(path: Path) -> tuple[int, str]:
    digits = path.stem.rpartition("_")[2]
    return (int(digits) if digits.isdigit() else 0, path.name)
