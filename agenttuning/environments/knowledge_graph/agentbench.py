"""AgentBench's questions on the whole Freebase: which of them these tools can play, and their tasks.

A record is left out where no Freebase could make its gold program run: it starts from a type, it names a relation or
an attribute that the schema does not have, or it intersects what the schema says are different types. What is left
out is counted by its reason.
"""

import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from agenttuning.environments.knowledge_graph.graph import Schema
from agenttuning.environments.knowledge_graph.layouts import agentbench_file
from agenttuning.environments.knowledge_graph.plans import difficulty, parse_calls, starts
from agenttuning.environments.knowledge_graph.published import freebase_schema, read_json
from agenttuning.environments.knowledge_graph.tasks import instruction
from agenttuning.environments.knowledge_graph.tools import NUMBER
from agenttuning.errors import DataError, MalformedReply
from agenttuning.trajectory import Action, Task

Record = dict[str, Any]
HELD_OUT = "it stands in a file for evaluation"


def agentbench_tasks(
    environment: str, folder: Path, split: str, count: int, seed: int, test_part: str, dropped: Counter[str]
) -> Iterator[Task]:
    """Yield up to `count` tasks: `train` of the training file, `test` of the development or the standard file.

    Args:
        environment: the registered name that the tasks carry.
        folder: `knowledgegraph` below the data root.
        split: `train` or `test`.
        count: how many.
        seed: decides which and their order.
        test_part: `dev` or `std`, the file of `test`.
        dropped: records that make no task are counted here, by reason.

    Raises:
        DataError: a file is missing or not as published.
    """
    part = "train" if split == "train" else test_part
    # The one that `test` is drawn from must be there; the other one is heeded where it is.
    held = [part for part in ("dev", "std") if part == test_part or agentbench_file(folder, part).is_file()]
    known = (
        {r.get("question") for p in held for r in read_json(agentbench_file(folder, p))} if part == "train" else set()
    )
    schema, kept = freebase_schema(folder), []
    for record in read_json(agentbench_file(folder, part)):
        try:
            reason = HELD_OUT if record["question"] in known else unplayable(record, schema)
            made = _task(environment, split, record) if reason is None else None
        except (KeyError, IndexError, AttributeError, TypeError, ValueError, MalformedReply) as error:
            raise DataError(
                f"{folder}: an agentbench record is not as published ({error!r}): {record!r:.200}"
            ) from error
        if made is None:
            dropped[str(reason)] += 1
        else:
            kept.append(made)
    random.Random(seed).shuffle(kept)
    yield from kept[:count]


def unplayable(record: Record, schema: Schema) -> str | None:
    """Return why no Freebase lets the tools carry out a record's program, or None."""
    actions = parse_calls(record["actions"])
    if not starts(actions) <= set(record["entities"].values()):
        return "it starts from a type"
    kinds: list[str] = []
    for action in actions:
        kind = _kind(action, kinds, schema)
        if kind is not None and kind not in _REASONS:
            kinds.append(kind)
        elif kind is not None:
            return kind
    return None


NO_RELATION, NO_ATTRIBUTE, TYPES = _REASONS = (
    "it uses a relation that the schema does not have",
    "it uses an attribute that the schema does not have",
    "it intersects different types",
)


def _kind(action: Action, kinds: list[str], schema: Schema) -> str | None:
    """Return the type of the variable that a call makes, None where it makes none, or a reason of `_REASONS`."""
    if action.name == "get_neighbors":
        relation = action.arguments["relation"]
        return schema.relations[relation][1] if relation in schema.relations else NO_RELATION
    if action.name == "intersection":
        left, right = (kinds[int(name.removeprefix("#"))] for name in action.arguments.values())
        return left if left == right != NUMBER else TYPES
    if action.name in ("argmax", "argmin"):
        known = action.arguments["attribute"] in schema.attributes
        return kinds[int(action.arguments["variable"].removeprefix("#"))] if known else NO_ATTRIBUTE
    return NUMBER if action.name == "count" else None


def _task(environment: str, split: str, record: Record) -> Task:
    arguments = [str(answer["answer_argument"]) for answer in record["answer"]]
    counted = record["actions"][-1].startswith("count(")
    return Task(
        environment=environment,
        split=split,
        instruction=instruction(record["question"], list(record["entities"])),
        payload={
            "entities": record["entities"],
            "actions": record["actions"],
            "answer": [] if counted else sorted(set(arguments)),
            "number": int(arguments[0]) if counted else None,
        },
        family=record["source"],
        origin="dataset",
        difficulty=difficulty(record["actions"]),
    )
