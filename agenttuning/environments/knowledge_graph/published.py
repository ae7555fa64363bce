"""Published graphs below `data.root/knowledgegraph`: FB15k-237 with numbers, MetaQA; where they lie is in `layouts`.

- FB15k-237: Freebase ids and names of relations. A relation through a mediator node, `/a/b/c./d/e/f`, is one relation
  `a.b.c..d.e.f`. The benchmark keeps one direction of each pair; where Freebase names the other one, it is added.
- MetaQA: people, films, years and so on are known by their names; their ids are made from the names. Relations get
  names and types in Freebase's form.
- AgentBench's questions come without a graph: they need an endpoint that holds Freebase. Its schema is read here.
"""

import json
from itertools import chain
from pathlib import Path
from typing import Any

from agenttuning.environments.knowledge_graph.graph import Graph, Phrase, Schema
from agenttuning.environments.knowledge_graph.layouts import (
    metaqa_facts,
    metaqa_facts_file,
    read_lines,
    roles_file,
    rows,
    triple_files,
)
from agenttuning.environments.knowledge_graph.programs import FREEBASE
from agenttuning.errors import ConfigurationError, DataError
from agenttuning.trajectory import content_hash

NAMES, NUMBERS = "fb15k237_names.tsv.xz", "fb15k237_numeric.tsv.xz"
REVERSE = "fb_reverse_properties.txt.xz"
NUMERIC = ("type.int", "type.float", "type.datetime")
"""Freebase's types whose values have an order."""
UNTYPED = {"topic_server.population_number": "location.statistical_region"}
"""Attributes that the schema file does not list and the questions use."""
IDENTIFIERS = frozenset(
    {
        "base.usnris.nris_listing.item_number",
        "biology.organism_classification.itis_tsn",
        "business.industry.naics_2007",
        "food.food.usda_equivalent",
        "location.country.calling_code",
        "location.country.iso_numeric",
        "location.fr_department.code_insee",
        "location.location.gns_ufi",
        "location.uk_statistical_location.ons_code",
        "medicine.icd_9_cm_classification.code",
    }
)
"""Attributes of FB15k-237 whose numbers only name something."""
MINTED = "urn:agenttuning:kg:"
"""Prefix of ids that are no Freebase ids."""

_METAQA = {
    "directed by": ("film.film.directed_by", "film.director", "film.director.film"),
    "written by": ("film.film.written_by", "film.writer", "film.writer.film"),
    "starred actors": ("film.film.starring", "film.actor", "film.actor.film"),
    "release year": ("film.film.release_year", "time.year", "time.year.films_released"),
    "in language": ("film.film.language", "language.human_language", "language.human_language.films"),
    "has genre": ("film.film.genre", "film.genre", "film.genre.films"),
    "has tags": ("film.film.tags", "film.tag", "film.tag.films"),
    "has imdb rating": ("film.film.imdb_rating", "film.rating", "film.rating.films"),
    "has imdb votes": ("film.film.imdb_votes", "film.votes", "film.votes.films"),
}
"""MetaQA's relation to our relation, its range, and the inverse."""
METAQA_STEPS = {
    ("movie", "director"): "film.film.directed_by",
    ("movie", "writer"): "film.film.written_by",
    ("movie", "actor"): "film.film.starring",
    ("movie", "year"): "film.film.release_year",
    ("movie", "language"): "film.film.language",
    ("movie", "genre"): "film.film.genre",
    ("movie", "tags"): "film.film.tags",
    ("movie", "imdbrating"): "film.film.imdb_rating",
    ("movie", "imdbvotes"): "film.film.imdb_votes",
    ("director", "movie"): "film.director.film",
    ("writer", "movie"): "film.writer.film",
    ("actor", "movie"): "film.actor.film",
}
"""One step of a MetaQA question type, such as `movie_to_director`, as a relation."""


def folder(root: str | None, source: str) -> Path:
    """Return the folder of the published graphs.

    Raises:
        ConfigurationError: no `data.root`.
    """
    if root is None:
        raise ConfigurationError(f"kg: source {source!r} needs data.root, the directory of published data")
    return Path(root) / "knowledgegraph"


def mint(name: str) -> str:
    """Return the id of what is known by its name alone."""
    return f"m.{content_hash(name, 10)}"


def freebase_graph(directory: Path) -> Graph:
    """Return FB15k-237 with its numbers, names and types."""
    roles, reverse = _roles(directory), _reverse(directory)
    graph = Graph(Schema(prefix=FREEBASE, relations={}, attributes={}), identifiers=IDENTIFIERS)
    for entity, name in rows(directory / NAMES, 2):
        graph.names[_id(entity)] = name
    relations: dict[str, str] = {}
    for head, path, tail in chain.from_iterable(rows(file, 3) for file in triple_files(directory)):
        if path not in relations:
            relations[path] = _declare(graph, [_id(hop) for hop in path.split("./")], roles, reverse)
        graph.add(_id(head), relations[path], _id(tail))
    for entity, attribute, number in rows(directory / NUMBERS, 3):
        graph.schema.attributes[attribute] = roles.get(attribute, (_owner(attribute), ""))[0]
        graph.values[_id(entity)][attribute].add(float(number))
    return graph


def freebase_schema(directory: Path) -> Schema:
    """Return the vocabulary of the whole Freebase: its relations between entities, and its ordered attributes."""
    roles = _roles(directory)
    relations = {name: role for name, role in roles.items() if not role[1].startswith("type.")}
    attributes = {name: role[0] for name, role in roles.items() if role[1] in NUMERIC}
    return Schema(prefix=FREEBASE, relations=relations, attributes=attributes | UNTYPED)


def metaqa_graph(directory: Path) -> Graph:
    """Return MetaQA's film graph with both directions of every relation."""
    relations: dict[str, tuple[str, str]] = {}
    inverse: dict[str, str] = {}
    for relation, kind, back in _METAQA.values():
        relations |= {relation: ("film.film", kind), back: (kind, "film.film")}
        inverse |= {relation: back, back: relation}
    graph = Graph(Schema(prefix=MINTED, relations=relations, attributes={}), inverse=inverse)
    ids: dict[str, str] = {}
    for head, relation, tail in metaqa_facts(directory):
        if relation not in _METAQA:
            raise DataError(
                f"{metaqa_facts_file(directory)}: unknown relation {relation!r}; known: {', '.join(_METAQA)}"
            )
        for name in (head, tail):
            if name not in ids:
                ids[name] = mint(name)
                graph.names[ids[name]] = name
        graph.add(ids[head], _METAQA[relation][0], ids[tail])
    return graph


def read_json(path: Path) -> list[dict[str, Any]]:
    """Return the records of a JSON list.

    Raises:
        DataError: missing, torn, or no list of objects.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file; data.root must hold knowledgegraph/{path.name}") from error
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: not readable as JSON ({error}); fetch it again") from error
    if not isinstance(found, list) or not found or not all(isinstance(record, dict) for record in found):
        raise DataError(f"{path}: must be a list of records")
    return found


def _declare(graph: Graph, hops: list[str], roles: dict[str, tuple[str, str]], reverse: dict[str, str]) -> str:
    """Give a relation, and its inverse where it has one, domain and range; return its name."""
    relation = "..".join(hops)
    first, last = roles.get(hops[0]), roles.get(hops[-1])
    backward = [reverse[hop] for hop in reversed(hops) if hop in reverse]
    two_ways = len(backward) == len(hops)
    guess = _owner(backward[0]) if two_ways else "common.topic"
    domain, kind = first[0] if first else _owner(hops[0]), last[1] if last else guess
    graph.schema.relations[relation] = (domain, kind)
    if two_ways:
        back = "..".join(backward)
        graph.schema.relations.setdefault(back, (kind, domain))
        graph.inverse |= {relation: back, back: relation}
    graph.phrases.setdefault(relation, Phrase((), many=len(hops) > 1 or hops[0].endswith("s")))
    return relation


def _owner(name: str) -> str:
    return name.rpartition(".")[0]


def _id(path: str) -> str:
    return path.strip("/").replace("/", ".")


def _roles(directory: Path) -> dict[str, tuple[str, str]]:
    """Return domain and range of Freebase's relations, without the file's one line that is two run together."""
    roles = {}
    for line in read_lines(roles_file(directory)):
        fields = line.split()
        if len(fields) == 3:
            roles[fields[1]] = (fields[0], fields[2])
    return roles


def _reverse(directory: Path) -> dict[str, str]:
    pairs = [line.split() for line in read_lines(directory / REVERSE)]
    found = {pair[1]: pair[0] for pair in pairs if len(pair) == 2}
    return found | {pair[0]: pair[1] for pair in pairs if len(pair) == 2}
