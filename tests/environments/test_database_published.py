import json
import random
from pathlib import Path

import pytest

from agenttuning.environments.base import make_environment
from agenttuning.environments.database.engine import SQLiteEngine
from agenttuning.environments.database.grammar import answer, operation
from agenttuning.environments.database.tables import agentbench_hash
from agenttuning.environments.database.wikitablequestions import STANDS, read_lines, text_table
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


def test_a_gold_statement_that_fails_costs_its_record_alone_and_is_counted(tmp_path):
    broken = {**RECORD, "label": ["UPDATE nothing SET"], "description": "Broken."}
    idle = {**RECORD, "label": ["DELETE FROM `two words` WHERE Name = 'Cy'"], "description": "Idle."}
    write(tmp_path, broken, RECORD, idle)
    env = make_environment("db", {"source": "agentbench_dev"}, str(tmp_path))
    (task,) = env.tasks("test", 5, 0)
    assert task.instruction.startswith("Set the score")
    assert env.dropped == {
        "the gold statement fails, and no other answer_md5 is stored": 1,
        "the gold statement changes nothing, and no other answer_md5 is stored": 1,
    }


def test_a_gold_statement_that_fails_is_replaced_by_the_hash_that_agentbench_stored(tmp_path):
    rows = [["Ann", "3", "", ""], ["Bo", "1", "", "x"]]
    stored = agentbench_hash(rows)
    write(tmp_path, {**RECORD, "label": ["UPDATE nothing SET"], "answer_md5": f"[('{stored}',)]"})
    env = make_environment("db", {"source": "agentbench_dev"}, str(tmp_path))
    (task,) = env.tasks("test", 5, 0)
    for sql, reward in ((RECORD["label"][0], 1.0), ("UPDATE `two words` SET `Score (in %)` = 3", 0.0)):
        env.reset(task)
        assert not env.step(operation(sql)).error
        env.step(answer(["done"]))
        assert env.grade(task, env.close()).reward == reward
    with pytest.raises(ConfigurationError, match="no gold SQL"):
        env.expert(task, random.Random(0))


TRAINING = (
    "id\tutterance\tcontext\ttargetValue\n"
    "nt-0\twhich film is first?\tcsv/200-csv/0.csv\tAlien\n"
    "nt-1\twhich two\\nfilms?\tcsv/200-csv/1.csv\tThe \\p Bar|B\\\\C\n"
)


def repository(root: Path) -> Path:
    """Write WikiTableQuestions' own layout, in its own escapes."""
    for folder in ("data", "csv/200-csv", "csv/201-csv"):
        (root / folder).mkdir(parents=True)
    (root / "data" / "training.tsv").write_text(TRAINING)
    (root / "data" / "pristine-unseen-tables.tsv").write_text(
        TRAINING.split("\n")[0] + "\nnu-0\thow many?\tcsv/201-csv/3.csv\t2\n"
    )
    (root / "csv/200-csv/0.csv").write_text('"Film","Chart\nUK"\n"Alien","1"\n"The \\"Thing\\"","2"\n')
    (root / "csv/200-csv/1.csv").write_text('"A","B"\n"c","d, e"\n')
    (root / "csv/201-csv/3.csv").write_text('"A"\n"x"\n"y"\n')
    return root


def test_wikitablequestions_is_read_in_its_own_layout(tmp_path):
    env = make_environment("db", {"source": "wikitablequestions"}, str(repository(tmp_path)))
    train = {task.instruction.split("\nThe table")[0]: task for task in env.tasks("train", 5, 0)}
    assert train["which two\nfilms?"].payload["answer"] == ["The | Bar", "B\\C"]
    (table,) = train["which film is first?"].payload["tables"]
    assert (table["name"], table["columns"]) == ("t_200_0", ["Film", "Chart UK"])
    assert table["rows"] == [["Alien", "1"], ['The "Thing"', "2"]]
    assert train["which two\nfilms?"].payload["tables"][0]["rows"] == [["c", "d, e"]]
    assert [task.payload["answer"] for task in env.tasks("test", 5, 0)] == [["2"]]


@pytest.mark.parametrize(
    "text", ["id\tutterance\n", TRAINING.replace("\tAlien", ""), TRAINING.replace("csv/200", "../x")]
)
def test_a_torn_layout_is_named(tmp_path, text):
    (repository(tmp_path) / "data" / "training.tsv").write_text(text)
    env = make_environment("db", {"source": "wikitablequestions"}, str(tmp_path))
    with pytest.raises(DataError, match=r"not as published|no table below it"):
        list(env.tasks("train", 5, 0))


@pytest.mark.parametrize("source", ["wikitablequestions", "wikitablequestions_edits"])
def test_a_train_table_that_agentbench_evaluates_on_is_left_out(tmp_path, source):
    root = repository(tmp_path)
    rows = [[f"name {n}", f"value {n}"] for n in range(8)]
    written = "\n".join(",".join(f'"{cell}"' for cell in row) for row in [["Film", "Place"], *rows])
    for number in (0, 1):
        (root / f"csv/200-csv/{number}.csv").write_text(written.replace("value", f"value {number}") + "\n")
    env = make_environment("db", {"source": source}, str(root))
    assert {task.payload["tables"][0]["name"] for task in env.tasks("train", 20, 0)} == {"t_200_0", "t_200_1"}
    shown = [[cell.replace("value", "value 1") for cell in row] for row in rows[:6]]
    info = {"columns": [{"name": "f"}, {"name": "p"}], "rows": [*shown, ["other", "cells"]]}
    write(root, {**RECORD, "table": {"table_name": "films", "table_info": info}})
    assert {task.payload["tables"][0]["name"] for task in env.tasks("train", 20, 0)} == {"t_200_0"}
    assert env.dropped[STANDS] == 1


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


@pytest.mark.data
def test_agentbenchs_own_hash_is_that_of_its_gold_statements():
    records = read_lines(Path(published()) / "db" / "agentbench_dbbench_dev.jsonl")
    tasks = {}
    for record in records:
        if "answer_md5" in record:
            info = record["table"]["table_info"]
            table = text_table("t", [column["name"] for column in info["columns"]], info["rows"])
            table = table.model_copy(update={"name": record["table"]["table_name"]})
            engine = SQLiteEngine()
            engine.create([table])
            assert not engine.execute(record["label"][0]).error
            tasks[record["description"]] = (engine.state([table], agentbench_hash)[table.name], record["answer_md5"])
            engine.close()
    agree = [stored == f"[('{found}',)]" for found, stored in tasks.values()]
    assert (len(agree), sum(agree)) == (40, 40)
