"""The seven tools, and the variables that an episode makes with them.

A variable is a program and the type of what it leads to; nothing is fetched before it is asked for. Tools refuse what
they cannot do, with a message that says why: an entity that the question does not name, a relation or attribute that
was not listed for a variable before, an intersection of different types.
"""

from collections.abc import Collection
from dataclasses import dataclass, field

from agenttuning.environments.base import Step
from agenttuning.environments.knowledge_graph.graph import Schema
from agenttuning.environments.knowledge_graph.programs import (
    Count,
    Entity,
    Hop,
    Most,
    Program,
    count_query,
    members_query,
    outgoing_query,
    shared,
)
from agenttuning.environments.knowledge_graph.stores import Store
from agenttuning.trajectory import Action

HEAD = "Observation: "
NUMBER = "number"
"""Type of a count."""
MOST_MEMBERS = 5000
"""Ids of an answer that are kept as evidence; a larger answer is kept by its size alone."""


class Refused(Exception):
    """A tool refuses a call; the text tells the agent why."""


@dataclass(frozen=True)
class Variable:
    """What an argument stands for."""

    name: str
    """As the agent writes it: `#0`, or an entity's name."""
    program: Program
    kind: str
    """Type of its entities; `number` for a count, empty for an entity of the question."""


@dataclass
class Tools:
    """The tools of one episode.

    Args:
        store: what runs the programs.
        schema: the vocabulary.
        entities: name to id of what the question names.
        max_chars: length at which a list is cut, at the end of an item.
    """

    store: Store
    schema: Schema
    entities: dict[str, str]
    max_chars: int
    variables: list[Variable] = field(default_factory=list)
    _relations: dict[Program, list[str]] = field(default_factory=dict)
    _attributes: dict[Program, list[str]] = field(default_factory=dict)
    _outgoing: dict[Program, set[str]] = field(default_factory=dict)

    def run(self, action: Action) -> Step:
        """Carry out a call of a tool.

        Raises:
            InfrastructureError: the store cannot answer.
        """
        try:
            return self._run(action.name, *action.arguments.values())
        except Refused as error:
            return Step(f"{HEAD}Error: {error}", error=True)

    def named(self, text: str) -> Variable:
        """Return the variable or entity that an argument names.

        Raises:
            Refused: there is none of that name.
        """
        if text.startswith("#"):
            for variable in self.variables:
                if variable.name == text:
                    return variable
            made = f"the last one is #{len(self.variables) - 1}" if self.variables else "there are none yet"
            raise Refused(f"there is no variable {text[:40]}; {made}")
        if text in self.entities:
            return Variable(text, Entity(self.entities[text]), "")
        if text in self.entities.values():
            return Variable(text, Entity(text), "")
        raise Refused(
            f"{text[:80]!r} is neither a variable such as #0 nor an entity of the question; the entities are "
            f"{', '.join(self.entities) or 'none'}"
        )

    def members(self, variable: Variable) -> tuple[list[str], int]:
        """Return the sorted ids of a variable's entities and how many there are; no ids beyond `MOST_MEMBERS`."""
        prefix = self.schema.prefix
        rows = self.store.rows(members_query(variable.program, prefix, MOST_MEMBERS + 1))
        if len(rows) > MOST_MEMBERS:
            return [], self.number(Count(variable.program))
        return sorted(row[0].removeprefix(prefix) for row in rows), len(rows)

    def number(self, program: Count) -> int:
        """Return the number that a count stands for."""
        return int(self.store.rows(count_query(program.of, self.schema.prefix))[0][0])

    def _run(self, tool: str, first: str, second: str = "") -> Step:
        if tool == "intersection":
            return self._intersection(first, second)
        variable = self.named(first)
        if variable.kind == NUMBER:
            raise Refused(f"{variable.name} is a number; {tool} works on entities")
        if tool == "get_relations":
            self._relations[variable.program] = listed = self._vocabulary(variable, self.schema.relations)
            return self._listing(listed)
        if tool == "get_neighbors":
            return self._neighbors(variable, second)
        if not isinstance(variable.program, Entity):
            if tool == "get_attributes":
                self._attributes[variable.program] = listed = self._vocabulary(variable, self.schema.attributes)
                return self._listing(listed)
            if tool == "count":
                return self._new(Count(variable.program), NUMBER)
            return self._extreme(tool, variable, second)
        raise Refused(f"{tool} works on a variable such as #0, not on an entity of the question")

    def _neighbors(self, variable: Variable, relation: str) -> Step:
        self._must_be_listed(variable, relation, self._relations, "relation", "get_relations")
        return self._new(Hop(variable.program, relation), self.schema.relations[relation][1])

    def _extreme(self, tool: str, variable: Variable, attribute: str) -> Step:
        self._must_be_listed(variable, attribute, self._attributes, "attribute", "get_attributes")
        return self._new(Most(variable.program, attribute, tool == "argmax"), variable.kind)

    def _intersection(self, first: str, second: str) -> Step:
        left, right = self.named(first), self.named(second)
        for one in (left, right):
            if isinstance(one.program, Entity) or one.kind == NUMBER:
                raise Refused(f"intersection works on two variables of entities; {one.name} is none")
        if left.kind != right.kind:
            raise Refused(
                f"intersection needs two variables of one type; {left.name} are instances of {left.kind}, "
                f"{right.name} of {right.kind}"
            )
        return self._new(shared(left.program, right.program), left.kind)

    def _must_be_listed(
        self, variable: Variable, name: str, lists: dict[Program, list[str]], what: str, tool: str
    ) -> None:
        listed = lists.get(variable.program)
        if listed is None:
            raise Refused(f"call {tool}({variable.name}) first; then choose one that it lists")
        if name not in listed:
            raise Refused(
                f"{variable.name} has no {what} {name[:80]!r}; choose one that {tool}({variable.name}) listed"
            )

    def _vocabulary(self, variable: Variable, known: Collection[str]) -> list[str]:
        if variable.program not in self._outgoing:
            rows = self.store.rows(outgoing_query(variable.program, self.schema.prefix))
            self._outgoing[variable.program] = {row[0].removeprefix(self.schema.prefix) for row in rows}
        return sorted(name for name in self._outgoing[variable.program] if name in known)

    def _listing(self, names: list[str]) -> Step:
        shown, length = 0, 0
        for name in names:
            length += len(name) + 2
            if length > self.max_chars:
                break
            shown += 1
        text = ", ".join(names[:shown])
        if shown < len(names):
            more = f"{text}, ... ({len(names) - shown} more are not shown)"
            return Step(f"{HEAD}[{more}]", note={"truncated": True})
        return Step(f"{HEAD}[{text}]")

    def _new(self, program: Program, kind: str) -> Step:
        name = f"#{len(self.variables)}"
        self.variables.append(Variable(name, program, kind))
        said = "which is a number" if kind == NUMBER else f"which are instances of {kind}"
        return Step(f"{HEAD}variable {name}, {said}")
