"""Tasks with gold SQL: what becomes one, what is left out and why, and how the demonstrator solves them."""

import json
import random
import sqlite3
from collections import Counter
from pathlib import Path

import pytest

from agenttuning.environments.base import make_environment
from agenttuning.environments.database.gold import Database, Question, task_of
from agenttuning.environments.database.postgres import read_postgres
from agenttuning.environments.database.sqltext import in_words, parsed, tidy
from agenttuning.environments.database.stored import read_sqlite
from agenttuning.environments.database.tables import Table, pack, tables_of
from agenttuning.errors import ConfigurationError, DataError
from agenttuning.trajectory import Task

DATA = Path(__file__).parents[2].parent / "shared" / "data"
TOWNS = Table(
    name="town",
    columns=("name", "river", "people"),
    types=("text", "text", "int"),
    rows=(("Vik", "Tana", 900), ("Mo", "Rana", 900), ("Bo", "Tana", 1200), ("As", None, 50)),
)
RIVERS = Table(name="river", columns=("river", "km"), types=("text", "int"), rows=(("Tana", 361), ("Rana", 130)))
DATABASE = Database((TOWNS, RIVERS))


def made(sql, text="Which?", second=(), chars=800):
    gold = (sql,) if isinstance(sql, str) else sql
    return task_of("db", "train", Question(text, DATABASE, gold, second), chars)


@pytest.mark.parametrize(
    ("sql", "reason"),
    [
        ("SELECT nothing FROM town", "the gold statement fails"),
        ("SELECT name FROM town WHERE people > 5000", "the result is empty"),
        ("SELECT river FROM town", "the result has a null"),
        ("SELECT name FROM town WHERE name < CURDATE()", "the answer depends on the day"),
        ("SELECT name FROM town ORDER BY people DESC LIMIT 2", "a tie at the limit"),
        ("SELECT name FROM town LIMIT 1", "the answer depends on the order of the rows"),
        ("SELECT people / 7 FROM town", "SQLite divides whole numbers otherwise than MySQL"),
        ("DELETE FROM town WHERE people > 5000", "the gold statement changes nothing"),
        ("UPDATE town SET nothing = 1", "the gold statement fails"),
    ],
)
def test_what_makes_no_task_says_why(sql, reason):
    assert made(sql) == reason


def test_more_reasons():
    assert made("SELECT name, people FROM town", chars=20) == "the answer is too long"
    assert made("SELECT name FROM town WHERE people = 50", "Is it As?") == "the answer stands in the question"
    query = "SELECT name FROM town WHERE people = 50"
    assert made(query, second=("SELECT name FROM town WHERE people = 1200",)) == "two gold statements disagree"
    assert isinstance(made(query, second=(query,)), Task)
    scalar = "SELECT km FROM river WHERE river = (SELECT river FROM town WHERE people IN (900, 1200) AND name <> 'Mo')"
    assert made(scalar) == "a comparison takes the first of several rows"


def test_a_task_carries_its_database_and_is_graded_by_values():
    task = made(("SELECT t.name FROM town t WHERE t.people > 1000;", "SELECT people FROM town WHERE people > 1000"))
    assert isinstance(task, Task)
    assert tables_of(task.payload) == (TOWNS, RIVERS)
    assert task.payload["gold"] == "SELECT name FROM town WHERE people > 1000"
    assert task.payload["alternatives"] == [["1200"]]
    environment = make_environment("db")
    for values, reward in ((["Bo"], 1.0), (["1200"], 1.0), (["Vik"], 0.0), (["Bo", "1200"], 0.0)):
        environment.reset(task)
        environment.step(environment.parse(f"Action: Answer\nFinal Answer: {json.dumps(values)}").action)
        assert environment.grade(task, environment.close()).reward == reward


@pytest.mark.parametrize(
    ("sql", "plain"),
    [
        (
            'SELECT TOWNalias0.NAME FROM TOWN AS TOWNalias0 WHERE TOWNalias0.RIVER = "Tana" ;',
            "SELECT name FROM town WHERE river = 'Tana'",
        ),
        (
            "SELECT a.name FROM town a JOIN river b ON a.river = b.river",
            "SELECT a.name FROM town AS a JOIN river AS b ON a.river = b.river",
        ),
        (
            "SELECT name FROM town t WHERE people > (SELECT AVG(people) FROM town x WHERE x.river = t.river)",
            "SELECT name FROM town AS t WHERE people > (SELECT AVG(people) FROM town WHERE river = t.river)",
        ),
        (
            "SELECT name FROM town ORDER BY CASE WHEN people IS NULL THEN 1 ELSE 0 END, people",
            "SELECT name FROM town ORDER BY people",
        ),
        ("not sql at all (", "not sql at all ("),
    ],
)
def test_gold_is_written_plainly(sql, plain):
    assert tidy(sql, (TOWNS, RIVERS)) == plain


def test_places_of_columns_are_said_by_their_names():
    sql = "SELECT river, COUNT(*) AS n FROM town GROUP BY 1 ORDER BY 2 DESC, n LIMIT 3"
    assert in_words(parsed(sql)) == (
        "the river and number of rows from town, for each river, by number of rows, highest first and number of rows, "
        "lowest first, only the first 3"
    )
    assert in_words(parsed("SELECT a FROM t GROUP BY 9")) == "the a from t, for each 9"


def test_statements_are_said_in_words():
    sql = (
        "SELECT river, COUNT(*) AS n FROM town WHERE LOWER(name) LIKE '%a%' AND people >= 5 GROUP BY river "
        "ORDER BY n DESC LIMIT 1"
    )
    assert in_words(parsed(sql)) == (
        "the river and number of rows from town where name is like %a% and people is at least 5, for each river, "
        "by number of rows, highest first, only the first"
    )


def play(environment, task, seed):
    """Play a task by its demonstrator, through text; return what was shown, the moves and the reward."""
    shown, moves = [environment.description(task), environment.reset(task)], []
    expert = environment.expert(task, random.Random(seed))
    move = next(expert)
    while True:
        parsed_reply = environment.parse(environment.format(move.thought, move.action))
        assert (parsed_reply.thought, parsed_reply.action) == (move.thought, move.action)
        step = environment.step(parsed_reply.action)
        moves.append((move, step))
        if step.done:
            return shown, moves, environment.grade(task, environment.close()).reward
        shown.append(step.observation)
        move = expert.send(step)


def test_the_inner_query_is_asked_first_and_its_result_used():
    task = made("SELECT river FROM town WHERE people = (SELECT MAX(people) FROM town)")
    with make_environment("db", {"mistake_rate": 0.0}) as environment:
        _, moves, reward = play(environment, task, 0)
    assert [move.action.arguments.get("sql") for move, _ in moves] == [
        "SELECT MAX(people) FROM town",
        "SELECT river FROM town WHERE people = 1200",
        None,
    ]
    assert moves[1][0].thought.startswith("The result is 1200. ")
    assert reward == 1.0


def test_a_misnamed_column_is_not_trained_and_is_mended():
    task = made("SELECT name FROM town WHERE people > 1000")
    with make_environment("db", {"mistake_rate": 1.0}) as environment:
        _, moves, reward = play(environment, task, 1)
    assert [move.loss for move, _ in moves] == [False, True, True, True]
    assert moves[0][1].error
    assert moves[1][0].action.arguments["sql"] == "DESCRIBE town"
    assert reward == 1.0


def test_changes_are_run_and_answered():
    for sql in (
        "DELETE FROM town WHERE name = 'Mo'",
        "UPDATE town SET people = 1",
        "INSERT INTO river VALUES ('x', 2)",
    ):
        with make_environment("db") as environment:
            _, moves, reward = play(environment, made(sql), 0)
            assert reward == 1.0
            assert "affected" in moves[-1][0].thought


def write_sqlite(path, *statements):
    path.parent.mkdir(parents=True, exist_ok=True)
    with sqlite3.connect(path) as connection:
        for statement in statements:
            connection.execute(statement)
    connection.close()


SHOPS = (
    "CREATE TABLE shop (id INTEGER PRIMARY KEY, City TEXT, sales REAL)",
    "INSERT INTO shop VALUES (1, 'Oslo', 2.5)",
)
RECORD = {
    "question": "What are the sales of shop 1?",
    "database": "shops",
    "sql": "SELECT sales FROM shop WHERE id = 1",
}
BIRD = {
    "question": "Which city has shop 1?",
    "db_id": "shops",
    "SQL": "SELECT City FROM shop WHERE id = 1",
    "evidence": "E.",
}


@pytest.mark.parametrize("place", ["shops.sqlite", "shops/shops.sqlite", "train_databases/shops/shops.sqlite"])
def test_any_sqlite_file_with_questions_is_read(tmp_path, place):
    write_sqlite(tmp_path / "mine" / place, *SHOPS)
    held = {**RECORD, "question": "Sales?", "split": "test"}
    (tmp_path / "mine" / "asked.json").write_text(json.dumps([RECORD, BIRD, held]))
    settings = {"source": "sqlite", "questions": "mine/asked.json"}
    with make_environment("db", settings, str(tmp_path)) as environment:
        tasks = list(environment.tasks("train", 9, 0))
        assert len(tasks) == 2
        assert any("\nE.\n" in task.instruction for task in tasks)
        assert [task.instruction.split("\n")[0] for task in environment.tasks("test", 9, 0)] == ["Sales?"]
        assert all(play(environment, task, 0)[2] == 1.0 for task in tasks)


def test_files_of_questions_are_refused_with_the_reason(tmp_path):
    def tasks(settings, root=tmp_path):
        return list(make_environment("db", settings, str(root)).tasks("train", 3, 0))

    settings = {"source": "sqlite", "questions": "q.jsonl"}
    with pytest.raises(DataError, match="no such file of questions"):
        tasks(settings)
    for text, message in (
        ("", "must hold a list"),
        ("{", "not readable"),
        ('{"question": "a"}', "needs question, database and sql"),
        ('{"question": "a", "database": "no", "sql": "x"}', "no such database file"),
        ('{"question": "a", "database": "../up", "sql": "x"}', "no name of a database"),
    ):
        (tmp_path / "q.jsonl").write_text(text)
        with pytest.raises(DataError, match=message):
            tasks(settings)
    (tmp_path / "no.sqlite").write_text("text")
    (tmp_path / "q.jsonl").write_text('{"question": "a", "database": "no", "sql": "x"}')
    with pytest.raises(DataError, match="not readable as an SQLite database"):
        tasks(settings)
    with pytest.raises(ConfigurationError, match="needs questions"):
        tasks({"source": "sqlite"})
    with pytest.raises(ConfigurationError, match="no other source reads it"):
        tasks({"questions": "q.jsonl"})


def test_sqlite_columns_have_the_type_of_their_cells(tmp_path):
    write_sqlite(
        tmp_path / "x.sqlite",
        'CREATE TABLE "odd ""one" (a INT, b TEXT, c, d BLOB, e INT)',
        """INSERT INTO "odd ""one" VALUES (1, 2, 3.5, x'00ff', 5000000000), ('x', NULL, 1, NULL, 2)""",
        "CREATE VIEW v AS SELECT 1",
    )
    (table,) = read_sqlite(tmp_path / "x.sqlite")
    assert table.name == 'odd "one'
    assert table.types == ("text", "text", "double", "text", "bigint")
    assert table.rows == (("1", "2", 3.5, "00ff", 5_000_000_000), ("x", None, 1, None, 2))


def test_a_large_database_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("agenttuning.environments.database.stored.MAX_CELLS", 5)
    write_sqlite(tmp_path / "x.sqlite", *SHOPS, "INSERT INTO shop VALUES (2, 'Bo', 1)")
    with pytest.raises(DataError, match="more than 5 cells"):
        read_sqlite(tmp_path / "x.sqlite")


def test_postgres_scripts_are_read_and_their_dates_fixed():
    script = """
        CREATE TABLE public.visit (id bigint NOT NULL, day date DEFAULT CURRENT_DATE, note varchar(20), ok boolean);
        INSERT INTO public.visit VALUES (1, CURRENT_DATE - INTERVAL '2 months', 'it''s', true),
            (2, DATE_TRUNC('month', CURRENT_DATE) + INTERVAL '1 day', NULL, false);
        INSERT INTO visit (note, id) VALUES ('late', -3);
    """
    (table,) = read_postgres(script, "here")
    assert table.types == ("int", "text", "text", "int")
    assert table.rows == ((1, "2024-04-15", "it's", 1), (2, "2024-06-02", None, 0), (-3, None, "late", None))
    with pytest.raises(DataError, match="here: not a script"):
        read_postgres("CREATE TABLE a (x int); INSERT INTO a VALUES (md5('x'))", "here")
    with pytest.raises(DataError, match="makes no table"):
        read_postgres("SELECT 1", "here")


def test_packing_keeps_tables():
    assert tables_of({"packed": pack((TOWNS, RIVERS))}) == (TOWNS, RIVERS)


@pytest.mark.data
@pytest.mark.parametrize(("source", "count"), [("geoquery", 640), ("defog", 195)])
def test_published_gold_programs_are_demonstrated(source, count):
    if not (DATA / "db").is_dir():
        pytest.skip("published data not found beside the repository (../shared/data/db)")
    with make_environment("db", {"source": source}, str(DATA)) as environment:
        tasks = list(environment.tasks("train", 1000, 0))
        assert len(tasks) >= count
        assert sum(environment.dropped.values()) < len(tasks) / 3
        sample = random.Random(0).sample(tasks, 60)
        rewards = []
        for seed, task in enumerate(sample):
            shown, moves, reward = play(environment, task, seed)
            rewards.append(reward)
            if task.payload["answer"] is not None:
                assert all(value in " ".join(shown) for value in moves[-1][0].action.arguments["values"])
        assert sum(rewards) / len(rewards) >= 0.95
        environment.reset(tasks[0])
        assert environment.grade(tasks[0], environment.close()).reward == 0.0


@pytest.mark.data
def test_defog_splits_share_no_database():
    if not (DATA / "db").is_dir():
        pytest.skip("published data not found beside the repository (../shared/data/db)")
    environment = make_environment("db", {"source": "defog"}, str(DATA))
    families = {split: Counter(t.family for t in environment.tasks(split, 500, 0)) for split in ("train", "test")}
    assert set(families["test"]) == {"defog_derm_treatment", "defog_restaurants"}
    assert not set(families["train"]) & set(families["test"])
