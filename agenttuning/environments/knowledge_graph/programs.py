"""What a variable holds: a program over the graph, not a result; and the SPARQL that runs it.

A program is a tree. Its leaves are entities; `Hop` follows a relation, `Both` keeps what two programs share, `Most`
keeps those with the largest or smallest value of an attribute, `Count` is the number of a program's entities. Every
level of the SPARQL is a sub-query with distinct results, so that a chain of hops costs what its sets cost, not what
its paths cost.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count

from agenttuning.errors import DataError

FREEBASE = "http://rdf.freebase.com/ns/"
"""Prefix of Freebase's entities and relations in its RDF dump, and so in every store that holds it."""
_NO_IRI = re.compile(r"[\x00-\x20<>\"{}|^`\\]")


@dataclass(frozen=True)
class Entity:
    """One entity by its id, such as `m.0h7h6`."""

    id: str


@dataclass(frozen=True)
class Hop:
    """What the entities of `of` have as `relation`."""

    of: "Program"
    relation: str


@dataclass(frozen=True)
class Both:
    """What `left` and `right` share."""

    left: "Program"
    right: "Program"


@dataclass(frozen=True)
class Most:
    """Those of `of` with the largest (or smallest) value of `attribute`; several where they are equal."""

    of: "Program"
    attribute: str
    largest: bool


@dataclass(frozen=True)
class Count:
    """The number of entities of `of`."""

    of: "Program"


Program = Entity | Hop | Both | Most | Count


def inner(program: Program) -> Iterator[Program]:
    """Yield the program and all programs inside it, outermost first."""
    yield program
    match program:
        case Hop(of=of) | Most(of=of) | Count(of=of):
            yield from inner(of)
        case Both(left, right):
            yield from inner(left)
            yield from inner(right)


def topics(program: Program) -> list[str]:
    """Return the ids of the entities that the program starts from, each once, in order."""
    return list(dict.fromkeys(part.id for part in inner(program) if isinstance(part, Entity)))


def shared(left: Program, right: Program) -> Program:
    """Return the program of what two programs share; what both ask for is asked once.

    Without that a variable that is intersected with itself again and again would double its query each time.
    """
    known = set(_sides(left))
    for side in _sides(right):
        if side not in known:
            left = Both(left, side)
    return left


def _sides(program: Program) -> Iterator[Program]:
    if isinstance(program, Both):
        yield from _sides(program.left)
        yield from _sides(program.right)
    else:
        yield program


def members_query(program: Program, prefix: str, limit: int) -> str:
    """Return the query for the first `limit` entities of a program, in no particular order.

    Args:
        program: anything but `Count`.
        prefix: what stands before ids and relation names in the store's IRIs.
        limit: most rows.
    """
    return f"SELECT DISTINCT ?x WHERE {{ {_Writer(prefix).pattern(program, 'x')} }} LIMIT {limit}"


def count_query(program: Program, prefix: str) -> str:
    """Return the query for the number of a program's entities."""
    return f"SELECT (COUNT(DISTINCT ?x) AS ?n) WHERE {{ {_Writer(prefix).pattern(program, 'x')} }}"


def outgoing_query(program: Program, prefix: str) -> str:
    """Return the query for the relations and attributes that some entity of a program has."""
    return f"SELECT DISTINCT ?r WHERE {{ {_Writer(prefix).pattern(program, 'x')} ?x ?r ?y }}"


class _Writer:
    """Writes graph patterns with variable names that are not used twice."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self._numbers = count()

    def pattern(self, program: Program, x: str) -> str:
        """Return a graph pattern that binds `?x` to the program's entities."""
        match program:
            case Entity(id=name):
                return f"VALUES ?{x} {{ {self._iri(name)} }}"
            case Hop(of, relation):
                y = self._fresh()
                before = f"{self._iri(of.id)}" if isinstance(of, Entity) else f"?{y}"
                start = "" if isinstance(of, Entity) else self.pattern(of, y)
                return self._distinct(x, f"{start} {before} {self._iri(relation)} ?{x} .")
            case Both(left, right):
                return f"{self.pattern(left, x)} {self.pattern(right, x)}"
            case Most(of, attribute, largest):
                y, v, w, m = (self._fresh() for _ in range(4))
                function, a = ("MAX" if largest else "MIN"), self._iri(attribute)
                extreme = f"{{ SELECT ({function}(?{w}) AS ?{m}) WHERE {{ {self.pattern(of, y)} ?{y} {a} ?{w} . }} }}"
                return self._distinct(x, f"{self.pattern(of, x)} ?{x} {a} ?{v} . {extreme} FILTER(?{v} = ?{m})")
            case Count():
                raise ValueError("a number has no entities")

    def _distinct(self, x: str, body: str) -> str:
        return f"{{ SELECT DISTINCT ?{x} WHERE {{ {body} }} }}"

    def _fresh(self) -> str:
        return f"v{next(self._numbers)}"

    def _iri(self, name: str) -> str:
        if _NO_IRI.search(name):
            raise DataError(f"knowledge graph: {name!r} is no id; ids and relations have no spaces, quotes or brackets")
        return f"<{self._prefix}{name}>"
