"""The same questions on a real Virtuoso 7 and on the store on disk: the same observations, the same answers."""

import json
import lzma
import random
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator

import pytest

from agenttuning.environments.knowledge_graph import KnowledgeGraph, cache
from agenttuning.environments.knowledge_graph.environment import KnowledgeGraphSettings
from agenttuning.environments.knowledge_graph.graph import Graph, Schema
from agenttuning.environments.knowledge_graph.programs import FREEBASE
from agenttuning.environments.knowledge_graph.stores import EndpointStore
from agenttuning.environments.knowledge_graph.world import embedded_graph
from agenttuning.errors import ConfigurationError
from agenttuning.trajectory import Task

GRAPH, FREEBASE_GRAPH = "urn:test:embedded", "urn:test:freebase"
INI = """[Database]
DatabaseFile = {d}/v.db
ErrorLogFile = {d}/v.log
LockFile = {d}/v.lck
TransactionFile = {d}/v.trx
xa_persistent_file = {d}/v.pxa
FileExtend = 200
[TempDatabase]
DatabaseFile = {d}/t.db
TransactionFile = {d}/t.trx
[Parameters]
ServerPort = 127.0.0.1:{sql}
ServerThreads = 8
NumberOfBuffers = 4000
MaxDirtyBuffers = 3000
DirsAllowed = {d}
CheckpointInterval = 0
[HTTPServer]
ServerPort = 127.0.0.1:{http}
ServerThreads = 4
"""
pytestmark = pytest.mark.server


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def mini_freebase() -> Graph:
    """Some of Freebase as the published development record below needs it."""
    graph = Graph(Schema(FREEBASE, {}, {}))
    graph.add("m.09rl290", "media_common.quotation.author", "m.0j50kb6")
    graph.add("m.0j50kb6", "basketball.basketball_player.position_s", "m.05ch8k4")
    graph.add("m.0j50kb6", "type.object.key", "m.09rl290")
    return graph


@pytest.fixture(scope="module")
def virtuoso(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Start Virtuoso on loopback with the embedded graph and a piece of Freebase loaded; yield its endpoint."""
    missing = [name for name in ("virtuoso-t", "isql-vt") if shutil.which(name) is None]
    if missing:
        pytest.skip(f"Virtuoso 7 is not installed ({', '.join(missing)} not found; Debian: virtuoso-opensource-7)")
    directory = tmp_path_factory.mktemp("virtuoso")
    sql, http = free_port(), free_port()
    (directory / "virtuoso.ini").write_text(INI.format(d=directory, sql=sql, http=http))
    cache.dump(embedded_graph(), directory / "embedded.nt")
    cache.dump(mini_freebase(), directory / "freebase.nt")
    server = subprocess.Popen(
        ["virtuoso-t", "-f", "-c", str(directory / "virtuoso.ini")],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        for _ in range(600):
            assert server.poll() is None, (directory / "v.log").read_text()
            try:
                socket.create_connection(("127.0.0.1", http), 1).close()
                break
            except OSError:
                time.sleep(0.05)
        for name, iri in (("embedded", GRAPH), ("freebase", FREEBASE_GRAPH)):
            load = f"DB.DBA.TTLP_MT(file_to_string_output('{directory}/{name}.nt'), '', '{iri}', 255);"
            command = ["isql-vt", f"127.0.0.1:{sql}", "dba", "dba", f"exec={load}"]
            subprocess.run(command, check=True, capture_output=True, timeout=60)
        yield f"http://127.0.0.1:{http}/sparql"
    finally:
        server.terminate()
        server.wait(30)


def play(env: KnowledgeGraph, task: Task) -> tuple[list[str], dict[str, object], float]:
    """Return what the demonstrator was shown, the evidence, and the reward."""
    env.reset(task)
    expert = env.expert(task, random.Random(task.id))
    move, shown = next(expert), []
    while not (step := env.step(move.action)).done:
        shown.append(step.observation)
        move = expert.send(step)
    evidence = env.close()
    return shown, evidence, env.grade(task, evidence).reward


def test_the_same_questions_give_the_same_answers(virtuoso, tmp_path):
    settings = KnowledgeGraphSettings(store_directory=str(tmp_path))
    disk = KnowledgeGraph(settings)
    served = KnowledgeGraph(settings.model_copy(update={"endpoint": virtuoso, "endpoint_graph": GRAPH}))
    for split in ("train", "test", "shifted"):
        for task in disk.tasks(split, 36, 0):
            episode = play(disk, task)
            assert play(served, task) == episode
            assert episode[2] == 1.0


def test_questions_are_generated_against_an_endpoint_as_against_the_disk(virtuoso, tmp_path):
    settings = KnowledgeGraphSettings(store_directory=str(tmp_path))
    served = KnowledgeGraph(settings.model_copy(update={"endpoint": virtuoso, "endpoint_graph": GRAPH}))
    assert list(served.tasks("test", 12, 1)) == list(KnowledgeGraph(settings).tasks("test", 12, 1))
    assert not [path for path in tmp_path.iterdir() if path.name.endswith("-schema") and (path / "store").exists()]


def test_a_refused_query_is_no_infrastructure(virtuoso):
    with pytest.raises(ConfigurationError, match="status 400"):
        EndpointStore(virtuoso, 10.0).rows("SELECT nonsense")


def test_an_agentbench_record_is_played_where_freebase_is_given(virtuoso, tmp_path):
    folder = tmp_path / "knowledgegraph"
    folder.mkdir()
    record = {
        "question": "what position did the author of did you see that thing? play?",
        "source": "grailqa",
        "entities": {"Did you see that thing? That's Sidat-Singh!": "m.09rl290"},
        "actions": [
            "get_relations(m.09rl290)",
            "get_neighbors(m.09rl290,media_common.quotation.author)",
            "get_relations(#0)",
            "get_neighbors(#0,basketball.basketball_player.position_s)",
        ],
        "answer": [{"answer_type": "Entity", "answer_argument": "m.05ch8k4", "entity_name": "Guard"}],
    }
    (folder / "agentbench_kg_kg_rl_all.json").write_text(json.dumps([record]))
    (folder / "agentbench_kg_dev.json").write_text(json.dumps([{**record, "question": "another?"}]))
    roles = (
        "media_common.quotation media_common.quotation.author people.person\n"
        "basketball.basketball_player basketball.basketball_player.position_s basketball.basketball_position\n"
    )
    (folder / "fb_roles.txt.xz").write_bytes(lzma.compress(roles.encode()))
    settings = KnowledgeGraphSettings(
        source="agentbench",
        endpoint=virtuoso,
        endpoint_graph=FREEBASE_GRAPH,
        store_directory=str(tmp_path),
        mistake_rate=0,
    )
    env = KnowledgeGraph(settings, str(tmp_path))
    (task,) = env.tasks("train", 5, 0)
    shown, evidence, reward = play(env, task)
    assert shown == [
        "Observation: [media_common.quotation.author]",
        "Observation: variable #0, which are instances of people.person",
        "Observation: [basketball.basketball_player.position_s]",
        "Observation: variable #1, which are instances of basketball.basketball_position",
    ]
    assert evidence["entities"] == ["m.05ch8k4"]
    assert reward == 1.0
