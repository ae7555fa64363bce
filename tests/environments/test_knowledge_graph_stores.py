"""Stores on disk that are built once by many, and endpoints that answer badly."""

import json
import multiprocessing
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs

import pytest

from agenttuning.environments.knowledge_graph import KnowledgeGraph, cache
from agenttuning.environments.knowledge_graph.environment import KnowledgeGraphSettings
from agenttuning.environments.knowledge_graph.grammar import answer, call
from agenttuning.environments.knowledge_graph.graph import Graph, Schema
from agenttuning.environments.knowledge_graph.stores import DiskStore, EndpointStore
from agenttuning.errors import ConfigurationError, DataError, InfrastructureError, StorageError
from agenttuning.trajectory import Task

QUERY = "SELECT DISTINCT ?x WHERE { <urn:test:a> <urn:test:r> ?x }"


def small_graph() -> Graph:
    graph = Graph(Schema("urn:test:", {"r": ("t", "t")}, {}))
    graph.add("a", "r", "b")
    return graph


def build_slowly(path: Path) -> None:
    with open(path.parent / "builds", "a", encoding="utf-8") as file:
        file.write("x")
    time.sleep(0.2)
    cache.fill_store(path, small_graph())


def open_and_ask(directory: str, answers: "multiprocessing.Queue[str]") -> None:
    store = DiskStore(cache.built_once(Path(directory), "small", build_slowly) / cache.STORE)
    answers.put(store.rows(QUERY)[0][0])


def test_many_actors_at_once_build_one_store(tmp_path):
    context = multiprocessing.get_context("spawn")
    answers = context.Queue()
    actors = [context.Process(target=open_and_ask, args=(str(tmp_path), answers)) for _ in range(4)]
    for actor in actors:
        actor.start()
    assert [answers.get(timeout=30) for _ in actors] == ["urn:test:b"] * 4
    for actor in actors:
        actor.join()
        assert actor.exitcode == 0
    assert (tmp_path / "builds").read_text() == "x"
    assert sorted(path.name for path in tmp_path.iterdir()) == [".small.lock", "builds", "small"]


def test_a_failed_or_killed_build_leaves_nothing_that_counts(tmp_path):
    def fail(path: Path) -> None:
        (path / "half").write_text("x")
        raise RuntimeError("out of luck")

    with pytest.raises(RuntimeError, match="out of luck"):
        cache.built_once(tmp_path, "small", fail)
    assert [path.name for path in tmp_path.iterdir()] == [".small.lock"]
    (tmp_path / ".small-killed").mkdir()
    place = cache.built_once(tmp_path, "small", lambda path: cache.fill_store(path, small_graph()))
    assert not (tmp_path / ".small-killed").exists()
    assert cache.read_schema(place) == small_graph().schema
    cache.built_once(tmp_path, "small", fail)


def test_a_directory_that_cannot_be_written_is_named_with_the_cure(tmp_path):
    (tmp_path / "file").write_text("")
    settings = KnowledgeGraphSettings(store_directory=str(tmp_path / "file"))
    with pytest.raises(StorageError, match=r"store_directory or \$AGENTTUNING_CACHE"):
        next(KnowledgeGraph(settings).tasks("train", 1, 0))


def test_the_cache_directory_of_the_machine_is_the_default(tmp_path, monkeypatch):
    monkeypatch.setenv("AGENTTUNING_CACHE", str(tmp_path))
    assert cache.default_directory() == tmp_path / "knowledge-graph"


def test_torn_stores_are_named(tmp_path):
    with pytest.raises(InfrastructureError, match="does not open"):
        DiskStore(tmp_path / "nothing")
    with pytest.raises(DataError, match=r"delete .* to build it again"):
        cache.read_schema(tmp_path)


def test_a_closed_store_is_not_asked(tmp_path):
    closed = DiskStore(
        cache.built_once(tmp_path, "small", lambda path: cache.fill_store(path, small_graph())) / "store"
    )
    closed.close()
    with pytest.raises(RuntimeError, match="was closed"):
        closed.rows(QUERY)


@contextmanager
def endpoint(status: int = 200, body: bytes = b"", wait_s: float = 0.0, **headers: str) -> Iterator[tuple[str, list]]:
    """Serve one fixed answer on loopback; the second value collects what was asked."""
    asked: list[dict[str, list[str]]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked.append(parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode()))
            time.sleep(wait_s)
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/sparql", asked
    finally:
        server.shutdown()
        server.server_close()


def test_an_endpoint_is_asked_by_post_and_read():
    rows = [{"x": {"type": "uri", "value": "urn:a"}, "y": {"type": "literal", "value": "1"}}, {"y": {"value": "2"}}]
    body = json.dumps({"head": {"vars": ["x", "y"]}, "results": {"bindings": rows}}).encode()
    with endpoint(body=body) as (url, asked):
        assert EndpointStore(url, 5.0, "urn:graph").rows(QUERY) == [("urn:a", "1"), ("2",)]
        EndpointStore(url, 5.0).rows(QUERY)
    assert asked == [{"query": [QUERY], "default-graph-uri": ["urn:graph"]}, {"query": [QUERY]}]


def test_a_slow_endpoint_is_infrastructure():
    with endpoint(wait_s=0.5) as (url, _), pytest.raises(InfrastructureError, match=r"within 0\.1 s"):
        EndpointStore(url, 0.1).rows(QUERY)


def test_no_endpoint_at_all_is_infrastructure():
    with endpoint() as (url, _):
        pass
    with pytest.raises(InfrastructureError, match="no answer"):
        EndpointStore(url, 1.0).rows(QUERY)


@pytest.mark.parametrize(
    ("status", "kind"), [(503, InfrastructureError), (429, InfrastructureError), (400, ConfigurationError)]
)
def test_refusals_are_told_apart(status, kind):
    with endpoint(status, b"why not", Retry_After="7") as (url, _):
        with pytest.raises(kind, match=f"status {status}: why not") as caught:
            EndpointStore(url, 5.0).rows(QUERY)
        assert getattr(caught.value, "retry_after", None) == (None if status == 400 else 7.0)


def test_half_answers_are_infrastructure():
    with endpoint(body=b"<html>") as (url, _), pytest.raises(InfrastructureError, match="the answer is not"):
        EndpointStore(url, 5.0).rows(QUERY)
    body = b'{"head": {"vars": []}, "results": {"bindings": []}}'
    with endpoint(body=body, X_SQL_State="S1TAT") as (url, _), pytest.raises(InfrastructureError, match="partial"):
        EndpointStore(url, 5.0).rows(QUERY)


def test_an_endpoint_must_be_a_url():
    with pytest.raises(ConfigurationError, match="must be an http"):
        EndpointStore("localhost:8890", 5.0)


TASK = Task(
    environment="kg",
    split="train",
    instruction="Question: what?\nEntities: [A]",
    payload={"entities": {"A": "m.a"}, "actions": [], "answer": ["m.b"], "number": None},
)


def test_a_broken_endpoint_leaves_the_environment_as_infrastructure(tmp_path):
    settings = KnowledgeGraphSettings(store_directory=str(tmp_path))
    with endpoint(503) as (url, _):
        env = KnowledgeGraph(settings.model_copy(update={"endpoint": url}))
        assert env.reset(TASK) == TASK.instruction
        with pytest.raises(InfrastructureError, match="status 503"):
            env.step(call("get_relations", "A"))


def test_an_answer_that_could_not_be_fetched_does_not_stop_the_next_episode(tmp_path):
    settings = KnowledgeGraphSettings(store_directory=str(tmp_path))
    with endpoint(503) as (url, asked):
        env = KnowledgeGraph(settings.model_copy(update={"endpoint": url}))
        env.reset(TASK)
        env.step(answer("A"))
        with pytest.raises(InfrastructureError, match="status 503"):
            env.close()
        assert env.reset(TASK) == TASK.instruction
        assert len(asked) == 1
        assert env.close()["answer"] is None


def test_a_store_on_disk_that_fails_is_infrastructure(tmp_path):
    class Failing:
        def query(self, _: str) -> None:
            raise OSError("input/output error")

    place = cache.built_once(tmp_path, "small", lambda path: cache.fill_store(path, small_graph()))
    store = DiskStore(place / cache.STORE)
    store._store = Failing()
    with pytest.raises(InfrastructureError, match="input/output error"):
        store.rows(QUERY)
