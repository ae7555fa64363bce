"""The families of tasks: from a world of random tables to a question and its plan.

A family is a function of a world and a random generator. It returns None where the rows do not support a good
question (a tie, an empty result); the caller then draws another world.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass, replace

from agenttuning.environments.database.queries import (
    Condition,
    Edit,
    Function,
    Knowledge,
    Plan,
    Query,
    evaluate,
    renamed,
)
from agenttuning.environments.database.schemas import Column, Domain, Parent
from agenttuning.environments.database.tables import Table, Value
from agenttuning.environments.database.wording import Wording


@dataclass(frozen=True)
class World:
    """The tables of a task as the question's author believes they are called, with all that words them."""

    domain: Domain
    columns: tuple[Column, ...]
    table: Table
    parent: Table
    wording: Wording

    @property
    def key(self) -> str:
        """The column with the names."""
        return self.domain.key

    def some(self, numeric: bool, rng: random.Random) -> Column:
        """Return a random text or number column."""
        return rng.choice([column for column in self.columns if column.numeric is numeric])


@dataclass(frozen=True)
class Draft:
    """A question and how it is solved."""

    question: str
    plan: Plan


Family = Callable[[World, random.Random], Draft | None]


def lookup(world: World, rng: random.Random) -> Draft | None:
    """The value of one column, for a thing given by its name."""
    column = rng.choice(world.columns).name
    name = rng.choice(world.table.column(world.key))
    question = _say(world, rng, world.wording.lookup, column=column, name=name)
    return _ask(question, Query(table=world.table.name, column=column, where=(_equal(world.key, name),)))


def which(world: World, rng: random.Random) -> Draft | None:
    """The one thing for which two conditions hold, each of which holds for several."""
    query = Query(table=world.table.name, column=world.key, where=_two_conditions(world, rng))
    if len(evaluate(query, world.table)) != 1:
        return None
    if any(len(evaluate(query.model_copy(update={"where": (c,)}), world.table)) < 2 for c in query.where):
        return None
    return _ask(_say(world, rng, world.wording.which, where=_where(world, rng, query.where)), query)


def listing(world: World, rng: random.Random) -> Draft | None:
    """The names of the two to four things for which a condition holds."""
    query = Query(table=world.table.name, column=world.key, where=(_condition(world, rng),))
    if not 2 <= len(evaluate(query, world.table)) <= 4:
        return None
    return _ask(_say(world, rng, world.wording.listing, where=_where(world, rng, query.where)), query)


def count(world: World, rng: random.Random) -> Draft | None:
    """How many things satisfy one or two conditions."""
    where = _two_conditions(world, rng) if rng.random() < 0.3 else (_condition(world, rng),)
    query = Query(table=world.table.name, function="COUNT", where=where)
    if not 1 <= int(evaluate(query, world.table)[0]) < len(world.table.rows):
        return None
    return _ask(_say(world, rng, world.wording.count, where=_where(world, rng, where)), query)


def extreme(world: World, rng: random.Random) -> Draft | None:
    """The name of the thing with the highest or lowest value of a number column."""
    column, descending = world.some(True, rng).name, rng.random() < 0.5
    where = _filter(world, rng)
    query = Query(table=world.table.name, column=world.key, where=where, order=column, descending=descending)
    most = rng.choice(world.wording.extremes)[0 if descending else 1]
    forms = world.wording.extreme_where if where else world.wording.extreme
    return _ask(_say(world, rng, forms, where=_where(world, rng, where), column=column, most=most), query)


def aggregate(world: World, rng: random.Random) -> Draft | None:
    """Sum, average, maximum or minimum of a number column."""
    functions: list[Function] = ["SUM", "AVG", "MAX", "MIN"]
    function = rng.choice(functions)
    column, where = world.some(True, rng).name, _filter(world, rng)
    query = Query(table=world.table.name, column=column, function=function, where=where)
    value = evaluate(query, world.table)[0]
    if isinstance(value, float) and round(value, 2) != value:
        return None
    forms = world.wording.aggregate_where if where else world.wording.aggregate
    word = world.wording.functions[function]
    return _ask(_say(world, rng, forms, where=_where(world, rng, where), column=column, function=word), query)


def explore(world: World, rng: random.Random) -> Draft | None:
    """A question of another family about tables of which nothing is known."""
    return _known(rng.choice([lookup, count, extreme, aggregate])(world, rng), "nothing")


def describe(world: World, rng: random.Random) -> Draft | None:
    """A question of another family about a table whose columns are not known."""
    return _known(rng.choice([lookup, count, extreme, listing])(world, rng), "table")


def join(world: World, rng: random.Random) -> Draft | None:
    """A question that two tables answer: the number found in one is looked up in the other."""
    parent = _parent(world)
    if rng.random() < 0.5:
        name = rng.choice(world.table.column(world.key))
        column = rng.choice(["name", parent.column.name])
        first = Query(table=world.table.name, column=parent.reference, where=(_equal(world.key, name),))
        number = evaluate(first, world.table)[0]
        query = Query(table=parent.table, column=column, where=(_equal("id", number),))
        question = _say(world, rng, world.wording.parent_of, column=column, name=name, parent=parent.noun)
    else:
        name = rng.choice(world.parent.column("name"))
        first = Query(table=parent.table, column="id", where=(_equal("name", name),))
        where = (_equal(parent.reference, evaluate(first, world.parent)[0]),)
        counted = rng.random() < 0.5
        query = Query(table=world.table.name, column="*" if counted else world.key, where=where)
        if not 1 <= len(evaluate(query.model_copy(update={"column": world.key}), world.table)) <= 4:
            return None
        query = query.model_copy(update={"function": "COUNT"}) if counted else query
        forms = world.wording.children_count if counted else world.wording.children_list
        question = _say(world, rng, forms, name=name, parent=parent.noun)
    return Draft(question, Plan(knowledge="columns", first=first, query=query))


def update(world: World, rng: random.Random) -> Draft | None:
    """Another value for one column of one thing."""
    column = rng.choice(world.columns)
    name = rng.choice(world.table.column(world.key))
    where = (_equal(world.key, name),)
    check = Query(table=world.table.name, column=column.name, where=where)
    value = rng.choice(column.pool)
    if value == evaluate(check, world.table)[0]:
        return None
    edit = Edit(kind="update", table=world.table.name, values={column.name: value}, where=where)
    question = _say(world, rng, world.wording.update, column=column.name, name=name, value=value)
    return Draft(question, Plan(knowledge=_edit_knowledge(rng), edit=edit, check=check))


def insert(world: World, rng: random.Random) -> Draft | None:
    """A new thing with a value for every column."""
    row = {column: world.table.column(column)[-1] for column in world.table.columns}
    edit = Edit(kind="insert", table=world.table.name, values=row)
    check = Query(table=world.table.name, function="COUNT", where=(_equal(world.key, row[world.key]),))
    values = [f"{label(column)} {value}" for column, value in row.items()]
    question = _say(world, rng, world.wording.insert, values=_and(values))
    return Draft(question, Plan(knowledge="columns", edit=edit, check=check))


def delete(world: World, rng: random.Random) -> Draft | None:
    """One thing, or all for which a condition holds, removed."""
    if rng.random() < 0.5:
        name = rng.choice(world.table.column(world.key))
        where = (_equal(world.key, name),)
        question = _say(world, rng, world.wording.delete_one, name=name)
    else:
        where = (_condition(world, rng),)
        question = _say(world, rng, world.wording.delete_where, where=_where(world, rng, where))
    check = Query(table=world.table.name, function="COUNT", where=where)
    if not 1 <= int(evaluate(check, world.table)[0]) < len(world.table.rows):
        return None
    edit = Edit(kind="delete", table=world.table.name, where=where)
    return Draft(question, Plan(knowledge=_edit_knowledge(rng), edit=edit, check=check))


def misnamed_column(world: World, rng: random.Random) -> Draft | None:
    """A question with the columns as somebody remembers them: mostly one of them has another name."""
    column = rng.choice([column for column in world.columns if column.alias])
    if rng.random() < 0.2:
        return _known(rng.choice([lookup, count, extreme])(world, rng), "hearsay")
    return _misnamed(rename_column(world, column.name, column.alias), column.name, column.alias, rng)


def misnamed_table(world: World, rng: random.Random) -> Draft | None:
    """A question with the table as somebody remembers it: mostly it has another name."""
    if rng.random() < 0.2:
        return _known(rng.choice([lookup, count, extreme])(world, rng), "hearsay")
    heard = replace(world, table=world.table.model_copy(update={"name": world.domain.alias}))
    return _misnamed(heard, world.table.name, world.domain.alias, rng)


FAMILIES: dict[str, Family] = {
    function.__name__: function
    for function in (
        *(lookup, which, listing, count, extreme, aggregate, explore, describe),
        *(join, update, insert, delete, misnamed_column, misnamed_table),
    )
}


def rename_column(world: World, old: str, new: str) -> World:
    """Return the world with one column called otherwise."""

    def name(column: str) -> str:
        return new if column == old else column

    return replace(
        world,
        columns=tuple(replace(c, name=name(c.name)) for c in world.columns),
        table=world.table.model_copy(update={"columns": tuple(map(name, world.table.columns))}),
    )


def label(column: str) -> str:
    """Return a column's name as a question words it."""
    return column.replace("_", " ")


def _misnamed(heard: World, true: str, wrong: str, rng: random.Random) -> Draft | None:
    draft = rng.choice([lookup, count, extreme])(heard, rng)
    if draft is None or draft.plan.query is None:
        return None
    query = renamed(draft.plan.query, {wrong: true})
    if query == draft.plan.query:
        return None
    return Draft(draft.question, Plan(knowledge="hearsay", query=query, names={true: wrong}))


def _ask(question: str, query: Query) -> Draft:
    return Draft(question, Plan(knowledge="columns", query=query))


def _known(draft: Draft | None, knowledge: Knowledge) -> Draft | None:
    return draft and replace(draft, plan=draft.plan.model_copy(update={"knowledge": knowledge}))


def _edit_knowledge(rng: random.Random) -> Knowledge:
    return "table" if rng.random() < 0.3 else "columns"


def _parent(world: World) -> Parent:
    assert world.domain.parent is not None
    return world.domain.parent


def _equal(column: str, value: Value) -> Condition:
    return Condition(column=column, operator="=", value=value)


def _condition(world: World, rng: random.Random) -> Condition:
    column = rng.choice(world.columns)
    values = world.table.column(column.name)
    if not column.numeric:
        return _equal(column.name, rng.choice(values))
    inner = sorted(values, key=float)[1:-1]
    return Condition(column=column.name, operator=rng.choice([">", "<"]), value=rng.choice(inner))


def _two_conditions(world: World, rng: random.Random) -> tuple[Condition, ...]:
    columns = rng.sample(world.columns, 2)
    return tuple(_condition(replace(world, columns=(column,)), rng) for column in columns)


def _filter(world: World, rng: random.Random) -> tuple[Condition, ...]:
    """In half of the cases nothing, else a text condition that holds for some rows but not for one or all."""
    if rng.random() < 0.5:
        return ()
    column = world.some(False, rng).name
    where = (_equal(column, rng.choice(world.table.column(column))),)
    held = len(evaluate(Query(table=world.table.name, column=column, where=where), world.table))
    return where if 2 <= held < len(world.table.rows) else ()


def _where(world: World, rng: random.Random, where: tuple[Condition, ...]) -> str:
    forms = rng.choice(world.wording.conditions)
    return " and ".join(forms["=><".index(c.operator)].format(column=label(c.column), value=c.value) for c in where)


def _say(world: World, rng: random.Random, forms: tuple[str, ...], **fields: Value) -> str:
    if isinstance(column := fields.get("column"), str):
        fields["column"] = label(column)
    return rng.choice(forms).format(
        noun=world.domain.noun, nouns=label(world.domain.table), key=label(world.key), **fields
    )


def _and(parts: list[str]) -> str:
    return ", ".join(parts[:-1]) + " and " + parts[-1]
