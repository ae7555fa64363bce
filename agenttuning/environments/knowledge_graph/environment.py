"""The knowledge graph environment: a question, seven tools over a SPARQL store, and a variable as the answer."""

import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from agenttuning.environments.base import Environment, EnvironmentSettings, Expert, Grade, Needs, Parsed, Step
from agenttuning.environments.knowledge_graph import cache, expert, sources, tasks
from agenttuning.environments.knowledge_graph.grading import grade_evidence
from agenttuning.environments.knowledge_graph.grammar import ANSWER, answer, call, format_reply, parse_reply
from agenttuning.environments.knowledge_graph.graph import Graph, Schema
from agenttuning.environments.knowledge_graph.plans import MOST_TURNS
from agenttuning.environments.knowledge_graph.programs import Count
from agenttuning.environments.knowledge_graph.stores import DiskStore, EndpointStore, Store
from agenttuning.environments.knowledge_graph.tools import HEAD, Refused, Tools, Variable
from agenttuning.environments.stored import stored_tasks
from agenttuning.errors import ConfigurationError
from agenttuning.trajectory import Action, Task, Turn

DESCRIPTION = """\
You answer a question from a knowledge graph. You cannot see the graph; you explore it with tools, one in each turn. \
A variable #0, #1, ... stands for a set of entities of one type, which is not shown.

get_relations(x): the relations that lead on from x, which is a variable or an entity of the question.
get_neighbors(x, relation): a new variable: all that x has as this relation. Call get_relations(x) before it.
intersection(#a, #b): a new variable: what two variables of the same type share.
get_attributes(#a): the attributes of #a that can be compared.
argmax(#a, attribute), argmin(#a, attribute): a new variable: those of #a with the largest or smallest value. Call \
get_attributes(#a) before it.
count(#a): a new variable: the number of entities in #a.

Write in each turn a line `Thought: ...` and below it one line `Action: tool(arguments)`. When a variable holds \
exactly what is asked for, write `Final Answer: #n` in place of the action. You have {turns} turns."""


class KnowledgeGraphSettings(EnvironmentSettings):
    """Settings of the knowledge graph environment."""

    source: Literal["generated", "freebase", "metaqa", "agentbench"] = "generated"
    """The graph and its questions; all but `generated` read `data.root`, and `agentbench` needs `endpoint`."""
    test_split: Literal["dev", "std"] | None = None
    """For `source: agentbench`: the file that `test` is drawn from; None: `dev`."""
    tasks_file: str | None = None
    """Play the tasks of this file of JSON lines (`agenttuning instructions` writes them) on the source's graph."""
    families: tuple[str, ...] | None = None
    """Draw generated questions from these families alone; None: all."""
    endpoint: str | None = None
    """URL of a SPARQL endpoint that holds the source's graph; None: a store on this machine's disk."""
    endpoint_graph: str | None = None
    """IRI of the endpoint's graph to ask; None: its default graph."""
    endpoint_timeout_s: Annotated[float, Field(gt=0.0)] = 30.0
    """Limit of one request to the endpoint."""
    store_directory: str | None = None
    """Where stores are built and shared; None: `knowledge-graph` below `$AGENTTUNING_CACHE`."""
    mistake_rate: Annotated[float, Field(ge=0.0, le=1.0)] = 0.15
    """Share of the demonstrator's episodes with a mistake (never trained) and its recovery."""
    max_list_chars: Annotated[int, Field(ge=80)] = 3000
    """Length at which a list of relations or attributes is cut."""

    @model_validator(mode="after")
    def _no_idle_setting(self) -> Self:
        """Refuse a setting that would do nothing."""
        if self.families is not None and self.tasks_file is not None:
            raise ValueError("families are of generated questions, and tasks_file names others; leave one of them out")
        if self.families is not None and self.source not in sources.GENERATED:
            raise ValueError("families are of generated questions (source: generated or freebase); leave them out")
        if self.test_split is not None and self.source != "agentbench":
            raise ValueError("test_split is of source: agentbench; leave it out")
        if self.endpoint_graph is not None and self.endpoint is None:
            raise ValueError("endpoint_graph is a graph of the endpoint; set endpoint, or leave endpoint_graph out")
        return self


class KnowledgeGraph(Environment):
    """Questions over a knowledge graph. Actions: the seven tools, and `answer` (`variable`)."""

    name: ClassVar[str] = "kg"
    version: ClassVar[str] = "2"
    Settings: ClassVar[type[EnvironmentSettings]] = KnowledgeGraphSettings
    isolation: ClassVar[Literal["inline", "process"]] = "inline"
    needs: ClassVar[Needs] = Needs(cpu=0.1, memory_mb=60)
    max_steps: ClassVar[int] = MOST_TURNS
    settings: KnowledgeGraphSettings

    def __init__(self, settings: EnvironmentSettings | None = None, data_root: str | None = None) -> None:
        super().__init__(settings or KnowledgeGraphSettings(), data_root)
        self._store: Store | None = None
        self._schema: Schema | None = None
        self._graph: Graph | None = None
        self._tools: Tools | None = None
        self._answer: Variable | None = None
        self._evidence: dict[str, Any] = {}
        self.dropped: Counter[str] = Counter()
        """AgentBench's records that made no task, by reason."""

    def tasks(self, split: str, count: int, seed: int) -> Iterator[Task]:
        """Yield tasks of `train`, `test` or `shifted`; of the published questions, MetaQA alone has `shifted`.

        Raises:
            ConfigurationError: an unknown split or family, or a source without its data.
            DataError: a published file is not as its format says.
            InfrastructureError: the endpoint does not answer.
        """
        if count == 0:
            return
        source = self.settings.source
        if self.settings.tasks_file is not None:
            yield from stored_tasks(
                self.name, self.settings.tasks_file, split, count, seed, ("entities", "answer", "number")
            )
            return
        if source not in sources.GENERATED:
            part = self.settings.test_split or "dev"
            yield from sources.published_tasks(
                self.name, source, self.data_root, split, count, seed, part, self.dropped
            )
            return
        tasks.check_split(self.name, source, split, tasks.SPLITS)
        graph = self._graph = self._loaded()
        self._open()
        generator = tasks.Generator(self.name, graph, sources.side_of(source, graph, split), self._make_tools, split)
        yield from generator.tasks(count, seed, self.settings.families)

    def description(self, task: Task) -> str:
        """Return the rules, the tools and the action grammar."""
        return DESCRIPTION.format(turns=self.max_steps)

    def demonstration(self) -> tuple[Turn, ...]:
        """Return one question with two entities and its whole way to the answer."""
        mill, lake = "The Mill", "A Lake at Noon"
        steps = (
            (f"I start from {mill} and look at its relations.", call("get_relations", mill), "[book.book.author]"),
            ("book.book.author leads to who wrote it.", call("get_neighbors", mill, "book.book.author"), "#0"),
            (f"#0 wrote {mill}. Now the same for {lake}.", call("get_relations", lake), "[book.book.author]"),
            (f"{lake} has book.book.author too.", call("get_neighbors", lake, "book.book.author"), "#1"),
            ("#0 and #1 are both authors, so I keep what they share.", call("intersection", "#0", "#1"), "#2"),
        )
        turns = [Turn(role="user", content=tasks.instruction(f"Who wrote both {mill} and {lake}?", [mill, lake]))]
        for thought, action, seen in steps:
            seen = f"variable {seen}, which are instances of book.author" if seen.startswith("#") else seen
            turns += [_shown(thought, action), Turn(role="user", content=f"{HEAD}{seen}")]
        return (*turns, _shown("#2 holds those who wrote both, which is what is asked for.", answer("#2")))

    def reset(self, task: Task) -> str:
        """Forget all variables and return the question.

        Raises:
            InfrastructureError: the store does not open.
        """
        self._tools = None
        self._open()
        self._tools = self._make_tools(task.payload["entities"])
        self._answer, self._evidence = None, {}
        return task.instruction

    def step(self, action: Action) -> Step:
        """Call a tool, or take the answer and end the episode.

        Raises:
            InfrastructureError: the store cannot answer.
        """
        if self._tools is None:
            raise RuntimeError("knowledge graph: step needs a reset before it")
        if action.name != ANSWER:
            return self._tools.run(action)
        try:
            self._answer = self._tools.named(action.arguments["variable"])
        except Refused as error:
            return Step(f"{HEAD}Error: {error}", error=True)
        return Step("The answer was taken.", done=True)

    def close(self) -> dict[str, Any]:
        """Fetch what the answer holds and return it. Safe to call twice.

        Raises:
            InfrastructureError: the store cannot answer.
        """
        tools, answered = self._tools, self._answer
        if tools is not None:
            self._evidence = {"answer": None, "entities": [], "size": 0, "number": None}
            if answered is not None:
                self._evidence["answer"] = answered.name
                if isinstance(answered.program, Count):
                    self._evidence["number"] = tools.number(answered.program)
                else:
                    self._evidence["entities"], self._evidence["size"] = tools.members(answered)
            self._tools = None
        return self._evidence

    @classmethod
    def grade(cls, task: Task, evidence: dict[str, Any]) -> Grade:
        """Compare the answer's entities or number with the task's."""
        return grade_evidence(task.payload, evidence)

    def parse(self, reply: str) -> Parsed:
        """Read a reply.

        Raises:
            MalformedReply: its message tells the model what was wrong and what is expected.
        """
        return parse_reply(reply)

    def format(self, thought: str | None, action: Action) -> str:
        """Return the canonical reply.

        Raises:
            ValueError: the grammar cannot express the thought or the action.
        """
        return format_reply(thought, action)

    def expert(self, task: Task, rng: random.Random) -> Expert:
        """Return the demonstrator, which carries out the task's gold calls step by step."""
        return expert.play(task.payload, rng, self.settings.mistake_rate)

    def shutdown(self) -> None:
        """Close the episode and the store."""
        self._tools, self._graph = None, None
        if self._store is not None:
            self._store.close()
            self._store = None

    def _make_tools(self, entities: dict[str, str]) -> Tools:
        assert self._store is not None
        assert self._schema is not None
        return Tools(self._store, self._schema, entities, self.settings.max_list_chars)

    def _loaded(self) -> Graph:
        """Return the graph in memory, which is kept once tasks were made; episodes need only the store."""
        return self._graph or sources.graph_of(self.settings.source, self.data_root)

    def _open(self) -> None:
        """Open the store; build it first, if this machine does not have it yet."""
        if self._store is not None:
            return
        source, root, endpoint = self.settings.source, self.data_root, self.settings.endpoint
        if source == "agentbench" and endpoint is None:
            raise ConfigurationError(
                "kg: source 'agentbench' asks the whole Freebase; set environments.kg.settings.endpoint to a SPARQL "
                "endpoint that holds it"
            )
        kept = self.settings.store_directory
        directory = Path(kept).expanduser() if kept else cache.default_directory()
        name = f"{source}-{sources.fingerprint(source, root)}"
        if endpoint is not None:
            place = cache.built_once(
                directory, f"{name}-schema", lambda path: cache.fill_schema(path, self._loaded().schema)
            )
            self._store = EndpointStore(endpoint, self.settings.endpoint_timeout_s, self.settings.endpoint_graph)
        else:
            place = cache.built_once(directory, name, lambda path: cache.fill_store(path, self._loaded()))
            self._store = DiskStore(place / cache.STORE)
        self._schema = cache.read_schema(place)


def _shown(thought: str, action: Action) -> Turn:
    content = format_reply(thought, action)
    return Turn(role="assistant", content=content, loss=False, thought=thought, action=action)
