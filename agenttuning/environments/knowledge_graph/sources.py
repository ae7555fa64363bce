"""Where graphs and questions come from: a table of sources, each with its files, graph and tasks.

- `generated`: the embedded graph; splits share no entity on any way from question to answer.
- `freebase`: FB15k-237 with generated questions. It is one piece, so splits share no question entity and no answer
  set, while entities in between may be shared; `shifted` has the relations of other domains.
- `metaqa`: published questions of which the tools can give the exact answer; its test split is `test`, its
  development split is `train`. Questions about languages and tags are `shifted` (of its test split) or left out: no
  other split asks for these relations. No two splits start from the same entity.
- `agentbench`: published questions on the whole Freebase, which must stand behind `endpoint`; its training split is
  `train` and its development split `test`. Training questions that stand in the development split are left out.
"""

import hashlib
import json
import random
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyoxigraph

from agenttuning.environments.knowledge_graph import published as p
from agenttuning.environments.knowledge_graph.families import Pool
from agenttuning.environments.knowledge_graph.graph import Graph
from agenttuning.environments.knowledge_graph.plans import difficulty, parse_calls, starts
from agenttuning.environments.knowledge_graph.programs import Program, topics
from agenttuning.environments.knowledge_graph.tasks import Side, check_split, instruction, path
from agenttuning.environments.knowledge_graph.world import SOURCES, embedded_graph
from agenttuning.errors import DataError, MalformedReply
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
    code = (here / "published.py", here / "graph.py")
    if source == "metaqa":
        return [folder / p.METAQA_KB, *code]
    names = (p.ROLES,) if source == "agentbench" else (p.TRIPLES, p.NAMES, p.NUMBERS, p.ROLES, p.REVERSE)
    return [*(folder / name for name in names), *code]


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
    environment: str, source: str, root: str | None, split: str, count: int, seed: int
) -> Iterator[Task]:
    """Yield up to `count` published questions in an order that the seed decides.

    Raises:
        ConfigurationError: no `data.root`, or no such split.
        DataError: a file is missing or not as published.
    """
    check_split(environment, source, split, ("train", "test", *(("shifted",) if source == "metaqa" else ())))
    folder = p.folder(root, source)
    read = _metaqa if source == "metaqa" else _agentbench
    records = read(folder, split)
    random.Random(seed).shuffle(records)
    make = _metaqa_task if source == "metaqa" else _agentbench_task
    for record in records[:count]:
        try:
            yield make(environment, split, record)
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
    for number, line in enumerate(p.read_lines(folder / p.METAQA_QUESTIONS), start=1):
        try:
            record = json.loads(line)
            part = _metaqa_split(record["split"], record["type"].split("_to_"), record["minus_start"])
            if part is not None:
                records[part].append({**record, "entity": str(record["entity"])})
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(f"{folder / p.METAQA_QUESTIONS}:{number}: not as published ({error!r})") from error
    before = {"test": (), "shifted": ("test",), "train": ("test", "shifted")}[split]
    held_out = {record["entity"] for part in before for record in records[part]}
    return [record for record in records[split] if record["entity"] not in held_out]


def _metaqa_split(published: str, stops: list[str], minus_start: bool) -> str | None:
    """Return the split of a question, or None: of MetaQA's own train set, without an exact answer, or of no use."""
    if minus_start:
        return None
    if METAQA_SHIFTED.isdisjoint(stops):
        return {"dev": "train", "test": "test"}.get(published)
    return "shifted" if published == "test" else None


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


def _agentbench(folder: Path, split: str) -> list[dict[str, Any]]:
    """Return the questions of a split that the tools can answer; see `_playable`."""
    held_out = p.read_json(folder / p.AGENTBENCH_DEV)
    if split == "test":
        return [record for record in held_out if _playable(record)]
    known = {record.get("question") for record in held_out}
    train = p.read_json(folder / p.AGENTBENCH_TRAIN)
    return [record for record in train if _playable(record) and record["question"] not in known]


def _playable(record: dict[str, Any]) -> bool:
    """Say whether a record starts from its own entities: a few start from a type, which no tool takes."""
    try:
        return bool(record["question"]) and starts(parse_calls(record["actions"])) <= set(record["entities"].values())
    except (KeyError, AttributeError, TypeError, MalformedReply) as error:
        raise DataError(f"agentbench: a record is not as published ({error!r}): {record!r:.200}") from error


def _agentbench_task(environment: str, split: str, record: dict[str, Any]) -> Task:
    arguments = [str(answer["answer_argument"]) for answer in record["answer"]]
    counted = record["actions"][-1].startswith("count(")
    payload = {
        "entities": record["entities"],
        "actions": record["actions"],
        "answer": [] if counted else sorted(set(arguments)),
        "number": int(arguments[0]) if counted else None,
    }
    return _dataset(environment, split, record["question"], payload, record["source"])


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
