import re
from collections import Counter
from itertools import combinations, pairwise

import pytest

from agenttuning.environments.base import make_environment
from agenttuning.environments.database.families import FAMILIES
from agenttuning.environments.database.grading import number
from agenttuning.environments.database.pools import NAMES
from agenttuning.environments.database.queries import Condition, Edit, Query, apply, edit_sql, evaluate, query_sql
from agenttuning.environments.database.schemas import DOMAINS, SHIFTED
from agenttuning.environments.database.tables import Table, state_of
from agenttuning.environments.database.wording import MAIN
from agenttuning.environments.database.wording import SHIFTED as SHIFTED_WORDING
from agenttuning.errors import ConfigurationError
from agenttuning.trajectory import Task

TABLE = Table(
    name="t",
    columns=("name", "city", "age"),
    types=("text", "text", "int"),
    rows=(("Ada", "Oslo", 30), ("Bo", "Lima", 20), ("Cy", "Oslo", 40)),
)


def made(split: str, count: int, seed: int) -> list[Task]:
    return list(make_environment("db").tasks(split, count, seed))


@pytest.fixture(scope="module")
def train() -> list[Task]:
    return made("train", 168, 0)


def test_the_same_seed_gives_the_same_tasks_and_a_longer_list_begins_with_a_shorter(train):
    assert [task.id for task in made("train", 168, 0)] == [task.id for task in train]
    assert [task.id for task in made("train", 20, 0)] == [task.id for task in train[:20]]
    assert {task.id for task in made("train", 168, 1)}.isdisjoint(task.id for task in train)


def test_ids_are_unique_and_tasks_survive_json(train):
    assert len({task.id for task in train}) == len(train)
    again = [Task.model_validate_json(task.model_dump_json()) for task in train]
    assert [task.id for task in again] == [task.id for task in train]


def test_families_come_in_equal_shares(train):
    assert set(Counter(task.family for task in train).values()) == {168 // len(FAMILIES)}
    assert len({task.family for task in made("shifted", 8, 0)}) == 8


def test_splits_share_no_task_under_any_seeds():
    tables: dict[str, set[str]] = {}
    rows: dict[str, set[str]] = {}
    goals: dict[str, set[str]] = {}
    instructions: dict[str, set[str]] = {}
    for split in ("train", "test", "shifted"):
        tasks = [task for seed in range(8) for task in made(split, 42, seed)]
        single = [table for task in tasks for table in task.payload["tables"]]
        tables[split] = {str(table) for table in single}
        rows[split] = {str(table["rows"]) for table in single}
        goals[split] = {str((task.payload["plan"], task.payload["answer"])) for task in tasks}
        instructions[split] = {task.instruction for task in tasks}
    for left, right in combinations(("train", "test", "shifted"), 2):
        for kind in (tables, rows, goals, instructions):
            assert kind[left].isdisjoint(kind[right])


def test_shifted_shares_no_schema_with_the_other_splits():
    schemas: dict[str, set[tuple[str, ...]]] = {}
    for split in ("train", "test", "shifted"):
        found = [table for seed in range(4) for task in made(split, 42, seed) for table in task.payload["tables"]]
        schemas[split] = {(table["name"], *table["columns"]) for table in found}
    assert schemas["shifted"].isdisjoint(schemas["train"] | schemas["test"])
    named = {split: {schema[0] for schema in found} for split, found in schemas.items()}
    assert named["shifted"].isdisjoint(named["train"] | named["test"])


def test_shifted_has_domains_and_wordings_of_its_own():
    def names(domains):
        for domain in domains:
            yield from (domain.table, domain.noun, domain.alias)
            yield from (column.name for column in domain.columns)
            yield from (value for column in domain.columns if not column.numeric for value in column.values)
            if domain.parent is not None:
                yield from (domain.parent.table, domain.parent.noun, domain.parent.column.name)

    assert set(names(DOMAINS)) & set(names(SHIFTED)) == set()
    words = {kind: set(" ".join(lists).split()) for kind, lists in NAMES.items()}
    assert words.pop("shifted") & set().union(*words.values()) == set()
    for meaning in ("lookup", "which", "count", "insert", "update", "columns", "hearsay", "conditions", "nothing"):
        assert set(getattr(MAIN, meaning)).isdisjoint(getattr(SHIFTED_WORDING, meaning))


def test_the_pools_are_as_rich_as_the_families_need():
    assert len(DOMAINS) >= 12
    for domain in (*DOMAINS, *SHIFTED):
        columns = [column.name for column in domain.columns]
        aliases = [column.alias for column in domain.columns if column.alias]
        assert len({domain.key, *columns}) == len(columns) + 1
        assert {column.numeric for column in domain.columns} == {True, False}
        assert aliases, domain.table
        assert not set(aliases) & {domain.key, *columns}, domain.table
        assert all(len(column.values) >= 10 for column in domain.columns if column.numeric), domain.table
        assert domain.parent is None or len(domain.parent.column.values) >= 5, domain.table


@pytest.mark.parametrize("split", ["train", "test", "shifted"])
def test_no_answer_stands_in_its_instruction(split):
    for task in made(split, 70, 3):
        words = re.findall(r"[\w.]+", task.instruction)
        numbers = {number(word.rstrip(".")) for word in words}
        for value in task.payload["answer"] or []:
            assert value.casefold() not in task.instruction.casefold() or number(value) is not None
            assert number(value) is None or number(value) not in numbers


def test_tables_are_small_and_questions_short(train):
    for task in train:
        table = task.payload["tables"][0]
        assert 5 <= len(table["rows"]) <= 12
        assert 2 <= len(table["columns"]) <= 5
        assert len(task.instruction) < 330


def test_only_changes_change_the_tables(train):
    for task in train:
        change = task.family in ("update", "insert", "delete")
        assert (task.payload["answer"] is None) == change
        assert (task.payload["state"] != task.payload["before"]) == change


def test_an_unknown_split_is_refused():
    with pytest.raises(ConfigurationError, match="train, test, shifted"):
        made("dev", 1, 0)


@pytest.mark.parametrize(
    ("query", "sql", "values"),
    [
        (
            Query(table="t", column="age", where=(Condition(column="name", operator="=", value="Bo"),)),
            "SELECT age FROM t WHERE name = 'Bo'",
            [20],
        ),
        (
            Query(table="t", function="COUNT", where=(Condition(column="age", operator=">", value=20),)),
            "SELECT COUNT(*) FROM t WHERE age > 20",
            [2],
        ),
        (Query(table="t", column="age", function="AVG"), "SELECT AVG(age) FROM t", [30.0]),
        (Query(table="t", column="age", function="MIN"), "SELECT MIN(age) FROM t", [20]),
        (Query(table="t", column="name", order="age"), "SELECT name FROM t ORDER BY age DESC LIMIT 1", ["Cy"]),
        (
            Query(table="t", column="name", order="age", descending=False),
            "SELECT name FROM t ORDER BY age ASC LIMIT 1",
            ["Bo"],
        ),
    ],
)
def test_queries_have_sql_and_a_value_without_it(query, sql, values):
    assert query_sql(query) == sql
    assert evaluate(query, TABLE) == values


def test_edits_have_sql_and_an_effect_without_it():
    where = (Condition(column="name", operator="=", value="Bo"),)
    update = Edit(kind="update", table="t", values={"city": "O'Hare"}, where=where)
    assert edit_sql(update) == "UPDATE t SET city = 'O''Hare' WHERE name = 'Bo'"
    assert apply(update, TABLE).rows[1] == ("Bo", "O'Hare", 20)
    insert = Edit(kind="insert", table="t", values={"name": "Di", "city": "Lima", "age": 5})
    assert edit_sql(insert) == "INSERT INTO t (name, city, age) VALUES ('Di', 'Lima', 5)"
    assert apply(insert, TABLE).rows[-1] == ("Di", "Lima", 5)
    delete = Edit(kind="delete", table="t", where=where)
    assert [row[0] for row in apply(delete, TABLE).rows] == ["Ada", "Cy"]
    states = [state_of([apply(edit, TABLE)])["t"] for edit in (update, insert, delete)]
    assert len({*states, state_of([TABLE])["t"]}) == 4
    assert all(left != right for left, right in pairwise(states))
