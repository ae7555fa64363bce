"""A knowledge graph in memory: what stores are filled from, and where questions are drawn.

Programs are evaluated here by plain Python as well, apart from SPARQL, so that a generated question is kept only
where both agree.
"""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

from agenttuning.environments.knowledge_graph.programs import Both, Count, Entity, Hop, Most, Program

LABEL = "http://www.w3.org/2000/01/rdf-schema#label"
DOUBLE = "http://www.w3.org/2001/XMLSchema#double"


@dataclass(frozen=True)
class Schema:
    """The vocabulary: what tools list, and the types that relations lead from and to."""

    prefix: str
    """What stands before ids and relation names in IRIs."""
    relations: dict[str, tuple[str, str]]
    """Relation to its domain and range, such as `film.film.genre` to (`film.film`, `film.genre`)."""
    attributes: dict[str, str]
    """Numeric or date attribute to its domain."""

    def to_json(self) -> dict[str, object]:
        """Return the schema as JSON."""
        return {"prefix": self.prefix, "relations": self.relations, "attributes": self.attributes}


@dataclass(frozen=True)
class Phrase:
    """How a question words a relation or an attribute."""

    one: tuple[str, ...]
    """Of a relation: noun phrases with `{x}`, and `[is|are]` for words that depend on whether `{x}` is one or several.
    Of an attribute: how to say that it is the largest."""
    least: tuple[str, ...] = ()
    """Of an attribute: how to say that it is the smallest."""
    many: bool = True
    """Whether a relation usually leads to several entities."""


@dataclass
class Graph:
    """Entities with names, relations between them, and numbers."""

    schema: Schema
    names: dict[str, str] = field(default_factory=dict)
    edges: dict[str, dict[str, set[str]]] = field(default_factory=lambda: defaultdict(lambda: defaultdict(set)))
    """Entity to relation to entities."""
    incoming: dict[str, dict[str, set[str]]] = field(default_factory=lambda: defaultdict(lambda: defaultdict(set)))
    """Entity to relation to the entities that have it so."""
    values: dict[str, dict[str, set[float]]] = field(default_factory=lambda: defaultdict(lambda: defaultdict(set)))
    """Entity to attribute to its numbers."""
    identifiers: frozenset[str] = frozenset()
    """Attributes whose numbers are mere identifiers: tools list them, no question compares by them."""
    inverse: dict[str, str] = field(default_factory=dict)
    """Relation to the relation that leads back."""
    parts: dict[str, str] = field(default_factory=dict)
    """Entity to the split that alone may use it."""
    phrases: dict[str, Phrase] = field(default_factory=dict)
    """Wordings written by hand; what is not here is worded from its name."""
    nouns: dict[str, str] = field(default_factory=dict)
    """Type to what its entities are called together, where written by hand."""

    def add(self, head: str, relation: str, tail: str) -> None:
        """Add a fact and, where the relation has an inverse, the same fact the other way round."""
        self.edges[head][relation].add(tail)
        self.incoming[tail][relation].add(head)
        back = self.inverse.get(relation)
        if back is not None:
            self.edges[tail][back].add(head)
            self.incoming[head][back].add(tail)


def members(program: Program, graph: Graph) -> frozenset[str]:
    """Return the ids of a program's entities."""
    match program:
        case Entity(id=name):
            return frozenset([name])
        case Hop(of, relation):
            found: set[str] = set()
            for entity in members(of, graph):
                found |= graph.edges.get(entity, {}).get(relation, set())
            return frozenset(found)
        case Both(left, right):
            return members(left, graph) & members(right, graph)
        case Most(of, attribute, largest):
            held = {e: graph.values.get(e, {}).get(attribute, set()) for e in members(of, graph)}
            numbers = [number for values in held.values() for number in values]
            if not numbers:
                return frozenset()
            best = max(numbers) if largest else min(numbers)
            return frozenset(entity for entity, values in held.items() if best in values)
        case Count():
            raise ValueError("a number has no entities")


def ntriples(graph: Graph) -> Iterator[str]:
    """Yield the graph as lines of N-Triples, in the order of ids: names, relations, numbers."""
    prefix = graph.schema.prefix
    for entity, name in sorted(graph.names.items()):
        yield f"<{prefix}{entity}> <{LABEL}> {_text(name)} .\n"
    for head in sorted(graph.edges):
        for relation, tails in sorted(graph.edges[head].items()):
            for tail in sorted(tails):
                yield f"<{prefix}{head}> <{prefix}{relation}> <{prefix}{tail}> .\n"
    for entity in sorted(graph.values):
        for attribute, numbers in sorted(graph.values[entity].items()):
            for number in sorted(numbers):
                yield f'<{prefix}{entity}> <{prefix}{attribute}> "{number!r}"^^<{DOUBLE}> .\n'


def _text(value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\r", "\\r")
    return f'"{escaped}"@en'
