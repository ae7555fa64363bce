import json
import random
from pathlib import Path

import pytest

from agenttuning.environments.base import make_environment
from agenttuning.environments.database.grammar import answer, operation
from agenttuning.errors import ConfigurationError, DataError

RECORD = {
    "description": "Set the score of Ann to 3.",
    "label": ["UPDATE `two words` SET `Score (in %)` = '3' WHERE Name = 'Ann'"],
    "type": ["UPDATE"],
    "table": {
        "table_name": "two words",
        "table_info": {
            "columns": [{"name": "Name"}, {"name": "Score\n(in %)"}, {"name": ""}, {"name": "name"}],
            "rows": [["Ann", 2, ""], ["Bo", 1, "", "x", "beyond"]],
        },
    },
}


def write(root: Path, *records: object) -> None:
    (root / "db").mkdir()
    (root / "db" / "agentbench_dbbench_dev.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))


def test_a_change_is_graded_against_its_gold_statement(tmp_path):
    write(tmp_path, RECORD)
    env = make_environment("db", {"source": "agentbench_dev"}, str(tmp_path))
    (task,) = env.tasks("test", 5, 0)
    assert task.instruction.endswith(
        "The table `two words` has the columns `Name`, `Score (in %)`, `column 3`, `name 4`."
    )
    assert task.origin == "dataset"
    for sql, reward in ((RECORD["label"][0], 1.0), ("UPDATE `two words` SET `Score (in %)` = 3", 0.0)):
        env.reset(task)
        assert not env.step(operation(sql)).error
        env.step(answer(["done"]))
        assert env.grade(task, env.close()).reward == reward


def test_questions_without_gold_sql_have_no_expert_and_say_what_to_do(tmp_path):
    write(tmp_path, {**RECORD, "label": ["3"], "type": ["counting"]})
    env = make_environment("db", {"source": "agentbench_dev"}, str(tmp_path))
    (task,) = env.tasks("test", 5, 0)
    with pytest.raises(ConfigurationError, match=r"no gold SQL.*policy\.kind=endpoint"):
        env.expert(task, random.Random(0))


def test_a_published_change_is_demonstrated_by_its_gold_statement(tmp_path):
    write(tmp_path, RECORD)
    env = make_environment("db", {"source": "agentbench_dev", "mistake_rate": 0.0}, str(tmp_path))
    (task,) = env.tasks("test", 5, 0)
    env.reset(task)
    expert = env.expert(task, random.Random(0))
    step = env.step(next(expert).action)
    assert step.observation == "Query OK, 1 row affected"
    assert env.step(expert.send(step).action).done
    assert env.grade(task, env.close()).reward == 1.0


@pytest.mark.parametrize("place", ["db/agentbench_dbbench_standard.jsonl", "data/dbbench/standard.jsonl"])
def test_agentbenchs_own_layout_is_read(tmp_path, place):
    path = tmp_path / place
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(RECORD) + "\n")
    env = make_environment("db", {"source": "agentbench_standard"}, str(tmp_path))
    assert len(list(env.tasks("test", 5, 0))) == 1


@pytest.mark.parametrize(
    ("source", "split", "message"),
    [
        ("agentbench_dev", "train", r"environments\.db\.train_tasks=0"),
        ("wikitablequestions", "shifted", r"environments\.db\.shifted_tasks=0"),
        ("agentbench_standard", "train", r"environments\.db\.train_tasks=0"),
        ("geoquery", "test", r"environments\.db\.test_tasks=0"),
    ],
)
def test_a_split_that_a_source_lacks_is_refused(tmp_path, source, split, message):
    env = make_environment("db", {"source": source}, str(tmp_path))
    with pytest.raises(ConfigurationError, match=message):
        next(env.tasks(split, 1, 0))
    assert list(env.tasks(split, 0, 0)) == []


def test_a_source_without_data_is_refused(tmp_path):
    with pytest.raises(ConfigurationError, match=r"needs data\.root"):
        next(make_environment("db", {"source": "agentbench_dev"}).tasks("test", 1, 0))
    with pytest.raises(DataError, match="no such file"):
        next(make_environment("db", {"source": "wikitablequestions"}, str(tmp_path)).tasks("train", 1, 0))


@pytest.mark.parametrize(
    ("text", "message"),
    [("", "empty"), ('{"description": "a', "not readable"), ('{"a": 1}\n', "not as published"), ("[]\n", "not as")],
)
def test_torn_files_are_named(tmp_path, text, message):
    write(tmp_path)
    (tmp_path / "db" / "agentbench_dbbench_dev.jsonl").write_text(text)
    env = make_environment("db", {"source": "agentbench_dev"}, str(tmp_path))
    with pytest.raises(DataError, match=message):
        next(env.tasks("test", 1, 0))


def published() -> str:
    root = Path(__file__).parents[2].parent / "shared" / "data"
    if not (root / "db" / "wtq_tables.jsonl.xz").exists():
        pytest.skip("published data not found beside the repository (../shared/data/db)")
    return str(root)


@pytest.mark.data
def test_wikitablequestions_is_read_and_its_answers_are_right_by_the_grader():
    env = make_environment("db", {"source": "wikitablequestions"}, published())
    tables: dict[str, set[str]] = {}
    for split in ("train", "test"):
        tasks = list(env.tasks(split, 300, 0))
        assert len(tasks) == 300
        tables[split] = {task.payload["tables"][0]["name"] for task in tasks}
        for task in tasks[:60]:
            env.reset(task)
            assert not env.step(operation(f"DESCRIBE {task.payload['tables'][0]['name']}")).error
            env.step(answer(task.payload["answer"]))
            assert env.grade(task, env.close()).reward == 1.0
    assert tables["train"].isdisjoint(tables["test"])


@pytest.mark.data
def test_agentbench_dev_is_read_whole_and_its_changes_change():
    env = make_environment("db", {"source": "agentbench_dev"}, published())
    tasks = list(env.tasks("test", 100, 0))
    assert len(tasks) == 60
    changes = [task for task in tasks if task.payload["answer"] is None]
    assert len(changes) == 40
    assert all(task.payload["state"] != task.payload["before"] for task in changes)
