"""Gold SQL read as a tree: written plainly, cut into steps, and said in words.

Text in, text out: nothing is run here.
"""

import re
from collections.abc import Sequence
from functools import cache
from typing import Any

from agenttuning.environments.database.queries import name_sql
from agenttuning.environments.database.tables import Table

TODAYS = re.compile(r"\b(current_date|current_time|current_timestamp|curdate|now|sysdate|rand|random)\b|'now'", re.I)
"""Words that make a result depend on the day or on chance."""


@cache
def _glot() -> Any:
    import logging

    import sqlglot

    logging.getLogger("sqlglot").setLevel(logging.CRITICAL)
    return sqlglot


def parsed(sql: str) -> Any:
    """Return a statement's tree (MySQL's dialect), or None where it cannot be read."""
    glot = _glot()
    try:
        trees = glot.parse(sql, read="mysql")
    except (glot.errors.SqlglotError, RecursionError, ValueError):
        return None
    trees = [tree for tree in trees if tree is not None]
    return trees[0] if len(trees) == 1 and not isinstance(trees[0], glot.exp.Command) else None


def written(tree: Any) -> str:
    """Return a tree as MySQL text, with names in back-ticks only where they need them."""
    exp = _glot().exp
    tree = tree.copy()
    for identifier in tree.find_all(exp.Identifier):
        identifier.set("quoted", name_sql(identifier.this) != identifier.this)
    return str(tree.sql(dialect="mysql"))


def tidy(sql: str, tables: Sequence[Table]) -> str:
    """Return a gold statement written plainly: names as the tables have them, no needless aliases.

    Whether it still gives the same is for the caller to see.
    """
    tree = parsed(sql)
    if tree is None:
        return sql.strip().rstrip(";").strip()
    exp = _glot().exp
    names = {name.casefold(): name for table in tables for name in (table.name, *table.columns)}
    for table in tree.find_all(exp.Table):
        table.set("db", None)
    for identifier in tree.find_all(exp.Identifier):
        if (known := names.get(identifier.this.casefold())) is not None:
            identifier.set("this", known)
    for select in tree.find_all(exp.Select):
        _without_alias(select)
        _without_null_order(select)
    return written(tree)


def _without_alias(select: Any) -> None:
    """Drop the alias of a SELECT's only table, unless an inner SELECT refers to it."""
    exp = _glot().exp
    sources = [table for table in select.find_all(exp.Table) if table.find_ancestor(exp.Select) is select]
    if len(sources) != 1 or select.args.get("joins"):
        return
    alias = sources[0].alias_or_name.casefold()
    columns = [column for column in select.find_all(exp.Column) if column.table.casefold() == alias]
    if any(column.find_ancestor(exp.Select) is not select for column in columns):
        return
    for column in columns:
        column.set("table", None)
    sources[0].set("alias", None)


def _without_null_order(select: Any) -> None:
    """Drop `CASE WHEN x IS NULL THEN 1 ELSE 0 END` before `x` in an ORDER BY."""
    exp = _glot().exp
    order = select.args.get("order")
    if order is not None:
        kept = [
            term for term in order.expressions if not (isinstance(term.this, exp.Case) and "IS NULL" in term.this.sql())
        ]
        if kept:
            order.set("expressions", kept)


def inner_queries(tree: Any) -> list[Any]:
    """Return the sub-queries that can be asked alone before the whole: scalar, in a comparison, of their own tables."""
    exp = _glot().exp
    comparisons = (exp.EQ, exp.GT, exp.LT, exp.GTE, exp.LTE)
    found = []
    for inner in tree.find_all(exp.Subquery):
        select = inner.this
        if not isinstance(inner.parent, comparisons) or not isinstance(select, exp.Select):
            continue
        own = {table.alias_or_name.casefold() for table in select.find_all(exp.Table)}
        if all(not column.table or column.table.casefold() in own for column in select.find_all(exp.Column)):
            found.append(inner)
    return sorted(found, key=lambda inner: -inner.depth)


def limit_keys(tree: Any) -> tuple[str, int] | None:
    """Return, for a SELECT with ORDER BY and LIMIT n, a query of its order's keys for n + 1 rows, and n.

    Where rows n and n + 1 have equal keys, which of them the SELECT gives is for the engine to choose.
    """
    exp = _glot().exp
    if not isinstance(tree, exp.Select) or tree.args.get("limit") is None or tree.args.get("order") is None:
        return None
    limit = tree.args["limit"].expression
    if not isinstance(limit, exp.Literal) or tree.args.get("offset") is not None or tree.args.get("distinct"):
        return None
    keys = tree.copy()
    aliases = {item.alias: item.this for item in keys.expressions if isinstance(item, exp.Alias)}
    terms = [term.this for term in keys.args["order"].expressions]
    found = [aliases.get(t.name, t) if isinstance(t, exp.Column) and not t.table else t for t in terms]
    # The first columns stay: others may refer to them by their names.
    keys.set("expressions", [*keys.expressions, *(term.copy() for term in found)])
    keys.set("limit", exp.Limit(expression=exp.Literal.number(int(limit.this) + 1)))
    return written(keys), int(limit.this)


def literal_node(value: str | int | float) -> Any:
    """Return a value as a node that can take a sub-query's place."""
    exp = _glot().exp
    if isinstance(value, str):
        return exp.Literal.string(value)
    number = exp.Literal.number(abs(value))
    return number if value >= 0 else exp.Neg(this=number)


def table_names(tree: Any, tables: Sequence[Table]) -> list[str]:
    """Return the tables of the database that a statement reads or changes, in their order of appearance."""
    known = {table.name.casefold(): table.name for table in tables}
    found = [known[t.name.casefold()] for t in tree.find_all(_glot().exp.Table) if t.name.casefold() in known]
    return list(dict.fromkeys(found))


def column_nodes(tree: Any) -> list[Any]:
    """Return the plain columns of a statement."""
    return list(tree.find_all(_glot().exp.Column))


def in_words(tree: Any) -> str:
    """Say what a SELECT asks for: what, from where, under which conditions, in which order."""
    exp = _glot().exp
    if not isinstance(tree, exp.Select):
        return "the rows of " + " and ".join(dict.fromkeys(table.name for table in tree.find_all(exp.Table)))
    asked = _join([_item(item, exp) for item in tree.expressions])
    sources = dict.fromkeys(t.name for t in tree.find_all(exp.Table) if t.find_ancestor(exp.Select) is tree)
    said = f"the {asked} from {_join(list(sources))}" if sources else f"the {asked}"
    if tree.args.get("where") is not None:
        said += f" where {_condition(tree.args['where'].this, exp)}"
    if tree.args.get("group") is not None:
        said += f", for each {_join([_plain(_meant(item, tree, exp), exp) for item in tree.args['group'].expressions])}"
    if tree.args.get("having") is not None:
        said += f", where {_condition(tree.args['having'].this, exp)}"
    if tree.args.get("order") is not None:
        terms = []
        for term in tree.args["order"].expressions:
            terms.append(
                f"{_item(_meant(term.this, tree, exp), exp)}, {'highest' if term.args.get('desc') else 'lowest'} first"
            )
        said += f", by {_join(terms)}"
    if tree.args.get("limit") is not None:
        count = tree.args["limit"].expression.sql()
        said += ", only the first" if count == "1" else f", only the first {count}"
    return said


def _meant(term: Any, tree: Any, exp: Any) -> Any:
    """Return what a term of GROUP BY or ORDER BY stands for: a column by its place or by its alias."""
    if isinstance(term, exp.Literal) and not term.is_string and term.this.isdecimal():
        place = int(term.this)
        found = tree.expressions[place - 1] if 0 < place <= len(tree.expressions) else term
        return found.this if isinstance(found, exp.Alias) else found
    aliases = {item.alias: item.this for item in tree.expressions if isinstance(item, exp.Alias)}
    return aliases.get(term.name, term) if isinstance(term, exp.Column) and not term.table else term


def _item(node: Any, exp: Any) -> str:
    if isinstance(node, exp.Alias):
        node = node.this
    words = {exp.Max: "highest", exp.Min: "lowest", exp.Avg: "average", exp.Sum: "total"}
    for kind, word in words.items():
        if isinstance(node, kind):
            return f"{word} {_plain(node.this, exp)}"
    if isinstance(node, exp.Count):
        counted = node.this
        if isinstance(counted, exp.Distinct):
            return f"number of different {_join([_plain(item, exp) for item in counted.expressions])}"
        return "number of rows" if isinstance(counted, exp.Star) else f"number of {_plain(counted, exp)}"
    return _plain(node, exp)


def _plain(node: Any, exp: Any) -> str:
    if isinstance(node, exp.Column):
        return str(node.name) if not isinstance(node.this, exp.Star) else "rows"
    if isinstance(node, exp.Star):
        return "rows"
    if isinstance(node, exp.Count | exp.Max | exp.Min | exp.Avg | exp.Sum):
        return _item(node, exp)
    if isinstance(node, exp.Literal):
        return str(node.this)
    if isinstance(node, exp.Lower | exp.Paren | exp.Distinct) and isinstance(node.this, exp.Expression):
        return _plain(node.this, exp)
    return str(node.sql(dialect="mysql"))


def _condition(node: Any, exp: Any) -> str:
    words = {exp.EQ: "is", exp.NEQ: "is not", exp.GT: "is above", exp.LT: "is below", exp.GTE: "is at least",
             exp.LTE: "is at most", exp.Like: "is like"}  # fmt: skip
    if isinstance(node, exp.And | exp.Or):
        return (
            f"{_condition(node.left, exp)} {'and' if isinstance(node, exp.And) else 'or'} {_condition(node.right, exp)}"
        )
    if isinstance(node, exp.Paren):
        return _condition(node.this, exp)
    if isinstance(node, exp.Not):
        return f"it is not so that {_condition(node.this, exp)}"
    if isinstance(node, exp.In) and node.args.get("query") is not None:
        return f"{_plain(node.this, exp)} is one of {in_words(node.args['query'].this)}"
    if isinstance(node, exp.In):
        return f"{_plain(node.this, exp)} is one of {_join([_plain(item, exp) for item in node.expressions])}"
    for kind, word in words.items():
        if isinstance(node, kind):
            right = in_words(node.right.this) if isinstance(node.right, exp.Subquery) else _plain(node.right, exp)
            return f"{_plain(node.left, exp)} {word} {right}"
    return str(node.sql(dialect="mysql"))


def _join(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}" if words else ""
