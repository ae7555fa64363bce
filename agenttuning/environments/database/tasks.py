"""The seeded generator of tasks, and what keeps its splits apart.

A task is kept only where the engine and plain Python give the same result, where its answer does not stand in its
instruction, and where a change really changes the tables. Train and test share no task under any seeds: the hash of
a task's tables and the hash of its instruction each admit it to one of the two. `shifted` has domains, names and
wordings of its own.
"""

import random
import re
from collections.abc import Iterator, Sequence

from agenttuning.environments.database.engine import SQLiteEngine, read_values
from agenttuning.environments.database.families import FAMILIES, Draft, World, rename_column
from agenttuning.environments.database.grading import number, same_value
from agenttuning.environments.database.pools import draw_names
from agenttuning.environments.database.queries import Plan, apply, edit_sql, evaluate, query_sql, renamed
from agenttuning.environments.database.schemas import DOMAINS, SHIFTED, Domain
from agenttuning.environments.database.tables import Table, Value, state_of
from agenttuning.environments.database.wording import MAIN
from agenttuning.environments.database.wording import SHIFTED as SHIFTED_WORDING
from agenttuning.environments.families import chosen_families
from agenttuning.errors import ConfigurationError
from agenttuning.trajectory import Task, content_hash

SPLITS = ("train", "test", "shifted")
MAX_DRAWS = 5000
"""Worlds drawn for one task before the generator gives up; the median is 6."""
_TOKEN = re.compile(r"[^\s,;:?()]+")


def generate(
    environment: str, split: str, count: int, seed: int, families: Sequence[str] | None = None
) -> Iterator[Task]:
    """Yield `count` tasks. The first n are the same whatever `count` is; families come in equal shares.

    Args:
        environment: the registered name that the tasks carry.
        split: one of `SPLITS`.
        count: how many.
        seed: decides the tasks.
        families: those to draw from; None: all.

    Raises:
        ConfigurationError: an unknown split or family.
    """
    if split not in SPLITS:
        raise ConfigurationError(f"{environment} has the splits {', '.join(SPLITS)} (got {split!r})")
    seen: set[str] = set()
    names = sorted(chosen_families(environment, FAMILIES, families))
    for index in range(count):
        block, place = divmod(index, len(names))
        order = random.Random(f"{seed}/{split}/{block}").sample(names, len(names))
        task = _draw(environment, split, order[place], random.Random(f"{seed}/{split}/{index}"), seen)
        seen.add(task.id)
        yield task


def _draw(environment: str, split: str, family: str, rng: random.Random, seen: set[str]) -> Task:
    for _ in range(MAX_DRAWS):
        world, tables = _world(split, family, rng)
        draft = FAMILIES[family](world, rng)
        if draft is None:
            continue
        plan, tables = _with_aliases(draft.plan, world), _before(draft.plan, tables)
        instruction = f"{draft.question}\n{_context(world, draft, rng)}"
        if split != "shifted" and _split(tables, instruction) != split:
            continue
        answer = _answer(plan, tables)
        if answer is not None and _leaks(answer, instruction):
            continue
        task = Task(
            environment=environment,
            split=split,
            instruction=instruction,
            payload=_payload(plan, tables, answer),
            family=family,
        )
        if task.id not in seen:
            return task
    raise RuntimeError(f"database: no {split} task of family {family!r} in {MAX_DRAWS} draws")


def _world(split: str, family: str, rng: random.Random) -> tuple[World, list[Table]]:
    """Draw a domain, its columns and rows, and other tables beside it. The world's tables come first."""
    domains = SHIFTED if split == "shifted" else DOMAINS
    if family == "join":
        domains = tuple(domain for domain in domains if domain.parent is not None)
    domain = rng.choice(domains)
    texts = [column for column in domain.columns if not column.numeric]
    numbers = [column for column in domain.columns if column.numeric]
    kept = {rng.choice(texts), rng.choice(numbers)}
    kept |= set(rng.sample(domain.columns, rng.randint(0, len(domain.columns) - 1)))
    columns = tuple(column for column in domain.columns if column in kept)[: 3 if family == "join" else 4]
    rows = rng.randint(6, 10)
    names = draw_names(domain.names, rows, rng)
    cells: list[Sequence[Value]] = [names]
    for column in columns:
        cells.append(rng.sample(column.pool, rows) if column.numeric else rng.choices(column.pool, k=rows))
    header = [domain.key, *(column.name for column in columns)]
    types = ["text", *("int" if column.numeric else "text" for column in columns)]
    parent = _parent_table(domain, rng)
    if family == "join" and domain.parent is not None:
        header.append(domain.parent.reference)
        types.append("int")
        cells.append(rng.choices(parent.column("id"), k=rows))
    table = Table(name=domain.table, columns=header, types=types, rows=list(zip(*cells, strict=True)))
    world = World(domain, columns, table, parent, SHIFTED_WORDING if split == "shifted" else MAIN)
    if family == "join":
        return world, [table, parent]
    if family in ("explore", "misnamed_table"):
        others = rng.sample([other for other in domains if other is not domain], 2)
        return world, [table, *(_small_table(other, rng) for other in others)]
    return world, [table]


def _parent_table(domain: Domain, rng: random.Random) -> Table:
    if domain.parent is None:
        return Table(name="", columns=(), types=(), rows=())
    column, size = domain.parent.column, rng.randint(3, 5)
    ids: list[Value] = list(rng.sample(range(2, 60), size))
    values: list[Value] = rng.sample(column.pool, size)
    rows = list(zip(ids, draw_names(domain.parent.names, size, rng), values, strict=True))
    kind = "int" if column.numeric else "text"
    return Table(name=domain.parent.table, columns=("id", "name", column.name), types=("int", "text", kind), rows=rows)


def _small_table(domain: Domain, rng: random.Random) -> Table:
    column = domain.columns[0]
    names = draw_names(domain.names, 3, rng)
    rows = [(name, rng.choice(column.pool)) for name in names]
    kind = "int" if column.numeric else "text"
    return Table(name=domain.table, columns=(domain.key, column.name), types=("text", kind), rows=rows)


def _with_aliases(plan: Plan, world: World) -> Plan:
    """Give a query about known columns the words that one might confuse with them."""
    if plan.query is None or plan.first is not None or plan.knowledge != "columns":
        return plan
    aliases = {column.name: column.alias for column in world.columns if column.alias}
    used = {old: new for old, new in aliases.items() if renamed(plan.query, {old: new}) != plan.query}
    return plan.model_copy(update={"aliases": used})


def _before(plan: Plan, tables: list[Table]) -> list[Table]:
    """Take the row that an insert will add out of the drawn table."""
    if plan.edit is None or plan.edit.kind != "insert":
        return tables
    return [tables[0].model_copy(update={"rows": tables[0].rows[:-1]}), *tables[1:]]


def _context(world: World, draft: Draft, rng: random.Random) -> str:
    plan, wording = draft.plan, world.wording
    for true, wrong in plan.names.items():
        world = rename_column(world, true, wrong)
    table = plan.names.get(world.table.name, world.table.name)
    columns = ", ".join(world.table.columns)
    others = ", ".join(world.parent.columns)
    forms = {
        "columns": wording.two_tables if plan.first else wording.columns,
        "table": wording.table,
        "nothing": wording.nothing,
        "hearsay": wording.hearsay,
    }[plan.knowledge]
    return rng.choice(forms).format(table=table, columns=columns, other=world.parent.name, others=others)


def _split(tables: list[Table], instruction: str) -> str | None:
    """Return the split that tables and instruction both admit, or None."""
    by_tables = int(content_hash([table.model_dump(mode="json") for table in tables]), 16) % 4 == 0
    by_words = int(content_hash(instruction), 16) % 3 == 0
    return None if by_tables != by_words else "test" if by_tables else "train"


def _answer(plan: Plan, tables: list[Table]) -> list[str] | None:
    """Return the answer by plain Python, or None for a change."""
    if plan.query is None:
        return None
    table = next(table for table in tables if table.name == plan.query.table)
    return [str(value) for value in evaluate(plan.query, table)]


def _leaks(answer: list[str], instruction: str) -> bool:
    words = [word.rstrip(".") for word in _TOKEN.findall(instruction)]
    if any(same_value(value, word) for value in answer for word in words if number(value) is not None):
        return True
    text = f" {' '.join(words)} ".casefold()
    return any(f" {value.casefold()} " in text for value in answer)


def _payload(plan: Plan, tables: list[Table], answer: list[str] | None) -> dict[str, object]:
    """Run the gold SQL on a copy and return the payload, with what the engine gave.

    Raises:
        RuntimeError: engine and plain Python disagree, or a change changes nothing: a bug in the generator.
    """
    engine = SQLiteEngine()
    engine.create(tables)
    before = state_of(tables)
    if plan.edit is not None:
        reply = engine.execute(edit_sql(plan.edit))
        after = state_of([apply(plan.edit, tables[0]), *tables[1:]])
        agree = not reply.error and engine.state(tables) == after != before
    else:
        assert plan.query is not None
        assert answer is not None
        values = read_values(engine.execute(query_sql(plan.query)).text) or []
        after, found = before, [str(value) for value in values]
        agree = len(found) == len(answer) and all(same_value(f, a) for f, a in zip(found, answer, strict=True))
        answer = found
    engine.close()
    if not agree:
        raise RuntimeError(f"database: engine and Python disagree on {plan!r}")
    return {
        "tables": [table.model_dump(mode="json") for table in tables],
        "answer": answer,
        "before": before,
        "state": after,
        "plan": plan.model_dump(mode="json"),
    }
