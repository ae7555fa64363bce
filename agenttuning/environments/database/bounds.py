"""What a statement could grow to before it runs: SQLite copies a view or a WITH query wherever it is named.

Twenty queries that each name the one before twice become a million, while the statement is prepared, where no time
limit is looked at. The bound here is never below the true number of copies.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence

MOST_COPIES = 10_000
"""Copies that SQLite makes in about a tenth of a second."""
_TOKEN = re.compile(
    r"--[^\n]*|/\*.*?(?:\*/|\Z)"
    r"|'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"|`(?:[^`]|``)*`|\[[^\]]*\]"
    r"|[\w$\u0080-\U0010ffff]+|\S",
    re.DOTALL,
)


def copies(sql: str, views: Mapping[str, str] | None = None, triggers: Sequence[str] = ()) -> float:
    """Return a bound on how often parts of a statement are copied: 1 where no view and no WITH is named twice.

    Args:
        sql: the statement.
        views: the definition of each view of the database by its name; those that nothing names do not count.
        triggers: definitions of triggers, which any statement may set off.
    """
    tokens = [name for text in (sql, *triggers) for name in _names(text)]
    waiting = {name.casefold(): text for name, text in (views or {}).items()}
    defined: Counter[str] = Counter()
    while found := waiting.keys() & set(tokens):
        defined.update(found)
        tokens += [name for view in sorted(found) for name in _names(waiting.pop(view))]
    defined.update(name for at in _openings(tokens) if (name := _named(tokens, at)) is not None)
    # A name with a dot behind it is a column's owner.
    named = Counter(name for name, after in zip(tokens, [*tokens[1:], ""], strict=True) if after != ".")
    bound = 1.0
    for name, times in defined.items():
        bound *= max(1.0, (named[name] - times) / times) ** times
    return bound


def _names(sql: str) -> list[str]:
    """Return the tokens without comments, names without their quotes and in lower case."""
    found = (token for token in _TOKEN.findall(sql) if not token.startswith(("--", "/*")))
    return [(token[1:-1] if len(token) > 1 and token[0] in "'\"`[" else token).casefold() for token in found]


def _openings(tokens: list[str]) -> list[int]:
    """Return the places of `AS [[NOT] MATERIALIZED] (`."""
    after = {"(": (), "materialized": ("(",), "not": ("materialized", "(")}
    return [
        at
        for at, token in enumerate(tokens[:-1])
        if token == "as"
        and (rest := after.get(tokens[at + 1])) is not None
        and tuple(tokens[at + 2 : at + 2 + len(rest)]) == rest
    ]


def _named(tokens: list[str], at: int) -> str | None:
    """Return the name before an `AS` and before the list of columns that may stand between."""
    at -= 1
    if at >= 0 and tokens[at] == ")":
        depth = 0
        while at >= 0:
            depth += (tokens[at] == ")") - (tokens[at] == "(")
            at -= 1
            if depth == 0:
                break
    return tokens[at] if at >= 0 else None
