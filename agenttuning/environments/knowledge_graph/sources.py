"""Where graphs and questions come from: a table of sources, each with its files, graph and tasks.

- `generated`: the embedded graph; splits share no entity on any way from question to answer.
- `freebase`: FB15k-237 with generated questions. It is one piece, so splits share no question entity and no answer
  set, while entities in between may be shared; `shifted` has the relations of other domains.
- `metaqa`: published questions of which the tools can give the exact answer; its test split is `test`, its
  development split is `train`. Questions about languages and tags are `shifted` (of its test split) or left out: no
  other split asks for these relations. No two splits start from the same entity.
- `agentbench`: published questions on the whole Freebase, which must stand behind `endpoint`; see `agentbench`.
"""

import hashlib
import random
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyoxigraph

from agenttuning.environments.knowledge_graph import layouts
from agenttuning.environments.knowledge_graph import published as p
from agenttuning.environments.knowledge_graph.agentbench import agentbench_tasks
from agenttuning.environments.knowledge_graph.families import Pool
from agenttuning.environments.knowledge_graph.graph import Graph, members
from agenttuning.environments.knowledge_graph.plans import difficulty
from agenttuning.environments.knowledge_graph.programs import Entity, Hop, Program, topics
from agenttuning.environments.knowledge_graph.tasks import Side, check_split, instruction, path
from agenttuning.environments.knowledge_graph.world import SOURCES, embedded_graph
from agenttuning.errors import DataError
from agenttuning.trajectory import Task, content_hash

SHIFTED_DOMAINS = frozenset(
    {"music", "tv", "soccer", "sports", "baseball", "broadcast", "olympics", "food", "medicine"}
)
"""Domains of Freebase's relations that `shifted` alone asks about."""
METAQA_SHIFTED = frozenset({"language", "tags"})
"""What MetaQA's `shifted` questions ask for, and no others: relations and wordings that train does not have."""
GENERATED = ("generated", "freebase")
"""Sources whose questions are generated."""


def files(source: str, root: str | None) -> list[Path]:
    """Return the files that decide a source's graph.

    Raises:
        ConfigurationError: the source needs `data.root`.
    """
    if source == "generated":
        return list(SOURCES)
    folder, here = p.folder(root, source), Path(__file__).parent
    code = (here / "published.py", here / "layouts.py", here / "graph.py")
    if source == "metaqa":
        return [layouts.metaqa_facts_file(folder), *code]
    if source == "agentbench":
        return [layouts.roles_file(folder), *code]
    packed = (folder / name for name in (p.NAMES, p.NUMBERS, p.REVERSE))
    return [*layouts.triple_files(folder), layouts.roles_file(folder), *packed, *code]


def fingerprint(source: str, root: str | None) -> str:
    """Return the fingerprint of what a source's store is built from, and of what builds it.

    Raises:
        DataError: a file is missing.
    """
    digest = hashlib.sha256(pyoxigraph.__version__.encode())
    for file in files(source, root):
        try:
            digest.update(hashlib.sha256(file.read_bytes()).digest())
        except OSError as error:
            raise DataError(
                f"{file}: not readable ({error}); data.root must hold knowledgegraph/{file.name}"
            ) from error
    return digest.hexdigest()[:16]


def graph_of(source: str, root: str | None) -> Graph:
    """Return a source's graph; of `agentbench`, an empty one that has Freebase's schema."""
    if source == "generated":
        return embedded_graph()
    folder = p.folder(root, source)
    if source == "freebase":
        return p.freebase_graph(folder)
    return p.metaqa_graph(folder) if source == "metaqa" else Graph(p.freebase_schema(folder))


def side_of(source: str, graph: Graph, split: str) -> Side:
    """Return what a split may use of a generated source's graph."""
    if source == "generated":
        entities = {entity for entity, part in graph.parts.items() if part == split}

        def inside(program: Program, answers: frozenset[str]) -> bool:
            return path(program, graph) <= entities

        return Side(Pool(graph, entities, set(graph.schema.relations)), inside)
    shifted = split == "shifted"
    relations = {r for r in graph.schema.relations if (r.partition(".")[0] in SHIFTED_DOMAINS) == shifted}

    def hashed(program: Program, answers: frozenset[str]) -> bool:
        return all(_part(entity) == split for entity in [*topics(program), *sorted(answers)[:1]])

    return Side(Pool(graph, {e for e in graph.edges if _part(e) == split}, relations), hashed)


def published_tasks(
    environment: str,
    source: str,
    root: str | None,
    split: str,
    count: int,
    seed: int,
    test_part: str = "dev",
    dropped: Counter[str] | None = None,
) -> Iterator[Task]:
    """Yield up to `count` published questions in an order that the seed decides; see `agentbench` for its arguments.

    Raises:
        ConfigurationError: no `data.root`, or no such split.
        DataError: a file is missing or not as published.
    """
    check_split(environment, source, split, ("train", "test", *(("shifted",) if source == "metaqa" else ())))
    folder = p.folder(root, source)
    if source == "agentbench":
        left_out = Counter[str]() if dropped is None else dropped
        yield from agentbench_tasks(environment, folder, split, count, seed, test_part, left_out)
        return
    records = _metaqa(folder, split)
    random.Random(seed).shuffle(records)
    for record in records[:count]:
        try:
            yield _metaqa_task(environment, split, record)
        except (KeyError, IndexError, TypeError, AttributeError) as error:
            raise DataError(f"{folder}: a {source} record is not as published ({error!r}): {record!r:.200}") from error


def _part(entity: str) -> str:
    """Return the split of one of FB15k-237's entities: five, two and one of eight."""
    return ("train", "train", "train", "train", "train", "test", "test", "shifted")[
        int(content_hash(entity, 8), 16) % 8
    ]


def _metaqa(folder: Path, split: str) -> list[dict[str, Any]]:
    """Return the questions of a split. What `test` starts from, `shifted` does not; what either does, not `train`."""
    records: dict[str, list[dict[str, Any]]] = {"train": [], "test": [], "shifted": []}
    graph: Graph | None = None
    for record in layouts.metaqa_questions(folder):
        try:
            stops = record["type"].split("_to_")
            part = _metaqa_split(record["split"], stops)
            if part is not None and "minus_start" not in record:
                graph = graph or p.metaqa_graph(folder)
                part = part if _exact(record, stops, graph) else None
            if part is not None and not record.get("minus_start"):
                records[part].append(record)
        except (KeyError, TypeError, AttributeError) as error:
            raise DataError(f"{folder}: a metaqa record is not as published ({error!r}): {record!r:.200}") from error
    before = {"test": (), "shifted": ("test",), "train": ("test", "shifted")}[split]
    held_out = {record["entity"] for part in before for record in records[part]}
    return [record for record in records[split] if record["entity"] not in held_out]


def _metaqa_split(published: str, stops: list[str]) -> str | None:
    """Return the split of a question, or None: of MetaQA's own train set, or of no use."""
    if METAQA_SHIFTED.isdisjoint(stops):
        return {"dev": "train", "test": "test"}.get(published)
    return "shifted" if published == "test" else None


def _exact(record: dict[str, Any], stops: list[str], graph: Graph) -> bool:
    """Say whether the steps of a question lead to just its answers; some of MetaQA's are all but where they start."""
    program: Program = Entity(p.mint(record["entity"]))
    for step in pairwise(stops):
        if step not in p.METAQA_STEPS:
            return False
        program = Hop(program, p.METAQA_STEPS[step])
    return members(program, graph) == {p.mint(name) for name in record["answers"]}


def _metaqa_task(environment: str, split: str, record: dict[str, Any]) -> Task:
    stops = record["type"].split("_to_")
    topic = p.mint(record["entity"])
    actions: list[str] = []
    before = topic
    for number, step in enumerate(pairwise(stops)):
        actions += [f"get_relations({before})", f"get_neighbors({before}, {p.METAQA_STEPS[step]})"]
        before = f"#{number}"
    answer = sorted(p.mint(name) for name in record["answers"])
    payload = {"entities": {record["entity"]: topic}, "actions": actions, "answer": answer, "number": None}
    return _dataset(environment, split, record["question"], payload, record["type"])


def _dataset(environment: str, split: str, question: str, payload: dict[str, Any], family: str) -> Task:
    text = instruction(question, list(payload["entities"]))
    return Task(
        environment=environment,
        split=split,
        instruction=text,
        payload=payload,
        family=family,
        origin="dataset",
        difficulty=difficulty(payload["actions"]),
    )
