"""The text of a game: TextWorld's context-sensitive grammar, rendered without parsing or copying anything twice.

The grammar file is parsed by TextWorld itself, once for a process; this module only evaluates the parsed symbols. Its
output equals TextWorld's own (`ContextSensitiveGrammar.derive`), which spends 70 % of a step on parsing templates
again and most of the rest on deep copies. What it does not do: choose among several texts; as in TextWorld, the
first rule whose condition holds is taken.
"""

from collections.abc import Iterable, Mapping
from functools import lru_cache
from types import CodeType
from typing import Any

from agenttuning.environments.alfworld.wheel import quiet_home

with quiet_home():
    from textworld.envs.pddl import textgen
    from textworld.logic import Rule


@lru_cache(maxsize=512)
def _query(text: str) -> Any:
    return Rule.parse_conjunctive_query(text)


@lru_cache(maxsize=512)
def _code(expression: str) -> CodeType:
    return compile(expression, "<alfworld grammar>", "eval")


class Renderer:
    """Renders the rules of one parsed grammar.

    Args:
        rules: production rules by symbol, in the order in which they are tried.
        state: the game's state; answers queries with assignments of placeholders to variables.
        entities: entity (with `name`, `id`, `indefinite`) by the variable's name.
    """

    def __init__(self, rules: Mapping[str, list[Any]], state: Any, entities: Mapping[str, Any]) -> None:
        self.rules = rules
        self.state = state
        self.entities = entities

    def render(self, symbol: str, mapping: Mapping[Any, Any]) -> str:
        """Return the text of a nonterminal, with some placeholders already bound to variables."""
        for rule in self.rules[symbol]:
            if not rule.condition or next(self._assignments(rule.condition, mapping), None) is not None:
                return "".join(text for part in rule.rhs for text in self._parts(part, mapping))
        raise KeyError(f"no rule of the game's grammar for {symbol!r} applies")

    def _assignments(self, condition: str, mapping: Mapping[Any, Any]) -> Any:
        return iter(self.state.all_assignments(_query(condition), mapping))

    def _parts(self, symbol: Any, mapping: Mapping[Any, Any]) -> Iterable[str]:
        """Yield the texts that a symbol stands for: one, or one for each match of a conditional."""
        if isinstance(symbol, textgen.TerminalSymbol):
            yield str(symbol)
        elif isinstance(symbol, textgen.NonterminalSymbol):
            yield self.render(str(symbol), mapping)
        elif isinstance(symbol, textgen.EvalSymbol):
            names = {placeholder.name: self.entities[variable.name] for placeholder, variable in mapping.items()}
            yield str(eval(_code(symbol.expression), {"__builtins__": {}}, names))
        elif isinstance(symbol, textgen.ConditionalSymbol):
            matches = self._assignments(symbol.given, mapping) if symbol.given else [mapping]
            for match in list(map(dict, matches)):
                yield from self._parts(symbol.expression, {**mapping, **match})
        else:
            yield self._listed(list(self._parts(symbol.symbol, mapping)), mapping)

    def _listed(self, items: list[str], mapping: Mapping[Any, Any]) -> str:
        if not items:
            return self.render("list_empty", mapping)
        if len(items) == 1:
            return items[0]
        separator = self.render("list_separator", mapping)
        return separator.join(items[:-1]) + self.render("list_last_separator", mapping) + items[-1]
