"""The schemas that tasks are made of: one record per domain, for train and test, and others for `shifted`.

A domain is a table of things: a unique key first, then text columns with few values and number columns with
different values. Some have a parent table, to which each thing refers by number. An alias is the word a person might
use for a column or a table where the database has another.
"""

from dataclasses import dataclass

from agenttuning.environments.database.pools import CITIES, COUNTRIES, GENRES
from agenttuning.environments.database.tables import Value


@dataclass(frozen=True)
class Column:
    """A text column with its values, or a number column with its range (low, high, step)."""

    name: str
    values: tuple[str, ...] | range
    alias: str = ""

    @property
    def numeric(self) -> bool:
        """Whether it holds numbers."""
        return isinstance(self.values, range)

    @property
    def pool(self) -> list[Value]:
        """All values it may hold."""
        return list(self.values)


@dataclass(frozen=True)
class Parent:
    """A table that a domain's rows refer to through the column `<noun>_id`."""

    table: str
    noun: str
    names: str
    column: Column

    @property
    def reference(self) -> str:
        """Name of the referring column."""
        return f"{self.noun}_id"


@dataclass(frozen=True)
class Domain:
    """A table of things named `noun`, with the unique column `key` filled from the pool `names`."""

    table: str
    noun: str
    key: str
    names: str
    columns: tuple[Column, ...]
    alias: str
    parent: Parent | None = None


def _text(name: str, values: str | tuple[str, ...], alias: str = "") -> Column:
    return Column(name, tuple(values.split()) if isinstance(values, str) else values, alias)


def _number(name: str, low: int, high: int, step: int = 1, alias: str = "") -> Column:
    return Column(name, range(low, high, step), alias)


_CITY = _text("city", CITIES, "town")
_COUNTRY = _text("country", COUNTRIES, "nation")
_GENRE = _text("genre", GENRES, "category")
_YEAR = _number("year", 1921, 2023, alias="date")

DOMAINS: tuple[Domain, ...] = (
    Domain(
        "employees",
        "employee",
        "name",
        "person",
        (
            _CITY,
            _text("role", "cook driver clerk nurse guard editor", "job"),
            _number("salary", 2100, 6900, 50, "pay"),
            _number("age", 21, 66),
        ),
        "staff",
        Parent("departments", "department", "place", _number("floor", 1, 40)),
    ),
    Domain(
        "books",
        "book",
        "title",
        "title",
        (_GENRE, _text("language", "French German Arabic Polish Hindi"), _number("pages", 90, 700, 3, "length"), _YEAR),
        "volumes",
        Parent("authors", "author", "person", _COUNTRY),
    ),
    Domain(
        "films",
        "film",
        "title",
        "title",
        (_GENRE, _text("director", "Abbott Bianchi Castro Duval Engel", "maker"), _number("minutes", 72, 190), _YEAR),
        "movies",
        Parent("studios", "studio", "brand", _CITY),
    ),
    Domain(
        "parks",
        "park",
        "name",
        "place",
        (_COUNTRY, _number("area", 120, 9000, 20, "size"), _number("visitors", 4000, 90000, 500, "guests")),
        "reserves",
    ),
    Domain(
        "flights",
        "flight",
        "code",
        "code",
        (
            _text("destination", CITIES, "goal"),
            _text("status", "boarding delayed landed cancelled", "state"),
            _number("price", 60, 900, 5, "cost"),
            _number("seats", 40, 300, alias="places"),
        ),
        "trips",
        Parent("airlines", "airline", "brand", _COUNTRY),
    ),
    Domain(
        "recipes",
        "recipe",
        "title",
        "dish",
        (
            _text("cuisine", "Thai Greek Indian Mexican Korean", "kitchen"),
            _text("level", "easy medium hard", "difficulty"),
            _number("minutes", 10, 180, 5, "time"),
            _number("calories", 150, 950, 10, "energy"),
        ),
        "dishes",
        Parent("cooks", "cook", "person", _CITY),
    ),
    Domain(
        "students",
        "student",
        "name",
        "person",
        (
            _text("subject", "physics biology music law chemistry", "course"),
            _number("score", 31, 100, alias="points"),
            _number("age", 15, 40),
        ),
        "pupils",
        Parent("schools", "school", "place", _CITY),
    ),
    Domain(
        "songs",
        "song",
        "title",
        "title",
        (
            _text("style", "jazz rock folk blues pop", "type"),
            _number("seconds", 90, 420, alias="length"),
            _number("plays", 1000, 90000, 100, "streams"),
        ),
        "tracks",
        Parent("bands", "band", "brand", _COUNTRY),
    ),
    Domain(
        "cars",
        "car",
        "model",
        "brand",
        (
            _text("paint", "red blue black white green", "colour"),
            _text("fuel", "diesel petrol hybrid electric", "drive"),
            _number("price", 9000, 60000, 250, "cost"),
            _number("power", 60, 400, alias="strength"),
        ),
        "vehicles",
    ),
    Domain(
        "paintings",
        "painting",
        "title",
        "title",
        (_text("style", "cubist baroque modern gothic", "school"), _number("price", 500, 90000, 100, "value"), _YEAR),
        "pictures",
        Parent("museums", "museum", "place", _CITY),
    ),
    Domain(
        "hotels",
        "hotel",
        "name",
        "place",
        (_CITY, _number("rooms", 8, 400, 2, "beds"), _number("rate", 45, 600, 5, "price")),
        "inns",
    ),
    Domain(
        "players",
        "player",
        "name",
        "person",
        (
            _text("team", "Tigers Hawks Sharks Wolves Bears", "club"),
            _text("position", "keeper striker defender winger", "place"),
            _number("goals", 0, 60, alias="points"),
            _number("age", 17, 40),
        ),
        "athletes",
    ),
    Domain(
        "mountains",
        "mountain",
        "name",
        "place",
        (_COUNTRY, _number("height", 1200, 8000, 15, "altitude"), _number("climbers", 20, 3000, 5, "visitors")),
        "peaks",
    ),
    Domain(
        "ships",
        "ship",
        "name",
        "title",
        (
            _text("kind", "tanker ferry trawler cruiser", "type"),
            _text("port", CITIES, "harbour"),
            _number("length", 30, 380, 2, "size"),
            _number("crew", 6, 900, 3, "sailors"),
        ),
        "vessels",
        Parent("companies", "company", "brand", _COUNTRY),
    ),
    Domain(
        "wines",
        "wine",
        "label",
        "place",
        (
            _text("grape", "merlot riesling malbec syrah", "variety"),
            _COUNTRY,
            _number("price", 6, 190, alias="cost"),
            _YEAR,
        ),
        "bottles",
    ),
    Domain(
        "phones",
        "phone",
        "model",
        "brand",
        (
            _text("maker", "Kanto Belva Rimax Oltec", "brand"),
            _number("price", 90, 1500, 10, "cost"),
            _number("weight", 110, 260, alias="mass"),
        ),
        "devices",
    ),
)
"""Domains of the train and the test split."""

SHIFTED: tuple[Domain, ...] = (
    Domain(
        "telescopes",
        "telescope",
        "designation",
        "shifted",
        (
            _text("mount", "dobsonian fork altazimuth tripod", "stand"),
            _number("aperture", 60, 900, 5, "opening"),
            _number("focal_length", 400, 4000, 20, "zoom"),
        ),
        "instruments",
        Parent("observatories", "observatory", "shifted", _number("elevation", 200, 5000, 10)),
    ),
    Domain(
        "bridges",
        "bridge",
        "bridge_name",
        "shifted",
        (
            _text("river_crossed", "Danube Volta Mekong Tagus", "water"),
            _text("structure", "arch cable truss beam", "build"),
            _number("span", 30, 1900, 10, "width"),
        ),
        "crossings",
    ),
    Domain(
        "cheeses",
        "cheese",
        "variety_name",
        "shifted",
        (
            _text("milk", "goat cow sheep buffalo", "animal"),
            _number("fat", 10, 70, alias="grease"),
            _number("ageing_days", 5, 700, 5, "maturity"),
        ),
        "dairy_goods",
        Parent("dairies", "dairy", "shifted", _text("valley", "Arve Inn Drava Soca Orco Rhine")),
    ),
    Domain(
        "robots",
        "robot",
        "call_sign",
        "shifted",
        (
            _text("duty", "welding sorting spraying patrol", "purpose"),
            _number("battery", 5, 99, alias="charge"),
            _number("payload", 10, 800, 5, "load"),
        ),
        "machines",
        Parent("laboratories", "laboratory", "shifted", _text("district", "Alfama Brera Chueca Dalston Marais")),
    ),
    Domain(
        "castles",
        "castle",
        "castle_name",
        "shifted",
        (
            _text("ruler", "duke bishop baron queen", "lord"),
            _number("towers", 1, 60, alias="turrets"),
            _number("wall_height", 4, 90, alias="rise"),
        ),
        "fortresses",
    ),
    Domain(
        "orchids",
        "orchid",
        "species",
        "shifted",
        (
            _text("soil", "bark peat moss gravel", "ground"),
            _text("scent", "vanilla citrus clove jasmine", "smell"),
            _number("blooms", 1, 70, alias="flowers"),
        ),
        "plants",
    ),
)
"""Domains of the shifted split: no table, column or name of theirs is in the other splits."""
