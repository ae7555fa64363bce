"""MariaDB behind the engine's interface, started here; the same tasks give the same on both engines."""

import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from agenttuning.environments.base import make_environment
from agenttuning.environments.database import server
from agenttuning.environments.database.engine import SQLiteEngine
from agenttuning.environments.database.grammar import operation
from agenttuning.environments.database.server import Address, read_address
from agenttuning.environments.database.tables import Table, state_of
from agenttuning.errors import ConfigurationError, InfrastructureError

DATA = Path(__file__).parents[2].parent / "shared" / "data"
TABLE = Table(
    name="cars",
    columns=("model", "Paint job", "price", "share"),
    types=("text", "text", "int", "double"),
    rows=(("Nova One", "red", 900, 0.5), ("Apex Max", "blue", 1200, None), ("Ö%s 'x'", None, 3, 2.0)),
)


def test_addresses_are_read_and_others_refused():
    assert read_address("mysql://me:p%40ss@db.lan:3307") == Address("me", "p@ss", "db.lan", 3307)
    assert read_address("mysql://me@localhost?socket=/run/s") == Address("me", "", "localhost", 3306, "/run/s")
    for bad in ("postgres://me@host", "host:3306", "mysql://host", "mysql://me@host:port"):
        with pytest.raises(ConfigurationError, match="mysql://USER:PASSWORD@HOST:PORT"):
            read_address(bad)


def test_a_server_setting_without_its_engine_is_refused():
    with pytest.raises(ConfigurationError, match="server is for engine: mariadb"):
        make_environment("db", {"server": "mysql://me@host"})


def test_a_missing_server_is_named_with_the_cure(monkeypatch):
    monkeypatch.setattr(server.shutil, "which", lambda *_, **__: None)
    with pytest.raises(ConfigurationError, match="apt-get install --no-install-recommends mariadb-server-core"):
        server.Server()


@pytest.fixture(scope="module")
def address():
    try:
        found = server.acquire()
    except ConfigurationError as error:
        pytest.skip(str(error))
    yield found
    server.release()


@pytest.fixture
def engine(address):
    from agenttuning.environments.database.mariadb import MariaDBEngine

    engine = MariaDBEngine(address, timeout_s=0.5)
    engine.create([TABLE])
    yield engine
    engine.close()


@pytest.mark.server
@pytest.mark.parametrize(
    "sql",
    [
        "SHOW TABLES",
        "DESCRIBE cars",
        "SELECT * FROM cars",
        "SELECT AVG(price), SUM(price), COUNT(*), MAX(share) FROM cars",
        "SELECT model FROM cars WHERE `Paint job` = 'RED'",
        "SELECT price / 7 FROM cars WHERE price = 900.0",
        "UPDATE cars SET price = 900 WHERE price = 900",
        "DELETE FROM cars WHERE price > 1000",
        "INSERT INTO cars VALUES ('a', 'b', 1, 1.5)",
        "CREATE TABLE other (a int)",
        "SELECT model FROM cars WHERE price = 1",
        "SELECT LEFT(model, 2), YEAR('2004-02-01'), SUBSTRING_INDEX('a b c', ' ', 2), 7 DIV 2 FROM cars LIMIT 1",
        "BEGIN",
    ],
)
def test_both_engines_reply_alike(engine, sql):
    other = SQLiteEngine()
    other.create([TABLE])
    if "/" in sql:
        sql = sql.replace("price / 7", "ROUND(price * 1.0 / 7, 3)")
    assert engine.execute(sql) == other.execute(sql)
    assert engine.state([TABLE]) == other.state([TABLE])
    other.close()


@pytest.mark.server
@pytest.mark.parametrize(
    "sql",
    [
        "SELECT colour FROM cars",
        "SELECT 1 FROM trucks",
        "SELECT 1; SELECT 2",
        "SELECT '\ud800'",
        "",
        "SELECT user FROM mysql.user",
        "CREATE DATABASE other",
        "CREATE USER other",
        "SET GLOBAL max_connections = 1",
        "SHUTDOWN",
        "SELECT 1 INTO OUTFILE '/tmp/agenttuning-out'",
        "LOAD DATA LOCAL INFILE '/etc/hostname' INTO TABLE cars",
        "GRANT ALL ON *.* TO CURRENT_USER",
        "INSTALL SONAME 'server_audit'",
    ],
)
def test_failures_and_what_is_not_the_agents_are_errors(engine, sql):
    reply = engine.execute(sql)
    assert reply.error
    assert engine.name not in reply.text
    assert engine.execute("SELECT COUNT(*) FROM cars").text == "[(3,)]"


@pytest.mark.server
def test_one_episode_sees_neither_files_nor_the_other_episode(engine, address):
    from agenttuning.environments.database.mariadb import MariaDBEngine

    assert engine.execute("SELECT LOAD_FILE('/etc/hostname')").text == "[(None,)]"
    other = MariaDBEngine(address)
    other.create([TABLE])
    assert engine.execute(f"DELETE FROM {other.name}.cars").error
    assert engine.execute(f"DROP DATABASE {other.name}").error
    assert other.name not in engine.execute("SHOW DATABASES").text
    assert other.state([TABLE]) == state_of([TABLE])
    other.close()
    other.close()


@pytest.mark.server
@pytest.mark.parametrize(
    "sql",
    [
        "SELECT SLEEP(20)",
        "SET STATEMENT max_statement_time = 0 FOR SELECT SLEEP(20)",
        f"SELECT SUM(a1.price) FROM {', '.join(f'cars a{n}' for n in range(1, 22))}",
    ],
)
def test_an_endless_statement_is_stopped(engine, sql):
    start = time.monotonic()
    assert engine.execute(sql).text == "Error: the statement was stopped after 0.5 seconds"
    assert time.monotonic() - start < 6
    assert engine.execute("SELECT COUNT(*) FROM cars").text == "[(3,)]"


@pytest.mark.server
def test_long_results_are_cut_and_endless_ones_end(engine):
    numbers = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n WHERE x < 900) SELECT x FROM n"
    reply = engine.execute(numbers)
    assert reply.truncated
    assert reply.text.endswith("... [cut at 800 characters]")
    assert engine.execute("SELECT 1").text == "[(1,)]"


@pytest.mark.server
@pytest.mark.parametrize(
    "statements",
    [["DROP TABLE cars"], ["ALTER TABLE cars DROP COLUMN price"], ["DROP TABLE cars", "CREATE VIEW cars AS SELECT 1"]],
)
def test_a_table_that_is_gone_has_no_state(engine, statements):
    for sql in statements:
        assert not engine.execute(sql).error
    assert engine.state([TABLE]) == {"cars": None}


@pytest.mark.server
def test_an_open_transaction_is_rolled_back_and_locks_are_freed(engine):
    engine.execute("LOCK TABLES cars WRITE")
    assert engine.state([TABLE]) == state_of([TABLE])
    engine.execute("BEGIN")
    engine.execute("DELETE FROM cars")
    assert engine.state([TABLE]) == state_of([TABLE])


@pytest.mark.server
def test_databases_and_users_are_dropped_after(address):
    import pymysql

    environment = make_environment("db", {"engine": "mariadb"})
    task = next(environment.tasks("train", 1, 0))
    environment.reset(task)
    environment.reset(task)
    environment.close()
    admin = pymysql.connect(unix_socket=address.socket, user="root")
    with admin.cursor() as cursor:
        cursor.execute("SHOW DATABASES LIKE 'at\\_%'")
        assert cursor.fetchall() == ()
        cursor.execute("SELECT user FROM mysql.user WHERE user LIKE 'at\\_%'")
        assert cursor.fetchall() == ()
    admin.close()
    environment.shutdown()
    environment.shutdown()


def rewards_and_texts(settings, source, count, root=None):
    with make_environment("db", {"mistake_rate": 0.5, "source": source, **settings}, root) as environment:
        found = []
        for seed, task in enumerate(environment.tasks("train", count, 3)):
            texts = [environment.reset(task)]
            expert = environment.expert(task, random.Random(seed))
            move, step = next(expert), None
            while step is None or not step.done:
                step = environment.step(move.action)
                texts.append("Error" if step.error else step.observation)
                move = None if step.done else expert.send(step)
            found.append((task.id, environment.grade(task, environment.close()).reward, texts))
        return found


@pytest.mark.server
def test_generated_tasks_are_the_same_on_both_engines(address):
    sqlite, mariadb = (rewards_and_texts({"engine": name}, "generated", 42) for name in ("sqlite", "mariadb"))
    assert sqlite == mariadb
    assert all(reward == 1.0 for _, reward, _ in mariadb)


@pytest.mark.server
@pytest.mark.data
@pytest.mark.parametrize("source", ["geoquery", "defog", "wikitablequestions_edits"])
def test_published_tasks_have_the_same_rewards_on_both_engines(address, source):
    if not (DATA / "db").is_dir():
        pytest.skip("published data not found beside the repository (../shared/data/db)")
    sqlite, mariadb = (rewards_and_texts({"engine": name}, source, 16, str(DATA)) for name in ("sqlite", "mariadb"))
    assert [(name, reward) for name, reward, _ in sqlite] == [(name, reward) for name, reward, _ in mariadb]
    assert all(reward == 1.0 for _, reward, _ in mariadb)


@pytest.mark.server
def test_a_server_on_loopback_is_used_by_its_url(address):
    import socket as sockets

    with sockets.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder = tempfile.mkdtemp(prefix="agenttuning-test-")
    user = []
    if os.geteuid() == 0:
        shutil.chown(folder, "nobody")
        user = ["--user=nobody"]
    common = ["--no-defaults", f"--datadir={folder}", *user]
    subprocess.run(
        ["mariadb-install-db", *common, "--auth-root-authentication-method=normal"], check=True, capture_output=True
    )
    daemon = shutil.which("mariadbd", path=os.environ["PATH"] + ":/usr/sbin")
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    sock = f"--socket={folder}/s"
    with subprocess.Popen([daemon, *common, sock, "--bind-address=127.0.0.1", f"--port={port}"], **quiet) as process:
        try:
            deadline = time.monotonic() + 30
            settings = {"engine": "mariadb", "server": f"mysql://root@127.0.0.1:{port}"}
            environment = make_environment("db", settings)
            task = next(environment.tasks("train", 1, 0))
            while True:
                try:
                    assert environment.reset(task) == task.instruction
                    break
                except InfrastructureError:
                    assert time.monotonic() < deadline
                    time.sleep(0.1)
            assert not environment.step(operation("SHOW TABLES")).error
            assert set(environment.close()["state"]) == {table["name"] for table in task.payload["tables"]}
            environment.shutdown()
        finally:
            process.kill()
    shutil.rmtree(folder)
    with pytest.raises(InfrastructureError, match="refuses"):
        environment.reset(task)


@pytest.mark.server
def test_the_server_goes_with_its_process_even_when_that_is_killed(address):
    code = (
        "import os, signal\nfrom agenttuning.environments.database import server\n"
        "print(server.acquire().socket, flush=True)\nos.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    folder = Path(done.stdout.strip()).parent
    deadline = time.monotonic() + 20
    while folder.exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
