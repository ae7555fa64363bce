import time
from pathlib import Path

import pytest

from agenttuning.environments.database.engine import SQLiteEngine, read_values
from agenttuning.environments.database.tables import Table, fingerprint, state_of

TABLE = Table(
    name="cars",
    columns=("model", "paint", "price"),
    types=("text", "text", "int"),
    rows=(("Nova One", "red", 900), ("Apex Max", "blue", 1200)),
)


@pytest.fixture
def engine():
    engine = SQLiteEngine(timeout_s=0.3)
    engine.create([TABLE])
    yield engine
    engine.close()


@pytest.mark.parametrize(
    ("sql", "text"),
    [
        ("SELECT model FROM cars WHERE price > 1000", "[('Apex Max',)]"),
        ("SELECT `model`, price FROM `cars` ORDER BY `price`;", "[('Nova One', 900), ('Apex Max', 1200)]"),
        ("SELECT price FROM cars WHERE paint = 'RED'", "[(900,)]"),
        ("SELECT CONCAT(model, '-', price) FROM cars LIMIT 1", "[('Nova One-900',)]"),
        ("SELECT model FROM cars WHERE price = 1", "[]"),
        ("SHOW TABLES", "[('cars',)]"),
        ("show full tables;", "[('cars',)]"),
        ("DESCRIBE cars", "[('model', 'text'), ('paint', 'text'), ('price', 'int')]"),
        ("desc `cars`;", "[('model', 'text'), ('paint', 'text'), ('price', 'int')]"),
        ("SHOW COLUMNS FROM cars", "[('model', 'text'), ('paint', 'text'), ('price', 'int')]"),
        ("UPDATE cars SET price = 1", "Query OK, 2 rows affected"),
        ("-- a note\nDELETE FROM cars WHERE paint = 'red'", "Query OK, 1 row affected"),
        ("INSERT INTO cars VALUES ('A', 'b', 3)", "Query OK, 1 row affected"),
        ("CREATE TABLE other (a int)", "Query OK"),
    ],
)
def test_statements_give_raw_replies(engine, sql, text):
    reply = engine.execute(sql)
    assert (reply.text, reply.error) == (text, False)


@pytest.mark.parametrize(
    ("sql", "text"),
    [
        ("SELECT colour FROM cars", "Error: no such column: colour"),
        ("SELECT 1 FROM trucks", "Error: no such table: trucks"),
        ("DESCRIBE trucks", "Error: no such table: trucks"),
        ("SELECT * FROM cars WHERE model = Nova One", 'Error: near "One": syntax error'),
        ("SELECT 1; SELECT 2", "Error: one statement per action; send the next one in its own turn"),
        ("SELECT 'a\0b'; DROP TABLE cars", "Error: "),
        ("SELECT zeroblob(100000000)", "Error: string or blob too big"),
    ],
)
def test_failing_statements_are_errors(engine, sql, text):
    reply = engine.execute(sql)
    assert reply.error
    assert reply.text.startswith(text)
    assert engine.execute("SELECT COUNT(*) FROM cars").text == "[(2,)]"


@pytest.mark.parametrize(
    "sql",
    [
        "ATTACH DATABASE '{path}' AS other",
        "VACUUM INTO '{path}'",
        "SELECT load_extension('{path}')",
        "SELECT writefile('{path}', 'x')",
        "PRAGMA temp_store_directory = '{folder}'",
        "PRAGMA writable_schema = ON",
        "SELECT * FROM pragma_database_list",
        "CREATE VIRTUAL TABLE v USING fts5(a)",
    ],
)
def test_files_extensions_and_pragmas_are_refused(engine, tmp_path: Path, sql):
    reply = engine.execute(sql.format(path=tmp_path / "out.db", folder=tmp_path))
    assert reply.error
    assert list(tmp_path.iterdir()) == []


def test_refusals_say_what_to_do(engine):
    assert engine.execute("PRAGMA table_info(cars)").text == (
        "Error: PRAGMA is not allowed; use SHOW TABLES and DESCRIBE"
    )
    assert "not allowed" in engine.execute("ATTACH DATABASE '/tmp/x' AS other").text


@pytest.mark.parametrize(
    "sql",
    [
        "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT COUNT(*) FROM n",
        "SELECT COUNT(*) FROM cars a, cars b, cars c, cars d, cars e, cars f, cars g, cars h, cars i, cars j, cars k, "
        "cars l, cars m, cars n, cars o, cars p, cars q, cars r, cars s, cars t, cars u, cars v, cars w, cars x, "
        "cars y, cars z, cars a2, cars b2, cars c2, cars d2, cars e2, cars f2, cars g2, cars h2",
    ],
)
def test_an_endless_query_is_stopped(engine, sql):
    start = time.monotonic()
    reply = engine.execute(sql)
    assert reply.text == "Error: the statement was stopped after 0.3 seconds"
    assert time.monotonic() - start < 3
    assert not engine.execute("SELECT 1").error


def test_a_growing_database_hits_its_size_limit():
    engine = SQLiteEngine(timeout_s=20)
    engine.create([TABLE])
    engine.execute("CREATE TABLE big (a)")
    reply = engine.execute(
        "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) INSERT INTO big SELECT zeroblob(60000) FROM n"
    )
    engine.close()
    assert reply.text == "Error: database or disk is full"


def test_long_results_are_cut_with_a_note(engine):
    numbers = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n LIMIT 5000000) SELECT x FROM n"
    reply = engine.execute(numbers)
    assert reply.truncated
    assert reply.text.startswith("[(1,), (2,), ")
    assert reply.text.endswith("... [cut at 800 characters]")
    assert len(reply.text) < 840
    assert read_values(reply.text) is None


def test_a_result_at_the_limit_is_whole():
    engine = SQLiteEngine(max_chars=100)
    text = "x" * (100 - len("[('',)]"))
    assert engine.execute(f"SELECT '{text}'").text == f"[('{text}',)]"
    assert engine.execute(f"SELECT '{text}y'").truncated
    engine.close()


def test_state_sees_changes_and_only_the_rows(engine):
    assert engine.state([TABLE]) == state_of([TABLE])
    engine.execute("UPDATE cars SET price = 901 WHERE price = 900")
    assert engine.state([TABLE]) != state_of([TABLE])
    engine.execute("UPDATE cars SET price = '900' WHERE price = 901")
    engine.execute("CREATE TABLE other (a int)")
    assert engine.state([TABLE]) == state_of([TABLE])


def test_an_open_transaction_is_rolled_back(engine):
    engine.execute("BEGIN")
    engine.execute("DELETE FROM cars")
    assert engine.state([TABLE]) == state_of([TABLE])


@pytest.mark.parametrize(
    "statements",
    [
        ["DROP TABLE cars"],
        ["ALTER TABLE cars DROP COLUMN price"],
        [
            "DROP TABLE cars",
            "CREATE VIEW cars AS WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) "
            "SELECT x AS model, x AS paint, x AS price FROM n",
        ],
    ],
)
def test_a_table_that_is_gone_has_no_state(engine, statements):
    for sql in statements:
        assert not engine.execute(sql).error
    assert engine.state([TABLE]) == {"cars": None}


def test_nothing_passes_from_one_database_to_the_next(engine):
    engine.execute("CREATE TABLE secret (a int)")
    other = SQLiteEngine()
    assert other.execute("SHOW TABLES").text == "[]"
    other.close()


def test_fingerprint_ignores_order_and_number_form_but_not_values():
    assert fingerprint([("a", 1), ("b", 2.0)]) == fingerprint([("b", 2), ("a", 1)])
    assert fingerprint([("a", 1)]) != fingerprint([("a", "1")])
    assert fingerprint([("a",)]) != fingerprint([("a",), ("a",)])
    assert fingerprint([(None,)]) != fingerprint([("null",)])
    assert fingerprint([("a", "b")]) != fingerprint([("a,b",)])
