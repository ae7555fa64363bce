"""The demonstrator: solves a generated task step by step, reacting to what it observes.

It knows the plan of its task but acts like one who does not: it looks names up where the question does not give
them, tries the names that the question gives, mends a statement when the database refuses it, and answers with what
the last result shows. In a share of its episodes it first makes a plausible mistake, which is never trained.
"""

import random
from collections.abc import Generator
from dataclasses import dataclass
from itertools import pairwise

from agenttuning.environments.base import Expert, Move, Step
from agenttuning.environments.database import thoughts
from agenttuning.environments.database.engine import read_values
from agenttuning.environments.database.grammar import answer, operation
from agenttuning.environments.database.queries import Edit, Plan, Query, edit_sql, name_sql, query_sql, renamed
from agenttuning.environments.database.tables import Value

Exchange = Generator[Move, Step, Step]
DONE = ["done"]
"""The answer to a change."""


def play(plan: Plan, rng: random.Random, mistake_rate: float) -> Expert:
    """Return the demonstrator of a plan. It ends early where an observation is nothing it can go on from."""
    slip = rng.random() < mistake_rate
    if plan.knowledge == "nothing":
        slip = yield from _find_table(plan.table, slip, rng)
    elif plan.knowledge == "table":
        yield from _run(thoughts.list_columns(plan.table, rng), f"DESCRIBE {plan.table}")
    if plan.edit is not None and plan.check is not None:
        yield from _edit(plan.edit, plan.check, slip, rng)
        return
    assert plan.query is not None
    query, thought = plan.query, thoughts.need(plan.query, rng)
    if plan.first is not None:
        step = yield from _ask(plan, plan.first, thoughts.follow(plan.first, query.table, rng), slip, rng)
        values = read_values(step.observation)
        if not values:
            return
        last = query.where[0].model_copy(update={"value": values[0]})
        query = query.model_copy(update={"where": (last, *query.where[1:])})
        thought, slip = thoughts.found(plan.first.column, values[0], thoughts.need(query, rng)), False
    step = yield from _ask(plan, query, thought, slip, rng)
    values = read_values(step.observation)
    if values:
        yield Move(thoughts.conclude(values, rng), answer([str(value) for value in values]))


def _run(thought: str, sql: str, loss: bool = True) -> Exchange:
    return (yield Move(thought, operation(sql), loss))


def _find_table(table: str, slip: bool, rng: random.Random) -> Generator[Move, Step, bool]:
    """List the tables and look at the columns of the right one; return whether a slip is still to be made."""
    step = yield from _run(thoughts.list_tables(rng), "SHOW TABLES")
    others = [name for name in read_values(step.observation) or [] if name != table]
    if slip and others:
        wrong = rng.choice(others)
        yield from _run(thoughts.list_columns(wrong, rng), f"DESCRIBE {wrong}", loss=False)
        yield from _run(thoughts.not_here(wrong, table), f"DESCRIBE {table}")
        return False
    yield from _run(thoughts.list_columns(table, rng), f"DESCRIBE {table}")
    return slip


def _ask(plan: Plan, query: Query, thought: str, slip: bool, rng: random.Random) -> Exchange:
    """Ask a query under the names known so far, and mend it when the database refuses it."""
    if plan.knowledge == "hearsay":
        return (yield from _ask_by_hearsay(query, plan.names, rng))
    mistakes = _mistakes(plan, query, rng) if slip else []
    if mistakes:
        mistake = rng.choice(mistakes)
        step = yield from _run(mistake.thought or thought, mistake.sql, loss=False)
        if not step.error and len(read_values(step.observation) or []) == 1:
            return step
        if mistake.misnamed:
            yield from _run(thoughts.no_column(mistake.misnamed, query.table, rng), f"DESCRIBE {query.table}")
        thought = mistake.mended
    return (yield from _run(thought, query_sql(query)))


def _ask_by_hearsay(query: Query, names: dict[str, str], rng: random.Random) -> Exchange:
    heard = renamed(query, names)
    step = yield from _run(thoughts.need(heard, rng), query_sql(heard))
    if not step.error or not names:
        return step
    true, wrong = next(iter(names.items()))
    if heard.table == wrong:
        yield from _run(thoughts.no_table(wrong, rng), "SHOW TABLES")
    else:
        yield from _run(thoughts.no_column(wrong, query.table, rng), f"DESCRIBE {query.table}")
    return (yield from _run(thoughts.instead(true, wrong, rng), query_sql(query)))


def _edit(edit: Edit, check: Query, slip: bool, rng: random.Random) -> Expert:
    thought = thoughts.change(edit, rng)
    texts = _phrases((*edit.values.values(), *(condition.value for condition in edit.where)))
    if slip and texts:
        step = yield from _run(thought, edit_sql(edit, quoted=False), loss=False)
        if step.error:
            thought = thoughts.quotes(texts, rng)
    step = yield from _run(thought, edit_sql(edit))
    if step.error:
        return
    step = yield from _run(thoughts.verify(check, rng), query_sql(check))
    values = read_values(step.observation)
    if values:
        yield Move(thoughts.changed(edit, values, rng), answer(DONE))


@dataclass(frozen=True)
class Mistake:
    """A wrong statement, and the thought that mends it.

    A misnamed column is looked up before that, and the thought of the mistake (`thought`) names it too.
    """

    sql: str
    mended: str
    misnamed: str = ""
    thought: str = ""


def _mistakes(plan: Plan, query: Query, rng: random.Random) -> list[Mistake]:
    """Return the mistakes that fit a query: text without quotes, a condition left out, a misnamed column."""
    found: list[Mistake] = []
    texts = _phrases(tuple(condition.value for condition in query.where))
    if texts:
        found.append(Mistake(query_sql(query, quoted=False), thoughts.quotes(texts, rng)))
    if len(query.where) > 1 and query.function is None and query.order is None:
        fewer = query.model_copy(update={"where": query.where[:-1]})
        found.append(Mistake(query_sql(fewer), thoughts.missing(query.where[-1], rng)))
    for true, alias in plan.aliases.items():
        wrong = renamed(query, {true: alias})
        mended = thoughts.instead(true, alias, rng)
        found.append(Mistake(query_sql(wrong), mended, misnamed=alias, thought=thoughts.need(wrong, rng)))
    return found


def _phrases(values: tuple[Value, ...]) -> list[str]:
    """Return the texts that are a syntax error without quotes: two plain words side by side, and no comment."""
    if any(mark in str(value) for value in values for mark in ("--", "/*", "#")):
        return []
    texts = [value for value in values if isinstance(value, str)]
    return [text for text in texts if any(_is_plain(a) and _is_plain(b) for a, b in pairwise(text.split(" ")))]


def _is_plain(word: str) -> bool:
    return word.isalpha() and name_sql(word.casefold()) == word.casefold()
