"""Database tasks as proposals: small tables, a question or a change, and the SQL that answers or makes it.

The expected answer, or the expected tables, are what the gold statement gives on a copy of the tables. The paper made
its INSERT, UPDATE and DELETE tasks so, because its source of questions only had SELECT.
"""

import sqlite3
from collections.abc import Sequence
from typing import Any, ClassVar

from pydantic import ValidationError

from agenttuning.environments.database.engine import SQLiteEngine, read_rows
from agenttuning.environments.database.environment import Database
from agenttuning.environments.database.tables import Table, state_of
from agenttuning.instructions.proposals import Refused, read_list, text_field
from agenttuning.instructions.sql_trials import SqlTrials
from agenttuning.trajectory import Task

QUERIES = frozenset({"SELECT", "WITH"})
CHANGES = frozenset({"INSERT", "UPDATE", "DELETE", "REPLACE"})
TYPES = ("text", "int", "bigint", "double")
MOST_ROWS = 60
LONGEST_SQL = 2_000
LONGEST_INSTRUCTION = 1_500

RULES_TEXT = f"""\
A task is for an agent that runs MySQL statements on a few small tables. Each task is an object with these fields:
- "instruction": a question about the data, or a change to make, in plain words; a change names every value it needs.
- "tables": a list of {{"name", "columns", "types" (each one of {", ".join(TYPES)}), "rows"}}, each with 4 to 20 rows.
- "sql": the one statement (SELECT, INSERT, UPDATE or DELETE) that answers the question or makes the change.
The answer must not stand in the instruction, be no null and no empty list, and must not depend on the day. A change
must really change a row. Use other subjects, tables and statements than the examples."""

EXAMPLES: tuple[dict[str, Any], ...] = (
    {
        "instruction": "Which boat carries the most passengers among those that sail from Tromso?",
        "tables": [
            {
                "name": "boats",
                "columns": ["name", "harbour", "passengers"],
                "types": ["text", "text", "int"],
                "rows": [
                    ["Alke", "Tromso", 80],
                    ["Skarv", "Tromso", 140],
                    ["Lomvi", "Bodo", 190],
                    ["Teist", "Bodo", 60],
                ],
            }
        ],
        "sql": "SELECT name FROM boats WHERE harbour = 'Tromso' ORDER BY passengers DESC LIMIT 1",
    },
    {
        "instruction": "Raise the price of every tea that costs less than 4 to exactly 4.",
        "tables": [
            {
                "name": "teas",
                "columns": ["tea", "price"],
                "types": ["text", "double"],
                "rows": [["Assam", 3.5], ["Sencha", 6.0], ["Rooibos", 2.75], ["Oolong", 7.25]],
            }
        ],
        "sql": "UPDATE teas SET price = 4 WHERE price < 4",
    },
    {
        "instruction": "Take all parcels that were delivered out of the table.",
        "tables": [
            {
                "name": "parcels",
                "columns": ["id", "city", "state"],
                "types": ["int", "text", "text"],
                "rows": [[1, "Lyon", "delivered"], [2, "Brest", "sent"], [3, "Lyon", "delivered"], [4, "Nice", "lost"]],
            }
        ],
        "sql": "DELETE FROM parcels WHERE state = 'delivered'",
    },
)


class SqlProposals:
    """Proposals that become tasks of the environment `db`."""

    environment: ClassVar[str] = "db"
    examples: Sequence[dict[str, Any]] = EXAMPLES

    def __init__(self, environment: Database, split: str = "train", origin: str = "self-instructed") -> None:
        self.trials = SqlTrials(environment)
        self._split = split
        self._origin = origin
        self._longest = environment.settings.max_result_chars

    def rules(self) -> str:
        """Return what a task is."""
        return RULES_TEXT

    def task(self, proposal: dict[str, Any]) -> Task:
        """Read one proposal; see `Proposals.task`."""
        return sql_task(
            text_field(proposal, "instruction", LONGEST_INSTRUCTION),
            _tables(proposal.get("tables")),
            text_field(proposal, "sql", LONGEST_SQL),
            origin=self._origin,
            split=self._split,
            longest=self._longest,
        )

    def solving(self, task: Task) -> str:
        """Return the task as a question for a statement."""
        tables = "\n".join(
            f"{table['name']} ({', '.join(table['columns'])}), for example {table['rows'][0]}"
            for table in task.payload["tables"]
        )
        return (
            f"Tables of a MySQL database:\n{tables}\n\n{task.instruction}\n\nWrite the one SQL statement that answers "
            'this or makes the change. Reply with a JSON object {"sql": "..."} and nothing else.'
        )

    def solved(self, task: Task, reply: str) -> Task:
        """Take the statement from a reply; see `Proposals.solved`."""
        try:
            sql = text_field(read_list(reply)[0], "sql", LONGEST_SQL)
        except Refused as refused:
            raise Refused("no_second_solution", str(refused)) from refused
        return task.model_copy(update={"payload": {**task.payload, "solutions": [sql]}})


def sql_task(
    question: str, tables: Sequence[Table], sql: str, *, origin: str, split: str = "train", longest: int = 800
) -> Task:
    """Return the task of a question with gold SQL; its expected answer or tables come from running the gold.

    Args:
        question: what is asked; the tables and their columns are named after it.
        tables: what the database holds.
        sql: the gold statement.
        origin: `derived` or `self-instructed`.
        split: the split that the task belongs to.
        longest: length at which the environment cuts a result.

    Raises:
        Refused: the tables cannot be made, the gold does not run, or it gives nothing that can be answered.
    """
    kind = next(iter(sql.lstrip("( \n").split(maxsplit=1)), "").upper()
    if kind not in QUERIES | CHANGES:
        raise Refused("wrong_sql", f"the statement must be SELECT, INSERT, UPDATE or DELETE: {sql[:80]}")
    engine = SQLiteEngine(max_chars=longest)
    try:
        try:
            engine.create(tables)
        except (sqlite3.Error, OverflowError, ValueError) as error:
            raise Refused("wrong_tables", f"the tables cannot be made: {error}") from error
        reply, after = engine.execute(sql), engine.state(tables)
    finally:
        engine.close()
    if reply.error:
        raise Refused("sql_fails", f"{reply.text}: {sql[:200]}")
    before = state_of(tables)
    values = None if kind in CHANGES else _values(reply.text, reply.truncated)
    if kind in QUERIES and after != before:
        raise Refused("wrong_sql", f"a question's statement changed the tables: {sql[:200]}")
    named = " ".join(f"The table {t.name} has the columns {', '.join(t.columns)}." for t in tables)
    payload = {
        "tables": [table.model_dump(mode="json") for table in tables],
        "answer": values,
        "before": before,
        "state": after,
        "gold": sql,
        "listed": True,
    }
    return Task(
        environment="db", split=split, instruction=f"{question}\n{named}", payload=payload, family=origin, origin=origin
    )


def _values(text: str, truncated: bool) -> list[str]:
    values = [value for row in read_rows(text) or [] for value in row]
    if truncated:
        raise Refused("long_answer", "the result is longer than an agent is shown")
    if not values or any(value is None or not str(value).strip() for value in values):
        raise Refused("empty_answer", f"the result is empty or has a null: {text[:100]}")
    return [str(value) for value in values]


def _tables(given: Any) -> tuple[Table, ...]:
    if not isinstance(given, list) or not given:
        raise Refused("missing_tables", "the field 'tables' must be a list of tables")
    try:
        tables = tuple(Table.model_validate(table) for table in given)
    except ValidationError as error:
        raise Refused("wrong_tables", str(error.errors()[0])) from error
    for table in tables:
        width = len(table.columns)
        if not width or len(table.types) != width or any(len(row) != width for row in table.rows):
            raise Refused("wrong_tables", f"columns, types and rows of {table.name!r} differ in number")
        if any(kind not in TYPES for kind in table.types):
            raise Refused("wrong_tables", f"the types of {table.name!r} must be among {', '.join(TYPES)}")
        if not 0 < len(table.rows) <= MOST_ROWS:
            raise Refused("wrong_tables", f"{table.name!r} has {len(table.rows)} rows, 1 to {MOST_ROWS} are read")
    if len({table.name.casefold() for table in tables}) < len(tables):
        raise Refused("wrong_tables", "two tables have the same name")
    return tables
