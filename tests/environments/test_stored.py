"""Constructed tasks are read from a file, by every environment whose payloads carry all that a task needs."""

from pathlib import Path
from typing import Any

import pytest

from agenttuning.environments.base import make_environment
from agenttuning.environments.stored import stored_tasks
from agenttuning.errors import ConfigurationError, DataError
from agenttuning.trajectory import Task

PAYLOADS: dict[str, dict[str, Any]] = {
    "os": {"setup": "", "expect": {"absent": ["/root/x"], "files": {}}},
    "db": {"answer": None, "before": {}, "state": {}, "tables": []},
    "kg": {"entities": {}, "answer": [], "number": 1},
    "alfworld": {"source": "generated", "goal": {}},
    "webshop": {"catalogue": "generated/train", "goal": {}},
    "mind2web": {"page": "", "sample": "", "pool": [], "previous": []},
}
OF_A_SOURCE = ("os", "db")
"""Those whose `source: file` reads the file; the others read it in place of their source's tasks."""
NAMES = pytest.mark.parametrize("name", sorted(PAYLOADS))


def task(name: str, instruction: str = "x", split: str = "train", **payload: Any) -> Task:
    return Task(environment=name, split=split, instruction=instruction, payload={**PAYLOADS[name], **payload})


def read(name: str, file: Path, split: str = "train", count: int = 10, seed: int = 0) -> list[Task]:
    settings = {"tasks_file": str(file)} | ({"source": "file"} if name in OF_A_SOURCE else {})
    with make_environment(name, settings) as env:
        return list(env.tasks(split, count, seed))


@NAMES
def test_a_files_tasks_are_those_that_were_written(name: str, tmp_path: Path) -> None:
    tasks = [task(name, f"{n}", "test" if n % 3 == 0 else "train") for n in range(9)]
    (file := tmp_path / "tasks.jsonl").write_text("".join(t.model_dump_json() + "\n" for t in tasks))
    train = read(name, file)
    assert {t.id for t in train} == {t.id for t in tasks if t.split == "train"}
    assert {t.id for t in read(name, file, "test")} == {t.id for t in tasks if t.split == "test"}
    assert read(name, file, count=4) == train[:4]
    assert read(name, file, seed=1) != train


@NAMES
@pytest.mark.parametrize("case", ["torn", "other", "bare", "missing"])
def test_a_file_of_other_tasks_is_refused(name: str, case: str, tmp_path: Path) -> None:
    other = task("db" if name == "os" else "os").model_dump_json()
    bare = Task(environment=name, split="train", instruction="x").model_dump_json()
    file, line = tmp_path / "tasks.jsonl", {"torn": "{", "other": other, "bare": bare, "missing": ""}[case]
    if case != "missing":
        file.write_text(line + "\n")
    complaint = {
        "torn": "line 1 is no task",
        "other": "a task of",
        "bare": "in its payload",
        "missing": "cannot be read",
    }
    with pytest.raises(DataError, match=complaint[case]):
        read(name, file)


def test_what_is_missing_is_named() -> None:
    with pytest.raises(ConfigurationError, match="tasks_file"):
        next(stored_tasks("os", None, "train", 1, 0, ()))
    with pytest.raises(ConfigurationError, match="splits train, test, shifted"):
        next(stored_tasks("os", "x", "dev", 1, 0, ()))
    for settings in ({"source": "file"}, {"tasks_file": "x"}):
        with pytest.raises(ConfigurationError, match="tasks_file"):
            make_environment("db", settings)
    with pytest.raises(ConfigurationError, match="leave one of them out"):
        make_environment("kg", {"tasks_file": "x", "families": ["count"]})


def test_a_line_ends_with_a_line_feed_alone(tmp_path: Path) -> None:
    given = task("db", "a\u2028b\u2029c\u0085d")
    (file := tmp_path / "tasks.jsonl").write_text(given.model_dump_json() + "\n", encoding="utf-8")
    assert "\u2028" in file.read_text(encoding="utf-8")
    assert [found.id for found in read("db", file)] == [given.id]
    file.write_text("")
    assert read("db", file) == []


@pytest.mark.parametrize(
    ("name", "settings", "told"),
    [
        ("os", {"source": "file"}, "tasks_file"),
        ("os", {"tasks_file": "x"}, "tasks_file"),
        ("os", {"source": "agentbench", "families": ["read_key"]}, "families"),
        ("kg", {"source": "metaqa", "families": ["count"]}, "families"),
        ("kg", {"source": "agentbench", "endpoint": "http://127.0.0.1:9/", "families": ["count"]}, "families"),
        ("kg", {"endpoint_graph": "urn:x"}, "endpoint_graph"),
        ("alfworld", {"source": "official", "families": ["pick_and_place_simple"]}, "families"),
        ("webshop", {"source": "official", "families": ["home"]}, "families"),
        ("webshop", {"catalogue": "x"}, "catalogue"),
        ("mind2web", {"path": "x"}, "path"),
    ],
)
def test_a_setting_that_would_do_nothing_is_refused(name: str, settings: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigurationError, match=f"environments.{name}.settings.*{told}"):
        make_environment(name, settings)


@pytest.mark.parametrize("name", sorted(PAYLOADS.keys() - set(OF_A_SOURCE)))
def test_families_and_a_file_of_tasks_exclude_each_other(name: str) -> None:
    with pytest.raises(ConfigurationError, match="tasks_file names others"):
        make_environment(name, {"tasks_file": "x", "families": ["y"]})


@pytest.mark.parametrize("name", ["webshop", "mind2web", "alfworld"])
def test_an_environments_own_tasks_play_from_a_file(name: str, tmp_path: Path) -> None:
    with make_environment(name) as env:
        (own,) = env.tasks("train", 1, 0)
    (file := tmp_path / "rated.jsonl").write_text(own.model_copy(update={"difficulty": 0.25}).model_dump_json() + "\n")
    with make_environment(name, {"tasks_file": str(file)}) as env:
        (stored,) = env.tasks("train", 5, 0)
        assert (stored.id, stored.difficulty) == (own.id, 0.25)
        assert env.reset(stored)
