"""The seeded generator of questions, and what keeps its splits apart.

A program is drawn, worded, and kept only where it is fair, where its calls carried out by the tools on the store give
what plain Python gives, where every relation they need is shown, and where no answer stands in the question.
"""

import random
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from agenttuning.environments.families import chosen_families
from agenttuning.environments.knowledge_graph.families import FAMILIES, Pool, fair
from agenttuning.environments.knowledge_graph.graph import Graph, members
from agenttuning.environments.knowledge_graph.plans import calls, difficulty, replay
from agenttuning.environments.knowledge_graph.programs import Count, Entity, Program, inner, topics
from agenttuning.environments.knowledge_graph.tools import Tools
from agenttuning.environments.knowledge_graph.wording import MAIN, SHIFTED, Words
from agenttuning.errors import ConfigurationError
from agenttuning.trajectory import Task

SPLITS = ("train", "test", "shifted")
MAX_DRAWS = 4000
"""Programs drawn for one task before the generator gives up; the median is below 30."""

MakeTools = Callable[[dict[str, str]], Tools]
"""Makes the tools of one episode from what its question names."""


@dataclass(frozen=True)
class Side:
    """What one split may use of a graph."""

    pool: Pool
    admits: Callable[[Program, frozenset[str]], bool]
    """Whether a program and its answers (none for a count) belong to the split."""


@dataclass
class Generator:
    """Draws the questions of one split.

    Args:
        environment: the registered name that the tasks carry.
        graph: the whole graph.
        side: what the split may use of it.
        tools: makes the tools that questions are tried with.
        split: its name; `shifted` has wordings of its own.
    """

    environment: str
    graph: Graph
    side: Side
    tools: MakeTools
    split: str

    def __post_init__(self) -> None:
        self._words = Words(self.graph, SHIFTED if self.split == "shifted" else MAIN)
        self._usable = _usable_names(self.graph)
        self._asked: set[Program] = set()

    def tasks(self, count: int, seed: int, families: Sequence[str] | None) -> Iterator[Task]:
        """Yield up to `count` tasks. The first n are the same whatever `count` is; families come in equal shares.

        A family of which the split has no more tasks is left out from then on; when none is left, the tasks end.

        Raises:
            ConfigurationError: an unknown family.
            InfrastructureError: the store cannot answer.
        """
        names = sorted(chosen_families(self.environment, FAMILIES, families))
        index = made = 0
        order: list[str] = []
        while made < count and names:
            if not order:
                order = random.Random(f"{seed}/{self.split}/{index}").sample(names, len(names))
            family = order.pop()
            task = self._draw(family, random.Random(f"{seed}/{self.split}/{index}"))
            index += 1
            if task is None:
                names.remove(family)
            else:
                made += 1
                yield task

    def _draw(self, family: str, rng: random.Random) -> Task | None:
        for _ in range(MAX_DRAWS):
            program = FAMILIES[family](self.side.pool, rng)
            if program is None or program in self._asked or not self._usable.issuperset(topics(program)):
                continue
            if not fair(program, self.graph):
                continue
            answers = frozenset() if isinstance(program, Count) else members(program, self.graph)
            question, phrases = self._words.question(program, rng)
            if not self.side.admits(program, answers) or _told(question, answers, self.graph):
                continue
            payload = self._payload(program, answers, phrases)
            if payload is None:
                continue
            self._asked.add(program)
            return Task(
                environment=self.environment,
                split=self.split,
                instruction=instruction(question, list(payload["entities"])),
                payload=payload,
                family=family,
                difficulty=difficulty(payload["actions"]),
            )
        return None

    def _payload(self, program: Program, answers: frozenset[str], phrases: dict[Program, str]) -> dict[str, Any] | None:
        """Carry the program's calls out; return the payload where the store agrees with plain Python."""
        entities = {self.graph.names[topic]: topic for topic in topics(program)}
        number = len(members(program.of, self.graph)) if isinstance(program, Count) else None
        actions, made = calls(program)
        tools = self.tools(entities)
        variable = replay(actions, tools)
        if variable is None:
            return None
        found = variable.program
        agree = (
            tools.number(found) == number if isinstance(found, Count) else tools.members(variable)[0] == sorted(answers)
        )
        if not agree:
            return None
        said = [phrases.get(program, "") for program in made]
        return {
            "entities": entities,
            "actions": actions,
            "answer": sorted(answers),
            "number": number,
            "phrases": said,
        }


def check_split(environment: str, source: str, split: str, splits: Sequence[str]) -> None:
    """Refuse a split that a source does not have.

    Raises:
        ConfigurationError: with the setting that leaves it out.
    """
    if split not in splits:
        raise ConfigurationError(
            f"{environment}: source {source!r} has no split {split!r} (it has {', '.join(splits)}); "
            f"set environments.{environment}.{split}_tasks=0"
        )


def instruction(question: str, names: Sequence[str]) -> str:
    """Return the question with the entities that tools may start from."""
    return f"Question: {question}\nEntities: [{', '.join(names)}]"


def _usable_names(graph: Graph) -> set[str]:
    """Return the entities that a question can name: one of that name, in one line, that the grammar can write."""
    found: dict[str, list[str]] = {}
    for entity, name in graph.names.items():
        found.setdefault(name, []).append(entity)
    return {same[0] for name, same in found.items() if len(same) == 1 and _writable(name)}


def _writable(name: str) -> bool:
    return name == " ".join(name.split()) and not name.startswith("#") and not name.endswith(",") and name != ""


def _told(question: str, answers: frozenset[str], graph: Graph) -> bool:
    """Say whether the question contains the name of an answer."""
    text = question.casefold()
    return any(re.search(rf"\b{re.escape(graph.names[entity].casefold())}\b", text) for entity in answers)


def path(program: Program, graph: Graph) -> set[str]:
    """Return all entities on the way from a program's topics to its answers."""
    found: set[str] = set(topics(program))
    for part in inner(program):
        if not isinstance(part, Count | Entity):
            found |= members(part, graph)
    return found
