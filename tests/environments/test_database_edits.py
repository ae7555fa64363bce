import random
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from agenttuning.environments.base import make_environment
from agenttuning.environments.database import Database
from agenttuning.environments.database.edits import KINDS, edit_tasks
from agenttuning.environments.database.expert import _phrases
from agenttuning.environments.database.grammar import answer
from agenttuning.environments.database.queries import name_sql
from agenttuning.environments.database.tables import Table

DATA = Path(__file__).parents[2].parent / "shared" / "data"
TABLE = Table(
    name="t_1_2",
    columns=("Rank", "Full name", "group"),
    types=("text",) * 3,
    rows=(("1", "Ann O", "a"), ("1", "Bo", "b"), ("3", "Cy", "a"), ("4", "Di", "c")),
)
ODD = Table(name="t_1_3", columns=("a", "b"), types=("text",) * 2, rows=(("x\ny", "1"), ("it's", "2")) * 3)


def reward(environment, task, seed=0):
    environment.reset(task)
    expert = environment.expert(task, random.Random(seed))
    move = next(expert)
    while True:
        step = environment.step(environment.parse(environment.format(move.thought, move.action)).action)
        if step.done:
            return environment.grade(task, environment.close()).reward
        move = expert.send(step)


def test_changes_are_drawn_and_demonstrated():
    tasks = list(edit_tasks("db", "train", [ODD, TABLE], 12, 0))
    assert len(tasks) == 12
    assert {task.family for task in tasks} == set(KINDS)
    assert all(task.payload["tables"][0]["name"] == "t_1_2" for task in tasks)
    assert tasks == list(edit_tasks("db", "train", [ODD, TABLE], 20, 0))[:12]
    environment = Database()
    for seed, task in enumerate(tasks):
        assert reward(environment, task, seed) == 1.0
        environment.reset(task)
        environment.step(answer(["done"]))
        assert environment.grade(task, environment.close()).reward == 0.0


def test_odd_names_are_quoted():
    assert [name_sql(name) for name in ("price", "Rank", "group", "a b", "x`y")] == [
        "price", "`Rank`", "`group`", "`a b`", "`x``y`",
    ]  # fmt: skip


@pytest.mark.data
def test_the_splits_tables_are_those_of_the_published_splits():
    if not (DATA / "db").is_dir():
        pytest.skip("published data not found beside the repository (../shared/data/db)")
    environment = make_environment("db", {"source": "wikitablequestions_edits"}, str(DATA))
    found = {split: list(environment.tasks(split, 150, 0)) for split in ("train", "test")}
    names = {split: {task.payload["tables"][0]["name"] for task in tasks} for split, tasks in found.items()}
    assert min(len(tasks) for tasks in found.values()) == 150
    assert names["train"].isdisjoint(names["test"])
    rewards = [reward(environment, task, seed) for seed, task in enumerate(found["train"][:90])]
    assert sum(rewards) / len(rewards) >= 0.95


@pytest.mark.parametrize(
    ("values", "found"),
    [
        (("Nova One", 3), ["Nova One"]),
        (("Nova One 7", "Oslo"), ["Nova One 7"]),
        (("16 = 24 + 0", "not null", "Oslo", 5), []),
        (("Nova One", "a -- b"), []),
    ],
)
def test_text_left_without_quotes_is_a_syntax_error(values, found):
    assert _phrases(values) == found
    with closing(sqlite3.connect(":memory:")) as connection:
        for text in found:
            with pytest.raises(sqlite3.OperationalError, match="syntax error"):
                connection.execute(f"SELECT 1 WHERE 5 = {text}")
            with pytest.raises(sqlite3.OperationalError, match="syntax error"):
                connection.execute(f"VALUES (5, {text})")
