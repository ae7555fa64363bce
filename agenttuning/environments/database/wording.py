"""How questions and what is known of the tables are worded: one set for train and test, another for `shifted`.

Every list has several wordings of one meaning, with named fields. The shifted set shares no wording with the other.
"""

from dataclasses import dataclass

Pair = tuple[str, str]


@dataclass(frozen=True)
class Wording:
    """Wordings by meaning. `conditions` are triples for equal, above and below; `extremes` are pairs (most, least)."""

    conditions: tuple[tuple[str, str, str], ...]
    extremes: tuple[Pair, ...]
    functions: dict[str, str]
    lookup: tuple[str, ...]
    which: tuple[str, ...]
    listing: tuple[str, ...]
    count: tuple[str, ...]
    extreme: tuple[str, ...]
    extreme_where: tuple[str, ...]
    aggregate: tuple[str, ...]
    aggregate_where: tuple[str, ...]
    parent_of: tuple[str, ...]
    children_count: tuple[str, ...]
    children_list: tuple[str, ...]
    update: tuple[str, ...]
    insert: tuple[str, ...]
    delete_one: tuple[str, ...]
    delete_where: tuple[str, ...]
    columns: tuple[str, ...]
    two_tables: tuple[str, ...]
    table: tuple[str, ...]
    nothing: tuple[str, ...]
    hearsay: tuple[str, ...]


MAIN = Wording(
    conditions=(
        ("with {column} {value}", "with {column} above {value}", "with {column} below {value}"),
        ("whose {column} is {value}", "whose {column} is more than {value}", "whose {column} is less than {value}"),
    ),
    extremes=(("highest", "lowest"), ("largest", "smallest")),
    functions={"SUM": "total", "AVG": "average", "MAX": "highest", "MIN": "lowest"},
    lookup=(
        "What is the {column} of the {noun} {name}?",
        "Tell me the {column} of the {noun} {name}.",
        "Find the {column} of the {noun} called {name}.",
        "Which {column} does the {noun} {name} have?",
    ),
    which=(
        "What is the {key} of the {noun} {where}?",
        "Find the {key} of the {noun} {where}.",
        "Tell me the {key} of the {noun} {where}.",
    ),
    listing=(
        "List the {key} of every {noun} {where}.",
        "Give me the {key} of all {nouns} {where}.",
        "What are the {key} values of the {nouns} {where}?",
    ),
    count=(
        "How many {nouns} {where} are there?",
        "Count the {nouns} {where}.",
        "What is the number of {nouns} {where}?",
    ),
    extreme=(
        "What is the {key} of the {noun} with the {most} {column}?",
        "Find the {key} of the {noun} that has the {most} {column}.",
        "Which {noun} has the {most} {column}? Give its {key}.",
    ),
    extreme_where=(
        "Among the {nouns} {where}, what is the {key} of the one with the {most} {column}?",
        "Of all {nouns} {where}, which has the {most} {column}? Give its {key}.",
    ),
    aggregate=(
        "What is the {function} {column} of all {nouns}?",
        "Compute the {function} {column} over all {nouns}.",
        "Tell me the {function} {column} in the table of {nouns}.",
    ),
    aggregate_where=(
        "What is the {function} {column} of the {nouns} {where}?",
        "Compute the {function} {column} of the {nouns} {where}.",
        "For the {nouns} {where}, find the {function} {column}.",
    ),
    parent_of=(
        "What is the {column} of the {parent} of the {noun} {name}?",
        "Find the {column} of the {parent} that the {noun} {name} belongs to.",
        "The {noun} {name} belongs to a {parent}. What is the {column} of that {parent}?",
    ),
    children_count=(
        "How many {nouns} belong to the {parent} {name}?",
        "Count the {nouns} of the {parent} {name}.",
    ),
    children_list=(
        "List the {key} of every {noun} of the {parent} {name}.",
        "Give me the {key} of all {nouns} that belong to the {parent} {name}.",
    ),
    update=(
        "Change the {column} of the {noun} {name} to {value}.",
        "Set the {column} of the {noun} {name} to {value}.",
        "The {column} of the {noun} {name} is now {value}. Update it.",
    ),
    insert=(
        "Add a {noun} with {values}.",
        "Insert a new {noun}: {values}.",
        "Put a new {noun} into the database with {values}.",
    ),
    delete_one=(
        "Delete the {noun} {name}.",
        "Remove the {noun} called {name} from the database.",
        "The {noun} {name} is gone. Delete it.",
    ),
    delete_where=("Delete all {nouns} {where}.", "Remove every {noun} {where}."),
    columns=(
        "The table {table} has the columns {columns}.",
        "Table: {table}. Columns: {columns}.",
        "Use the table {table} with the columns {columns}.",
    ),
    two_tables=(
        "The table {table} has the columns {columns}. The table {other} has the columns {others}.",
        "Tables: {table} with the columns {columns}, and {other} with the columns {others}.",
    ),
    table=(
        "The table is {table}. Its columns are not known.",
        "Use the table {table}, whose columns are not known.",
    ),
    nothing=(
        "The tables are not known.",
        "The tables and their columns are not known.",
    ),
    hearsay=(
        "I think there is a table {table} with the columns {columns}.",
        "If I remember right, the table {table} has the columns {columns}.",
    ),
)

SHIFTED = Wording(
    conditions=(
        ("having a {column} of {value}", "having a {column} over {value}", "having a {column} under {value}"),
        (
            "for which {column} equals {value}",
            "for which {column} exceeds {value}",
            "for which {column} stays under {value}",
        ),
    ),
    extremes=(("maximal", "minimal"), ("biggest", "least")),
    functions={"SUM": "summed", "AVG": "mean", "MAX": "maximal", "MIN": "minimal"},
    lookup=(
        "I would like to know which {column} is on record for the {noun} {name}.",
        "Look up {name} among the {nouns} and report its {column}.",
    ),
    which=("There is one {noun} {where}; report its {key}.",),
    listing=("Report the {key} of each {noun} {where}.",),
    count=("Report how many {nouns} you see {where}.", "Please give the quantity of {nouns} {where}."),
    extreme=("Report the {key} of whichever {noun} reaches the {most} {column}.",),
    extreme_where=("Looking only at {nouns} {where}, report the {key} of the one reaching the {most} {column}.",),
    aggregate=("Report the {function} {column}, taking every {noun} into account.",),
    aggregate_where=("Report the {function} {column}, taking into account only {nouns} {where}.",),
    parent_of=("Every {noun} has its {parent}. Report the {column} recorded for the one that {name} has.",),
    children_count=("Report how many {nouns} the {parent} {name} owns.",),
    children_list=("Report the {key} of each {noun} that the {parent} {name} owns.",),
    update=("From today, {value} is the {column} for the {noun} {name}; please correct the record.",),
    insert=("We acquired another {noun}; please record it: {values}.",),
    delete_one=("Please drop the record for the {noun} {name}.",),
    delete_where=("Please drop the records for {nouns} {where}.",),
    columns=("Schema: {table}({columns}).",),
    two_tables=("Schema: {table}({columns}); {other}({others}).",),
    table=("What you need is in {table}; I do not have its schema at hand.",),
    nothing=("I cannot say how this database is laid out.",),
    hearsay=("An old note says: {table}({columns}).",),
)
