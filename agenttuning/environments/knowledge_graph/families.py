"""The families of generated questions: each draws a program from a graph, or nothing where the draw does not fit.

A draw starts from a relation, not from an entity, so that frequent relations do not crowd out the rare ones. What a
program must be to make a fair question is asked in `fair`.
"""

import random
from collections import defaultdict
from collections.abc import Callable

from agenttuning.environments.knowledge_graph.graph import Graph, members
from agenttuning.environments.knowledge_graph.programs import Both, Count, Entity, Hop, Most, Program, inner

MOST_ANSWERS = 20
MOST_COUNTED = 100
MOST_BETWEEN = 300
"""Most entities of a program inside another."""
MOST_TIED = 3
"""Most entities that may share the largest or smallest value."""


class Pool:
    """What one split may draw from: its entities, and the relations that lead from them.

    Args:
        graph: the whole graph.
        entities: those that a program may start from.
        relations: those that it may follow.
    """

    def __init__(self, graph: Graph, entities: set[str], relations: set[str]) -> None:
        self.graph = graph
        self.relations = relations
        heads: dict[str, list[str]] = defaultdict(list)
        for head in sorted(entities):
            for relation in graph.edges.get(head, {}):
                if relation in relations:
                    heads[relation].append(head)
        self._heads = dict(sorted(heads.items()))
        self._names = list(self._heads)
        self.entities = entities

    def start(self, rng: random.Random) -> Hop:
        """Draw one hop."""
        relation = rng.choice(self._names)
        return Hop(Entity(rng.choice(self._heads[relation])), relation)

    def onward(self, of: Program, rng: random.Random) -> Hop | None:
        """Draw a hop from what a program gives."""
        found = sorted(members(of, self.graph))
        if not found:
            return None
        known = sorted(self.relations & self.graph.edges.get(rng.choice(found), {}).keys())
        return Hop(of, rng.choice(known)) if known else None

    def other(self, of: Program, rng: random.Random) -> Hop | None:
        """Draw another hop that gives one of the entities of `of`."""
        found = sorted(members(of, self.graph))
        if not found:
            return None
        ways = [
            (relation, head)
            for relation, heads in sorted(self.graph.incoming.get(rng.choice(found), {}).items())
            if relation in self.relations and self.kind(of) == self.graph.schema.relations[relation][1]
            for head in sorted(heads & self.entities)
        ]
        if not ways:
            return None
        relation, head = rng.choice(ways)
        return Hop(Entity(head), relation)

    def extreme(self, of: Program, rng: random.Random, largest: bool) -> Most | None:
        """Draw an attribute of what a program gives."""
        found = members(of, self.graph)
        held = {name for entity in found for name in self.graph.values.get(entity, {})}
        known = sorted(held - self.graph.identifiers)
        return Most(of, rng.choice(known), largest) if known else None

    def kind(self, program: Program) -> str:
        """Return the type of a program's entities."""
        match program:
            case Hop(relation=relation):
                return self.graph.schema.relations[relation][1]
            case Both(left=of) | Most(of=of):
                return self.kind(of)
        raise ValueError(f"{program!r} has no type")


Family = Callable[[Pool, random.Random], Program | None]


def one_hop(pool: Pool, rng: random.Random) -> Program | None:
    """What an entity has as a relation."""
    return pool.start(rng)


def two_hop(pool: Pool, rng: random.Random) -> Program | None:
    """Two relations, one after the other."""
    return pool.onward(pool.start(rng), rng)


def three_hop(pool: Pool, rng: random.Random) -> Program | None:
    """Three relations, one after the other."""
    first = two_hop(pool, rng)
    return first and pool.onward(first, rng)


def intersection(pool: Pool, rng: random.Random) -> Program | None:
    """What two hops share."""
    left = pool.start(rng)
    right = pool.other(left, rng)
    return right and Both(left, right)


def intersection_two_hop(pool: Pool, rng: random.Random) -> Program | None:
    """What two hops in a row and another hop share."""
    left = two_hop(pool, rng)
    right = left and pool.other(left, rng)
    return Both(left, right) if left and right else None


def intersection_hop(pool: Pool, rng: random.Random) -> Program | None:
    """A relation of what two hops share."""
    both = intersection(pool, rng)
    return both and pool.onward(both, rng)


def count(pool: Pool, rng: random.Random) -> Program | None:
    """How many entities one or two hops give."""
    of = pool.start(rng) if rng.random() < 0.5 else two_hop(pool, rng)
    return of and Count(of)


def count_intersection(pool: Pool, rng: random.Random) -> Program | None:
    """How many entities two hops share."""
    both = intersection(pool, rng)
    return both and Count(both)


def argmax(pool: Pool, rng: random.Random) -> Program | None:
    """The entity with the largest value among what a hop gives."""
    return pool.extreme(pool.start(rng), rng, largest=True)


def argmin(pool: Pool, rng: random.Random) -> Program | None:
    """The entity with the smallest value among what a hop gives."""
    return pool.extreme(pool.start(rng), rng, largest=False)


def extreme_two_hop(pool: Pool, rng: random.Random) -> Program | None:
    """The entity with the largest or smallest value among what two hops give."""
    of = two_hop(pool, rng)
    return of and pool.extreme(of, rng, rng.random() < 0.5)


def extreme_hop(pool: Pool, rng: random.Random) -> Program | None:
    """A relation of the entity with the largest or smallest value."""
    most = pool.extreme(pool.start(rng), rng, rng.random() < 0.5)
    return most and pool.onward(most, rng)


FAMILIES: dict[str, Family] = {
    function.__name__: function
    for function in (
        *(one_hop, two_hop, three_hop, intersection, intersection_two_hop, intersection_hop),
        *(count, count_intersection, argmax, argmin, extreme_two_hop, extreme_hop),
    )
}


def fair(program: Program, graph: Graph) -> bool:
    """Say whether a program makes a question worth asking.

    It has 1 to `MOST_ANSWERS` answers (or counts 2 to `MOST_COUNTED`); no hop comes back to an entity that it starts
    from or to what another hop already gave; each side of an intersection and each choice of an extreme rules something
    out.
    """
    parts = list(inner(program))
    starts = [part.id for part in parts if isinstance(part, Entity)]
    given = [members(part, graph) for part in parts if isinstance(part, Hop)]
    if len(set(starts)) < len(starts) or len(set(given)) < len(given) or any(set(starts) & set(g) for g in given):
        return False
    for part in parts:
        if isinstance(part, Both) and not _both_rule_out(part, graph):
            return False
        if isinstance(part, Most) and not _chooses(part, graph):
            return False
    if isinstance(program, Count):
        return 2 <= len(members(program.of, graph)) <= MOST_COUNTED
    answers = members(program, graph)
    return 1 <= len(answers) <= MOST_ANSWERS and all(len(members(part, graph)) <= MOST_BETWEEN for part in parts[1:])


def _both_rule_out(both: Both, graph: Graph) -> bool:
    left, right = members(both.left, graph), members(both.right, graph)
    return bool(left - right) and bool(right - left)


def _chooses(most: Most, graph: Graph) -> bool:
    candidates, best = members(most.of, graph), members(most, graph)
    return 1 <= len(best) <= min(MOST_TIED, len(candidates) - 1) and len(candidates) <= MOST_BETWEEN
