import sqlite3

import pytest

from agenttuning.environments.database.engine import SQLiteEngine
from agenttuning.environments.database.mysql import MAX_TRANSLATED, translate
from agenttuning.environments.database.tables import Table

TABLE = Table(
    name="Games",
    columns=("Date", "Home team", "points", "crowd"),
    types=("text", "text", "int", "text"),
    rows=(("2004-03-19", "Red Hawks", 7, "1,204"), ("2003-11-02", "Blue Owls", 2, "950")),
)


@pytest.fixture
def engine():
    engine = SQLiteEngine(timeout_s=0.5)
    engine.create([TABLE])
    yield engine
    engine.close()


@pytest.mark.parametrize(
    ("sql", "text"),
    [
        ("SELECT LEFT(`Home team`, 3), RIGHT(`Home team`, 4) FROM Games LIMIT 1", "[('Red', 'awks')]"),
        ("SELECT YEAR(Date), MONTH(Date), DAY(Date) FROM Games LIMIT 1", "[(2004, 3, 19)]"),
        ("SELECT STR_TO_DATE('March 19, 1998', '%M %d, %Y')", "[('1998-03-19',)]"),
        ("SELECT IF(points > 5, 'high', 'low') FROM Games", "[('high',), ('low',)]"),
        ("SELECT points DIV 2 FROM Games", "[(3,), (1,)]"),
        ("SELECT CONCAT_WS('-', points, NULL, 'x') FROM Games LIMIT 1", "[('7-x',)]"),
        ("SELECT SUBSTRING_INDEX(`Home team`, ' ', -1) FROM Games", "[('Hawks',), ('Owls',)]"),
        ("SELECT GREATEST(points, 5) FROM Games", "[(7,), (5,)]"),
        ("SELECT GROUP_CONCAT(`Home team` SEPARATOR '; ') FROM Games", "[('Red Hawks; Blue Owls',)]"),
        ("SELECT SUM(CAST(REPLACE(crowd, ',', '') AS UNSIGNED)) FROM Games", "[(2154,)]"),
        ("SELECT `Home team` FROM Games WHERE `Home team` LIKE 'it\\'s%'", "[]"),
        ("SELECT DATEDIFF('2004-03-19', '2004-03-01')", "[(18,)]"),
        ("INSERT INTO Games SET Date = 'x', points = 1", "Query OK, 1 row affected"),
        ("INSERT IGNORE INTO Games VALUES ('a', 'b', 1, 'c')", "Query OK, 1 row affected"),
        ("TRUNCATE TABLE Games", "Query OK, 2 rows affected"),
    ],
)
def test_mysql_runs_on_sqlite(engine, sql, text):
    reply = engine.execute(sql)
    assert (reply.text, reply.error) == (text, False)


def test_a_statement_that_sqlite_takes_is_not_translated(engine, monkeypatch):
    monkeypatch.setattr("agenttuning.environments.database.engine.translate", lambda sql: pytest.fail(sql))
    assert engine.execute("SELECT `points` FROM Games").text == "[(7,), (2,)]"


@pytest.mark.parametrize("sql", ["SELECT `Score` FROM Games", "SELECT `Score x` FROM Games GROUP BY `Score x`"])
def test_an_unknown_name_stays_an_error_after_the_translation(engine, sql):
    assert engine.execute(sql).text.startswith("Error: no such column: Score")


@pytest.mark.parametrize(
    "sql",
    ["PRAGMA table_info(Games)", "ATTACH DATABASE 'x' AS y", "SELECT load_extension('x')", "SELEC 1", "SELECT 1; X"],
)
def test_what_is_refused_or_broken_stays_so(engine, sql):
    assert engine.execute(sql).error


def test_the_first_error_is_the_one_shown(engine):
    assert engine.execute("SELECT LEFT(Score, 2) FROM Games").text == 'Error: near "(": syntax error'


def test_long_statements_are_left_alone():
    assert translate("SELECT IF(1, 'a', 'b')") is not None
    assert translate(f"SELECT IF(1, '{'a' * MAX_TRANSLATED}', 'b')") is None
    assert translate("(" * 2000) is None


def test_names_are_written_in_back_ticks():
    assert translate("SELECT IF(1, `a b`, 2)") == "SELECT IIF(1, `a b`, 2)"


def test_the_functions_take_nulls(engine):
    reply = engine.execute(
        "SELECT CONCAT(NULL, 'a'), CONCAT_WS(NULL, 1), YEAR(NULL), SUBSTRING_INDEX(NULL, 'a', 1), "
        "FIND_IN_SET(NULL, 'a'), MID(NULL, 1, 2), FIND_IN_SET('b', 'a,b'), MID('abcdef', 2, 3)"
    )
    assert reply.text == "[(None, None, None, None, None, None, 2, 'bcd')]"
    assert sqlite3.sqlite_version_info >= (3, 38), "IIF and the functions need a recent SQLite"
