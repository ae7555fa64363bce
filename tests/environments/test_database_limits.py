"""Nothing that one statement says may hold an episode up: each would run for minutes, or fill the memory."""

import sqlite3
import time

import pytest

from agenttuning.environments.database.bounds import MOST_COPIES, copies
from agenttuning.environments.database.engine import MAX_VALUE_BYTES, SQLiteEngine
from agenttuning.environments.database.tables import Table

LIMIT_S = 0.3
ENDLESS = "WITH RECURSIVE r(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r) "
LONG = "(SELECT replace(hex(zeroblob(30000)), '0', 'a') AS s)"
STOPPED = "was stopped after 0.3 seconds"


@pytest.fixture
def engine():
    engine = SQLiteEngine(timeout_s=LIMIT_S)
    yield engine
    engine.close()


def said(engine: SQLiteEngine, sql: str) -> str:
    start = time.thread_time()
    reply = engine.execute(sql)
    assert time.thread_time() - start < LIMIT_S + 2
    return reply.text


def many(expression: str) -> str:
    return f"{ENDLESS}SELECT max({' + '.join([expression] * 50)}) FROM r, {LONG}"


@pytest.mark.parametrize(
    ("sql", "text"),
    [
        ("SELECT length(printf('%.*c', 2000000000, 'x'))", "function printf is not allowed"),
        ("SELECT length(format('%2000000000d', 1))", "function format is not allowed"),
        ("SELECT json_patch('{}', '{}')", "function json_patch is not allowed"),
        ("SELECT length(zeroblob(2000000000))", "too big"),
        ("SELECT length(randomblob(2000000000))", "too big"),
        ("SELECT length(hex(randomblob(60000)))", "too big"),
        ("SELECT length(quote(zeroblob(60000)))", "too big"),
        ("SELECT replace(replace(hex(zeroblob(30000)), '0', 'aaaaaaaa'), 'a', 'bbbbbbbb')", "too big"),
        (f"SELECT concat({', '.join(['hex(zeroblob(30000))'] * 100)})", "too big"),
        (f"{ENDLESS}SELECT count(*) FROM r", STOPPED),
        (f"{ENDLESS}SELECT group_concat(n) FROM r", STOPPED),
        (f"{ENDLESS}SELECT json_group_array(n) FROM r", STOPPED),
        (f"{ENDLESS}SELECT n FROM r ORDER BY n DESC", STOPPED),
        (many(f"(s LIKE '%{'a' * 97}b')"), STOPPED),
        (many(f"(s LIKE '{'%_' * 49}b')"), STOPPED),
        (many(f"(s GLOB '{'*[a-z]' * 16}b')"), STOPPED),
        (many("instr(s, substr(s, 1, 29999) || 'b')"), STOPPED),
        (many("length(replace(s, substr(s, 1, 29999) || 'b', 'c'))"), STOPPED),
        (many("length(trim(s, 'bcdefgh' || substr(s, 1, 29999)))"), STOPPED),
        (f"SELECT s LIKE '%{'a' * 40000}b' FROM {LONG}", "pattern too complex"),
        ("SELECT STRPTIME_DATE('2020', '" + "%Y " * 3000 + "')", "None"),
    ],
)  # fmt: skip
def test_no_statement_runs_on(engine, sql, text):
    assert text in said(engine, sql)
    assert said(engine, "SELECT 1") == "[(1,)]"


PATTERNS = ("a" * 60000, "a" * 30000 + "b", "%" + "a" * 97 + "b", "[" * 900 + "]" * 900, "%.*c", 2_000_000_000, -1)


def test_no_built_in_function_is_slow():
    """Asks SQLite for its functions, so that those of a later version are tried too."""
    engine = SQLiteEngine(timeout_s=LIMIT_S)
    bare = sqlite3.connect(":memory:")
    names = sorted({name for (name,) in bare.execute("SELECT name FROM pragma_function_list")})
    bare.close()
    for name in names:
        for given in ([(one,) for one in PATTERNS], [(one, two) for one in PATTERNS for two in PATTERNS]):
            for values in given:
                written = ", ".join(str(v) if isinstance(v, int) else f"'{v}'" for v in values)
                start = time.thread_time()
                engine.execute(f"SELECT length({name}({written}))")
                assert time.thread_time() - start < 1, name
    engine.close()


def doubling(levels: int, body: str) -> list[str]:
    return [f"v{level} AS ({body.format(f'v{level - 1}')})" for level in range(1, levels)]


@pytest.mark.parametrize("body", ["SELECT * FROM {0} UNION ALL SELECT * FROM {0}", "SELECT 1 FROM {0} AS x, {0} AS y"])
def test_queries_that_multiply_are_refused_before_they_are_prepared(engine, body):
    parts = ["v0 AS (SELECT 1 AS a)", *doubling(24, body)]
    assert f"more than {MOST_COPIES} queries" in said(engine, f"WITH {', '.join(parts)} SELECT count(*) FROM v23")
    hidden = [part.replace(" AS (S", "(a) /* ( */ AS NOT MATERIALIZED (S") for part in parts]
    assert f"more than {MOST_COPIES}" in said(engine, f"WITH {', '.join(hidden)} SELECT count(*) FROM v23")


def test_views_that_multiply_are_refused(engine):
    said(engine, "CREATE VIEW v0 AS SELECT 1 AS a")
    made = (f"CREATE VIEW v{level} AS SELECT a.* FROM v{level - 1} a, [v{level - 1}] b" for level in range(1, 24))
    assert f"more than {MOST_COPIES}" in "".join(said(engine, sql) for sql in made)
    assert said(engine, "SELECT * FROM v3") == "[(1,)]"


@pytest.mark.parametrize(
    ("sql", "bound"),
    [
        ("SELECT a.n FROM a JOIN b ON a.n = b.n", 1),
        ("WITH a AS (SELECT 1 AS n) SELECT a.n, a.n + 1 FROM a", 1),
        ("WITH a AS (SELECT 1 AS n), b AS (SELECT * FROM a) SELECT * FROM b, a", 2),
        ('WITH "A" (n) AS MATERIALIZED (SELECT 1) SELECT * FROM a x, [a] y, `a` z', 3),
        ("WITH x AS (WITH x AS (SELECT 1) SELECT * FROM x, x) SELECT * FROM x, x", 4),
        ("SELECT 'a AS (' -- b AS (", 1),
    ],
)
def test_copies_are_never_underestimated(sql, bound):
    assert copies(sql) == bound


def test_a_row_of_the_tasks_own_may_be_longer_than_a_made_value():
    engine = SQLiteEngine()
    engine.create([Table(name="t", columns=("a",), types=("text",), rows=(("x" * 3 * MAX_VALUE_BYTES,),))])
    assert engine.execute("SELECT length(a) FROM t").text == f"[({3 * MAX_VALUE_BYTES},)]"
    engine.close()
