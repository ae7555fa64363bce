"""Tasks from questions with gold SQL: what a source gives, and which of it becomes a task.

A question becomes a task only where its gold statement runs within the limits, gives the same whatever the order of
the rows (no tie at a LIMIT), gives values that can be answered in full (no null, nothing cut, not empty) and that do
not stand in the question; where several gold statements are given, each must; where a second solution is given, both
must agree. What fails is counted by reason.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from agenttuning.environments.database.engine import Reply, SQLiteEngine, read_rows
from agenttuning.environments.database.grading import number, same_answer, same_value
from agenttuning.environments.database.mysql import translate
from agenttuning.environments.database.sqltext import TODAYS, inner_queries, limit_keys, parsed, tidy, written
from agenttuning.environments.database.tables import Table, pack, state_of
from agenttuning.trajectory import Task

LISTED_COLUMNS = 40
"""A database of at most so many columns is described in the instruction, of a larger one only the tables."""
LONG = 20_000
"""Length up to which two results are compared."""
CHANGES = ("INSERT", "UPDATE", "DELETE", "REPLACE")
_WORD = re.compile(r"[^\s,;:?()\"']+")


class Database:
    """The tables that several questions ask, with what is computed from them once.

    Args:
        tables: the tables.
    """

    def __init__(self, tables: Sequence[Table]) -> None:
        self.tables = tuple(tables)
        self._engines: dict[bool, SQLiteEngine] = {}

    @cached_property
    def packed(self) -> str:
        """The tables as a payload carries them."""
        return pack(self.tables)

    @cached_property
    def state(self) -> dict[str, str | None]:
        """The tables' state before anything is done."""
        return state_of(self.tables)

    @property
    def listed(self) -> bool:
        """Whether an instruction lists the columns, or the tables alone."""
        return sum(len(table.columns) for table in self.tables) <= LISTED_COLUMNS

    def ask(self, sql: str, max_chars: int, *, backwards: bool = False) -> Reply:
        """Run a query; `backwards` runs it on the same rows in the opposite order."""
        if backwards not in self._engines:
            tables = [t.model_copy(update={"rows": t.rows[::-1]}) for t in self.tables] if backwards else self.tables
            self._engines[backwards] = SQLiteEngine()
            self._engines[backwards].create(tables)
        engine = self._engines[backwards]
        engine.max_chars = max_chars
        engine.execute("BEGIN")
        reply = engine.execute(sql)
        engine.execute("ROLLBACK")
        return reply

    def change(self, sql: str, max_chars: int) -> tuple[Reply, dict[str, str | None]]:
        """Run a change on a copy and return the state that it leaves."""
        engine = SQLiteEngine(max_chars=max_chars)
        engine.create(self.tables)
        reply = engine.execute(sql)
        state = engine.state(self.tables)
        engine.close()
        return reply, state


@dataclass(frozen=True)
class Question:
    """A question about a database, with the gold SQL that answers it."""

    text: str
    database: Database
    gold: tuple[str, ...]
    """Statements that each are right; the demonstrator runs the first."""
    second: tuple[str, ...] = ()
    """The same in SQLite's words, by another hand: each must agree with the statement at its place in `gold`."""
    hint: str = ""
    family: str = "question"


def tasks(
    environment: str, split: str, questions: Iterable[Question], max_chars: int, dropped: Counter[str]
) -> Iterator[Task]:
    """Yield a task for each question that makes one; count the others in `dropped`, by reason.

    Args:
        environment: the registered name that the tasks carry.
        split: the split that they belong to.
        questions: where they come from.
        max_chars: length at which the environment cuts a result.
        dropped: counted in place.
    """
    for question in questions:
        made = task_of(environment, split, question, max_chars)
        if isinstance(made, Task):
            yield made
        else:
            dropped[made] += 1


def task_of(environment: str, split: str, question: Question, max_chars: int) -> Task | str:
    """Return the task of a question, or the reason why it makes none."""
    if any(TODAYS.search(sql) for sql in question.gold):
        return "the answer depends on the day"
    database, plain = question.database, question.gold[0].lstrip("( \n").upper()
    if plain.startswith(CHANGES):
        found = [database.change(question.gold[0], max_chars) for _ in range(2)]
        if found[0][0].error:
            return "the gold statement fails"
        if found[0][1] == database.state:
            return "the gold statement changes nothing"
        return _task(environment, split, question, found[0][1], None, [])
    tree = parsed(question.gold[0])
    if _tied(database, tree):
        return "a tie at the limit"
    answers: list[list[str]] = []
    for sql in question.gold:
        answer, other = (_values(database.ask(sql, max_chars, backwards=way)) for way in (False, True))
        if isinstance(answer, str):
            return answer
        if isinstance(other, str) or not same_answer(other, answer):
            return "the answer depends on the order of the rows"
        answers.append(answer)
    for sql, answer in zip(question.second, answers, strict=False):
        other = _values(database.ask(sql, max_chars))
        if isinstance(other, str) or not same_answer(other, answer):
            return "two gold statements disagree"
    if any(_stands_in(answer, question.text) for answer in answers):
        return "the answer stands in the question"
    other_words = translate(question.gold[0]) if "/" in question.gold[0] else None
    if other_words is not None and _values(database.ask(other_words, max_chars)) != answers[0]:
        return "SQLite divides whole numbers otherwise than MySQL"
    inner = [database.ask(written(part.this), max_chars) for part in inner_queries(tree)] if tree is not None else []
    if any(reply.truncated or len(read_rows(reply.text) or []) > 1 for reply in inner):
        return "a comparison takes the first of several rows"
    return _task(environment, split, question, database.state, answers[0], answers[1:])


def _values(reply: Reply) -> list[str] | str:
    """Return every value of a result, row by row, or the reason why it is no answer."""
    if reply.error:
        return "the gold statement fails"
    if reply.truncated:
        return "the answer is too long"
    values = [value for row in read_rows(reply.text) or [] for value in row]
    if not values:
        return "the result is empty"
    if any(value is None or not str(value).strip() for value in values):
        return "the result has a null"
    return [str(value) for value in values]


def _stands_in(answer: list[str], text: str) -> bool:
    """Say whether a question gives its whole answer away."""
    words = [word.rstrip(".") for word in _WORD.findall(text)]
    whole = f" {' '.join(words)} ".casefold()
    return all(
        any(same_value(value, word) for word in words)
        if number(value) is not None
        else f" {value.casefold()} " in whole
        for value in answer
    )


def _tied(database: Database, tree: Any) -> bool:
    """Say whether a LIMIT, of the whole or of an inner query, cuts between rows that are equal in its order."""
    for part in [] if tree is None else [tree, *(inner.this for inner in inner_queries(tree))]:
        if (keys := limit_keys(part)) is not None:
            sql, count = keys
            rows = read_rows(database.ask(sql, LONG).text) or []
            width = len(part.args["order"].expressions)
            if len(rows) > count and rows[count - 1][-width:] == rows[count][-width:]:
                return True
    return False


def _task(
    environment: str,
    split: str,
    question: Question,
    after: dict[str, str | None],
    answer: list[str] | None,
    others: list[list[str]],
) -> Task:
    database = question.database
    gold = tidy(question.gold[0], database.tables)
    if gold != question.gold[0] and not _same(database, question.gold[0], gold):
        gold = question.gold[0].strip().rstrip(";").strip()
    payload: dict[str, object] = {
        "packed": database.packed,
        "answer": answer,
        "before": database.state,
        "state": after,
        "gold": gold,
        "listed": database.listed,
    }
    if others:
        payload["alternatives"] = others
    hint = f"\n{question.hint}" if question.hint else ""
    return Task(
        environment=environment,
        split=split,
        instruction=f"{question.text}{hint}\n{_schema(database)}",
        payload=payload,
        family=question.family,
        origin="dataset",
    )


def _same(database: Database, sql: str, other: str) -> bool:
    """Say whether a statement written plainly does what it did before."""
    if sql.lstrip("( \n").upper().startswith(CHANGES):
        return database.change(sql, LONG) == database.change(other, LONG)
    found = [read_rows(database.ask(statement, LONG).text) for statement in (sql, other)]
    return found[0] is not None and found[1] is not None and Counter(found[0]) == Counter(found[1])


def _schema(database: Database) -> str:
    """Return what an instruction says about the tables: their columns, or where these are many, their names alone."""
    if not database.listed:
        return f"The database has the tables {', '.join(f'`{table.name}`' for table in database.tables)}."
    said = [f"`{t.name}` has the columns {', '.join(f'`{c}`' for c in t.columns)}" for t in database.tables]
    return f"The table {'. The table '.join(said)}."
