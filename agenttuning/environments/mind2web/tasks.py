"""From records to tasks: one task is one action of a recorded task, with its pool of candidates.

As in the paper, the actions before it are given as they were done, so every action is a task of its own. The pool
holds the first `top_k` candidates of the ranker in a shuffled order that depends on the action alone. A `train` action
whose right element is not among them gets it in place of the last, as Mind2Web trains; a `test` action does not, and
counts as wrong, whoever plays.
"""

import random
from collections.abc import Callable, Iterable, Iterator
from typing import Any
from xml.etree.ElementTree import tostring

from agenttuning.environments.difficulty import from_steps
from agenttuning.environments.mind2web import dom
from agenttuning.environments.mind2web.protocol import Rounds, rounds_left
from agenttuning.environments.mind2web.ranking import Ranker, candidates, order
from agenttuning.environments.mind2web.records import ActionRecord, Entry, Record, sample_id
from agenttuning.trajectory import Task

SHUFFLE = 123
"""The seed of the paper's shuffle, here joined with the action's id so that no order of reading matters."""

BLOCK = 4096
"""Tasks built before the first of them is given: the files are read once for so many."""

Fetch = Callable[[Iterable[Entry]], Iterable[tuple[Entry, Record]]]
"""Reads the records of some entries, in any order."""

PREVIOUS = 5
"""Actions before this one that are told."""


def draw(
    environment: str,
    split: str,
    entries: Iterable[Entry],
    fetch: Fetch,
    count: int,
    seed: int,
    ranker: Ranker,
    top_k: int,
    origin: str,
    max_steps: int,
) -> Iterator[Task]:
    """Yield up to `count` tasks in an order drawn from `seed`; actions without any candidate are left out.

    A task's difficulty is the number of rounds that right answers take, from 0 for one to 1 for `max_steps`; an action
    whose right element is not in its pool has none.
    """
    places = [(entry, place) for entry in entries for place in range(entry.actions)]
    random.Random(seed).shuffle(places)
    made, start = 0, 0
    while made < count and start < len(places):
        block = places[start : start + min(count - made, BLOCK)]
        start += len(block)
        wanted: dict[Entry, list[int]] = {}
        for entry, place in block:
            wanted.setdefault(entry, []).append(place)
        built: dict[tuple[Entry, int], Task] = {}
        for entry, record in fetch(wanted):
            for place in wanted[entry]:
                payload = build(record, place, ranker, top_k, required=split == "train")
                if payload is not None:
                    built[entry, place] = Task(
                        environment=environment,
                        split=split,
                        instruction=record.confirmed_task,
                        payload=payload,
                        family=record.website,
                        origin=origin,
                        difficulty=_difficulty(payload, max_steps),
                    )
        found = [built[key] for key in block if key in built]
        made += len(found)
        yield from found


def build(record: Record, place: int, ranker: Ranker, top_k: int, required: bool) -> dict[str, Any] | None:
    """Return the payload of an action, or None where it has no candidates, or no right one although `required`."""
    action = record.actions[place]
    pool = _pool(action, order(ranker(record, place), candidates(action))[:top_k], required)
    if not pool:
        return None
    key = sample_id(record, action)
    random.Random(f"{SHUFFLE}/{key}").shuffle(pool)
    root = dom.parse(action.cleaned_html, key)
    missing = [c for c in candidates(action) if c.backend_node_id in pool and c.backend_node_id not in dom.by_id(root)]
    for candidate in missing:
        root.append(dom.candidate_element(candidate.tag, candidate.attributes, candidate.backend_node_id))
    return {
        "sample": key,
        "place": place,
        "previous": list(record.action_reprs[max(place - PREVIOUS, 0) : place]),
        "page": tostring(dom.subpage(root, pool), encoding="unicode"),
        "pool": pool,
        "positives": [c.backend_node_id for c in action.pos_candidates],
        "operation": {"op": action.operation.op, "value": action.operation.value},
    }


def _pool(action: ActionRecord, ranked: list[str], required: bool) -> list[str]:
    right = [candidate.backend_node_id for candidate in action.pos_candidates]
    if not required or not set(right).isdisjoint(ranked):
        return ranked
    return [*ranked[:-1], right[0]] if right else []


def _difficulty(payload: dict[str, Any], max_steps: int) -> float | None:
    if set(payload["positives"]).isdisjoint(payload["pool"]):
        return None
    needed = rounds_left(Rounds(tuple(payload["pool"])), payload["positives"])
    return from_steps(needed, max_steps)
