"""The invented part of the embedded graph: films and companies for train and test, space and research for `shifted`.

`domains.json` says which kinds of entities a domain has, how they are named and numbered, and how they are linked. Its
parts for train and test are drawn apart, so that no link leads from one to the other.
"""

import random
import re
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from agenttuning.environments.knowledge_graph.graph import Graph, Phrase
from agenttuning.trajectory import content_hash

DOMAINS = Path(__file__).with_name("domains.json")
SEED = 11
"""Decides what is drawn."""
_FIELD = re.compile(r"\{(\w+)(?::(\d+))?(?::(\d+))?\}")
Pools = dict[str, list[str]]


class Spec(BaseModel):
    """Base of what `domains.json` holds."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Number(Spec):
    """An attribute of a kind: where its values lie, and how a question says that one is the largest or smallest."""

    name: str
    low: float
    high: float
    digits: int
    most: tuple[str, ...]
    least: tuple[str, ...]


class Kind(Spec):
    """A kind of entities, together called `nouns`; the test part has half of `count`."""

    type: str
    nouns: str
    names: str | tuple[str, ...]
    """A pattern (see `name_from`), or all names there are."""
    count: int
    numbers: tuple[Number, ...]


class Link(Spec):
    """A relation and the one that leads back; a head has from `fewest` to `most` tails."""

    name: str
    head: str
    tail: str
    back: str
    fewest: int
    most: int
    forth: tuple[str, ...]
    many: bool
    backward: tuple[str, ...]


class Domain(Spec):
    """Kinds and links of one subject."""

    name: str
    shifted: bool
    kinds: tuple[Kind, ...]
    links: tuple[Link, ...]


class Domains(Spec):
    """All domains, and the words that names are made of."""

    pools: Pools
    domains: tuple[Domain, ...]


def invent(graph: Graph) -> None:
    """Add all domains to a graph: the vocabulary, and entities of their splits."""
    found = Domains.model_validate_json(DOMAINS.read_bytes())
    for domain in found.domains:
        _declare(graph, domain)
        taken = set(graph.names.values())
        for part in ("shifted",) if domain.shifted else ("train", "test"):
            rng = random.Random(f"{SEED}/{domain.name}/{part}")
            _draw(graph, domain, part, rng, found.pools, taken)


def entity_id(kind: str, key: str) -> str:
    """Return the id of an entity: the same for the same kind and key."""
    return f"m.{content_hash([kind, key], 10)}"


def name_from(pattern: str, pools: Pools, rng: random.Random) -> str:
    """Return a name: `{pool}` is a word of it, `{word:2}` two syllables, `{int:10:99}` a number from 10 to 99."""

    def one(field: re.Match[str]) -> str:
        name, first, second = field.groups()
        if name == "word":
            return "".join(rng.choice(pools["syllable"]) for _ in range(int(first))).capitalize()
        if name == "int":
            return str(rng.randint(int(first), int(second)))
        return rng.choice(pools[name])

    return _FIELD.sub(one, pattern)


def _declare(graph: Graph, domain: Domain) -> None:
    for link in domain.links:
        graph.schema.relations.update({link.name: (link.head, link.tail), link.back: (link.tail, link.head)})
        graph.inverse |= {link.name: link.back, link.back: link.name}
        graph.phrases |= {link.name: Phrase(link.forth, many=link.many), link.back: Phrase(link.backward)}
    for kind in domain.kinds:
        graph.nouns[kind.type] = kind.nouns
        for number in kind.numbers:
            graph.schema.attributes[number.name] = kind.type
            graph.phrases[number.name] = Phrase(number.most, number.least)


def _draw(graph: Graph, domain: Domain, part: str, rng: random.Random, pools: Pools, taken: set[str]) -> None:
    """Draw one part of a domain; a name that is taken is drawn again."""
    entities: dict[str, list[str]] = {}
    for kind in domain.kinds:
        entities[kind.type] = []
        for name in _names(kind, part, rng, pools, taken):
            entity = entity_id(kind.type, name)
            entities[kind.type].append(entity)
            graph.names[entity], graph.parts[entity] = name, part
            for number in kind.numbers:
                value = round(rng.uniform(number.low, number.high), number.digits)
                graph.values[entity][number.name].add(float(value))
    for link in domain.links:
        tails = entities[link.tail]
        for head in entities[link.head]:
            for tail in rng.sample(tails, rng.randint(link.fewest, link.most)):
                if tail != head:
                    graph.add(head, link.name, tail)


def _names(kind: Kind, part: str, rng: random.Random, pools: Pools, taken: set[str]) -> list[str]:
    count = kind.count // 2 if part == "test" else kind.count
    if isinstance(kind.names, tuple):
        return list(kind.names[-count:] if part == "test" else kind.names[:count])
    names: list[str] = []
    while len(names) < count:
        name = name_from(kind.names, pools, rng)
        if name not in taken:
            taken.add(name)
            names.append(name)
    return names
