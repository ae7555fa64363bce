"""What is built once per content and shared by all actors of a node: the store on disk and the schema beside it.

A build happens in a directory of its own, which is renamed into place when it is whole; a lock lets one actor build
while the others wait. The name holds the fingerprint of the content, so changed content is another directory, and
nothing that was built is ever written again.
"""

import fcntl
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import pyoxigraph

from agenttuning.environments.knowledge_graph.graph import Graph, Schema, ntriples
from agenttuning.errors import DataError, StorageError
from agenttuning.machine import cache_directory

SCHEMA = "schema.json"
STORE = "store"


def default_directory() -> Path:
    """Return where stores are kept unless a setting says otherwise: below the machine's cache directory."""
    return cache_directory() / "knowledge-graph"


def built_once(directory: Path, name: str, build: Callable[[Path], None]) -> Path:
    """Return `directory/name`; where it is not there yet, let `build` fill it. Safe with many processes at once.

    Args:
        directory: made where it is missing.
        name: of the directory to build, with the content's fingerprint in it.
        build: fills the empty directory that it is given.

    Raises:
        StorageError: the directory cannot be written.
    """
    target = directory / name
    if target.exists():
        return target
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with open(directory / f".{name}.lock", "w", encoding="utf-8") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if target.exists():
                return target
            for abandoned in directory.glob(f".{name}-*"):
                shutil.rmtree(abandoned, ignore_errors=True)
            fresh = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=directory))
            try:
                build(fresh)
                fresh.chmod(0o755)
                fresh.rename(target)
            except BaseException:
                shutil.rmtree(fresh, ignore_errors=True)
                raise
    except OSError as error:
        raise StorageError(
            f"{directory}: the graph's store cannot be built here ({error}); set "
            "environments.kg.settings.store_directory or $AGENTTUNING_CACHE to a directory that can be written"
        ) from error
    return target


def fill_store(directory: Path, graph: Graph) -> None:
    """Write the graph's schema and an optimised store into an empty directory."""
    lines = directory / "graph.nt"
    dump(graph, lines)
    store = pyoxigraph.Store(str(directory / STORE))
    store.bulk_load(path=str(lines), format=pyoxigraph.RdfFormat.N_TRIPLES)
    store.optimize()
    store.flush()
    del store
    os.unlink(lines)
    fill_schema(directory, graph.schema)


def fill_schema(directory: Path, schema: Schema) -> None:
    """Write the schema into a directory."""
    (directory / SCHEMA).write_text(json.dumps(schema.to_json()), encoding="utf-8")


def read_schema(directory: Path) -> Schema:
    """Return the schema that was built.

    Raises:
        DataError: the file is torn.
    """
    path = directory / SCHEMA
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        relations = {name: (domain, range_) for name, (domain, range_) in found["relations"].items()}
        return Schema(prefix=found["prefix"], relations=relations, attributes=found["attributes"])
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"{path}: not readable ({error}); delete {directory} to build it again") from error


def dump(graph: Graph, path: Path) -> None:
    """Write the graph as N-Triples, as a server of one's own loads it."""
    with open(path, "w", encoding="utf-8") as file:
        file.writelines(ntriples(graph))
