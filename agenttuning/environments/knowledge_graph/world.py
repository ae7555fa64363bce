"""The embedded graph: the real geography of the extract beside this file, and invented films, companies and so on.

Every entity belongs to one split. Train has the invented train parts and the geography of Africa, Europe and the
Americas; test has the invented test parts, Asia and Oceania; `shifted` has domains of its own. A language or currency
of both sides belongs to none and is used in no question.
"""

import json
import lzma
from pathlib import Path
from typing import Any

from agenttuning.environments.knowledge_graph.domains import DOMAINS, entity_id, invent
from agenttuning.environments.knowledge_graph.graph import Graph, Phrase, Schema
from agenttuning.environments.knowledge_graph.published import MINTED
from agenttuning.errors import DataError

HERE = Path(__file__).parent
GEOGRAPHY = HERE / "geography.json.xz"
WORDS = HERE / "geography_words.json"
SOURCES = (GEOGRAPHY, WORDS, DOMAINS, HERE / "domains.py", HERE / "world.py", HERE / "graph.py")
"""The files that decide the graph: its fingerprint is theirs."""
TEST_CONTINENTS = ("AS", "OC")


def embedded_graph() -> Graph:
    """Return the embedded graph.

    Raises:
        DataError: the extract is torn.
    """
    graph = Graph(Schema(prefix=MINTED, relations={}, attributes={}))
    try:
        words = json.loads(WORDS.read_text(encoding="utf-8"))
        found = json.loads(lzma.decompress(GEOGRAPHY.read_bytes()))
    except (OSError, ValueError, lzma.LZMAError) as error:
        raise DataError(f"{GEOGRAPHY}: not readable ({error}); install the package again") from error
    _declare(graph, words)
    _Geography(graph, found).add_all()
    invent(graph)
    return graph


def _declare(graph: Graph, words: dict[str, Any]) -> None:
    """Add geography's vocabulary."""
    for row in words["relations"]:
        name, back = row["name"], row["back"]
        graph.schema.relations.update({name: (row["head"], row["tail"]), back: (row["tail"], row["head"])})
        graph.inverse |= {name: back, back: name}
        graph.phrases[back] = Phrase(tuple(row["backward"]), many=row["many_back"])
        graph.phrases[name] = Phrase(tuple(row["forth"]), many=row["many"])
    for row in words["numbers"]:
        for attribute in row["names"]:
            graph.schema.attributes[attribute] = attribute.rpartition(".")[0]
            graph.phrases[attribute] = Phrase(tuple(row["most"]), tuple(row["least"]))
    graph.nouns |= words["nouns"]


class _Geography:
    """Adds the extract's facts to a graph and notes which split each entity belongs to."""

    def __init__(self, graph: Graph, found: dict[str, Any]) -> None:
        self._graph, self._found = graph, found
        self._countries = {row["code"]: row for row in found["countries"]}
        self._cities: list[str] = []

    def add_all(self) -> None:
        for index, (name, code, population, latitude, longitude, zone) in enumerate(self._found["cities"]):
            city = self._add("location.city", f"{code}/{index}", name, self._side(code))
            self._cities.append(city)
            self._number(city, "location.city", population=population, latitude=latitude, longitude=longitude)
            self._graph.add(self._country(code), "location.country.cities", city)
            time_zone = self._add("time.time_zone", zone, zone, self._side(code))
            self._graph.add(city, "location.city.time_zone", time_zone)
        for name, index, elevation, latitude, longitude in self._found["airports"]:
            city = self._cities[index]
            airport = self._add("aviation.airport", f"{index}/{name}", name, self._graph.parts[city])
            self._graph.add(city, "location.city.airports", airport)
            self._number(airport, "aviation.airport", elevation=elevation, latitude=latitude, longitude=longitude)
        for code, row in self._countries.items():
            self._add_country(code, row)

    def _add_country(self, code: str, row: dict[str, Any]) -> None:
        country, side = self._country(code), self._side(code)
        self._number(country, "location.country", population=row["population"], area=row["area"])
        continent = self._found["continents"][row["continent"]]
        facts = [("continent", "location.continent", continent, continent)]
        if row["currency"]:
            facts.append(("currency", "finance.currency", row["currency"], f"{row['currency']} (currency)"))
        facts += [("languages", "language.human_language", name, f"{name} (language)") for name in row["languages"]]
        for relation, kind, key, name in facts:
            self._graph.add(country, f"location.country.{relation}", self._add(kind, key, name, side))
        for neighbour in row["neighbours"]:
            self._graph.add(country, "location.country.neighbours", self._country(neighbour))
        if row["capital"] is not None:
            self._graph.add(country, "location.country.capital", self._cities[row["capital"]])

    def _country(self, code: str) -> str:
        return self._add("location.country", code, self._countries[code]["name"], self._side(code))

    def _side(self, code: str) -> str:
        return "test" if self._countries[code]["continent"] in TEST_CONTINENTS else "train"

    def _add(self, kind: str, key: str, name: str, side: str) -> str:
        entity = entity_id(kind, key)
        self._graph.names[entity] = name
        if self._graph.parts.setdefault(entity, side) != side:
            self._graph.parts[entity] = "none"
        return entity

    def _number(self, entity: str, kind: str, **numbers: float) -> None:
        for name, value in numbers.items():
            self._graph.values[entity][f"{kind}.{name}"].add(float(value))
