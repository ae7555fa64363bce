"""Gold programs as the tool calls that carry them out, in the form that AgentBench publishes.

A call is text such as `get_neighbors(m.0h7h6,film.film.genre)`; `#n` is the n-th variable that the calls made.
"""

from agenttuning.environments.difficulty import from_steps
from agenttuning.environments.knowledge_graph.grammar import call, format_call, parse_call
from agenttuning.environments.knowledge_graph.programs import Both, Count, Entity, Hop, Most, Program
from agenttuning.environments.knowledge_graph.tools import Tools, Variable
from agenttuning.errors import MalformedReply
from agenttuning.trajectory import Action

MOST_TURNS = 15
"""The paper's limit on turns."""


def calls(program: Program) -> tuple[list[str], list[Program]]:
    """Return the calls that make a variable of the program, and the programs of the variables that they make."""
    plan = _Plan(program)
    return [format_call(action) for action in plan.actions], plan.made


def parse_calls(texts: list[str]) -> list[Action]:
    """Return published calls as actions.

    Raises:
        MalformedReply: a call is no call of a known tool.
    """
    return [parse_call(text) for text in texts]


def difficulty(texts: list[str]) -> float:
    """Return how hard a task is by the turns that its calls and the answer take: 0 for one turn, 1 for all of them."""
    return from_steps(len(texts) + 1, MOST_TURNS)


def starts(actions: list[Action]) -> set[str]:
    """Return what the calls start from: their arguments that are neither variables nor relations."""
    found = [action.arguments["variable"] for action in actions if action.name in ("get_relations", "get_neighbors")]
    return {text for text in found if not text.startswith("#")}


def replay(texts: list[str], tools: Tools) -> Variable | None:
    """Carry calls out, as an agent would who knows them; None where one fails or does not show what the next needs.

    Raises:
        InfrastructureError: the store cannot answer.
    """
    shown: dict[str, str] = {}
    try:
        actions = parse_calls(texts)
    except MalformedReply:
        return None
    for action in actions:
        if not _needs_are_shown(action, shown):
            return None
        step = tools.run(action)
        if step.error:
            return None
        if action.name in ("get_relations", "get_attributes"):
            shown[f"{action.name} {action.arguments['variable']}"] = step.observation
    return tools.variables[-1] if tools.variables else None


def _needs_are_shown(action: Action, shown: dict[str, str]) -> bool:
    """Say whether the relation or attribute of a call stands in the listing that must come before it."""
    for argument, tool in (("relation", "get_relations"), ("attribute", "get_attributes")):
        if argument in action.arguments:
            return action.arguments[argument] in names_of(shown.get(f"{tool} {action.arguments['variable']}", ""))
    return True


def names_of(observation: str) -> list[str]:
    """Return the names that a listing shows."""
    inside = observation.partition("[")[2].rpartition("]")[0]
    return [name for name in inside.split(", ") if name and not name.startswith("...")]


class _Plan:
    """Writes calls; the relations or attributes of one thing are listed once."""

    def __init__(self, program: Program) -> None:
        self.actions: list[Action] = []
        self.made: list[Program] = []
        self._visit(program)

    def _visit(self, program: Program) -> str:
        match program:
            case Entity(id=name):
                return name
            case Hop(of, relation):
                start = self._visit(of)
                self._list(call("get_relations", start))
                return self._make(program, call("get_neighbors", start, relation))
            case Both(left, right):
                return self._make(program, call("intersection", self._visit(left), self._visit(right)))
            case Most(of, attribute, largest):
                start = self._visit(of)
                self._list(call("get_attributes", start))
                return self._make(program, call("argmax" if largest else "argmin", start, attribute))
            case Count(of):
                return self._make(program, call("count", self._visit(of)))

    def _list(self, action: Action) -> None:
        if action not in self.actions:
            self.actions.append(action)

    def _make(self, program: Program, action: Action) -> str:
        self.actions.append(action)
        self.made.append(program)
        return f"#{len(self.made) - 1}"
