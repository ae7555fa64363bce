"""The database environment: one database per episode, one SQL statement or the final answer per turn."""

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from agenttuning.environments.base import Environment, EnvironmentSettings, Expert, Grade, Needs, Parsed, Step
from agenttuning.environments.database import derived, expert, published, tasks
from agenttuning.environments.database.engine import Engine, SQLiteEngine
from agenttuning.environments.database.grading import grade_evidence
from agenttuning.environments.database.grammar import ANSWER, OPERATION, answer, format_reply, operation, parse_reply
from agenttuning.environments.database.queries import Plan
from agenttuning.environments.database.server import Address
from agenttuning.environments.database.tables import HASHES, Hash, Table, fingerprint, tables_of
from agenttuning.environments.stored import stored_tasks
from agenttuning.errors import ConfigurationError
from agenttuning.trajectory import Action, Task, Turn

DESCRIPTION = """You work on a small MySQL database. Answer a question about its data, or make the change asked for.
In each turn write a short thought, then one action. To run one SQL statement:
Action: Operation
```sql
SELECT ...
```
You then see its result or its error. When you know the answer:
Action: Answer
Final Answer: ["..."]
The list holds every value asked for, copied from a result. After a change the answer is ["done"]."""


class DatabaseSettings(EnvironmentSettings):
    """Settings of the database environment."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    source: Literal[
        "generated",
        "wikitablequestions",
        "wikitablequestions_edits",
        "agentbench_dev",
        "agentbench_standard",
        "geoquery",
        "defog",
        "sqlite",
        "file",
    ] = "generated"
    """Where tasks come from; all but `generated` and `file` read `data.root`."""
    tasks_file: str | None = None
    """For `source: file`: constructed tasks as JSON lines (`agenttuning instructions` writes them)."""
    questions: str | None = None
    """For `source: sqlite`: the file of questions, relative to `data.root`; its databases lie beside it."""
    engine: Literal["sqlite", "mariadb"] = "sqlite"
    """What runs the SQL: SQLite in memory, or a MariaDB server."""
    server: str | None = None
    """For `engine: mariadb`: `mysql://USER:PASSWORD@HOST:PORT`; unset: one is started for this process."""
    families: tuple[str, ...] | None = None
    """Draw generated tasks from these families alone; None: all."""
    mistake_rate: Annotated[float, Field(ge=0.0, le=1.0)] = 0.15
    """Share of the demonstrator's episodes that begin with a mistake (never trained) and its recovery."""
    statement_timeout_s: Annotated[float, Field(gt=0.0)] = 2.0
    """Limit on one SQL statement, in seconds; of CPU time in SQLite."""
    max_result_chars: Annotated[int, Field(ge=80)] = 800
    """Length at which a result is cut."""

    @model_validator(mode="after")
    def _no_idle_setting(self) -> Self:
        """Refuse a setting that would do nothing."""
        if self.server is not None and self.engine != "mariadb":
            raise ValueError("server is for engine: mariadb; set engine, or leave server out")
        if (self.questions is None) == (self.source == "sqlite"):
            raise ValueError("source: sqlite needs questions, the file of questions, and no other source reads it")
        if (self.tasks_file is None) == (self.source == "file"):
            raise ValueError("source: file needs tasks_file, the file of tasks, and no other source reads it")
        if self.families is not None and self.source != "generated":
            raise ValueError("families are those of source: generated; leave them out")
        return self


class Database(Environment):
    """SQL on an engine of the episode's own. Actions: `operation` (`sql`) and `answer` (`values`)."""

    name: ClassVar[str] = "db"
    version: ClassVar[str] = "2"
    Settings: ClassVar[type[EnvironmentSettings]] = DatabaseSettings
    isolation: ClassVar[Literal["inline", "process"]] = "inline"
    needs: ClassVar[Needs] = Needs(cpu=0.1, memory_mb=30)
    max_steps: ClassVar[int] = 15
    settings: DatabaseSettings

    def __init__(self, settings: EnvironmentSettings | None = None, data_root: str | None = None) -> None:
        super().__init__(settings or DatabaseSettings(), data_root)
        self._engine: Engine | None = None
        self._tables: Sequence[Table] = ()
        self._hash: Hash = fingerprint
        self._address: Address | None = None
        self._started = False
        self.dropped: Counter[str] = Counter()
        """Published questions and tables that made no task, by reason."""
        self._answer: list[str] | None = None
        self._evidence: dict[str, Any] = {}

    def tasks(self, split: str, count: int, seed: int) -> Iterator[Task]:
        """Yield tasks of `train`, `test` or `shifted`; published sources have no `shifted`.

        Raises:
            ConfigurationError: an unknown split, or a source without its data.
            DataError: a published file is not as its format says.
        """
        if self.settings.source == "generated":
            return tasks.generate(self.name, split, count, seed, self.settings.families)
        if self.settings.source == "file":
            return stored_tasks(self.name, self.settings.tasks_file, split, count, seed, ("answer", "before", "state"))
        return published.load(
            self.name,
            self.settings.source,
            self.data_root,
            split,
            count,
            seed,
            file=self.settings.questions,
            max_chars=self.settings.max_result_chars,
            dropped=self.dropped,
        )

    def description(self, task: Task) -> str:
        """Return the rules, the action grammar and what an answer must be."""
        return DESCRIPTION

    def demonstration(self) -> tuple[Turn, ...]:
        """Return one small question, its query, the result and the answer."""
        sql = "SELECT river FROM towns WHERE name = 'Vik'"
        return (
            Turn(
                role="user", content="Which river does the town Vik have?\nThe table towns has the columns name, river."
            ),
            _shown("I need the river from towns where name is Vik.", operation(sql)),
            Turn(role="user", content="[('Tana',)]"),
            _shown("The result is Tana, so I answer Tana.", answer(["Tana"])),
        )

    def reset(self, task: Task) -> str:
        """Create the task's tables in an empty database and return the question.

        Raises:
            ConfigurationError: MariaDB is asked for and not installed.
            InfrastructureError: its server does not answer.
        """
        self.close()
        self._tables = tables_of(task.payload)
        self._hash = HASHES[task.payload.get("hash", "fingerprint")]
        self._answer, self._evidence = None, {}
        self._engine = self._new_engine()
        self._engine.create(self._tables)
        return task.instruction

    def step(self, action: Action) -> Step:
        """Run the statement, or take the answer and end the episode."""
        if self._engine is None:
            raise RuntimeError("database: step needs a reset before it")
        if action.name == ANSWER:
            self._answer = [str(value) for value in action.arguments["values"]]
            return Step("The answer was taken.", done=True)
        if action.name != OPERATION:
            return Step(f"Error: unknown action {action.name}; use {OPERATION} or {ANSWER}", error=True)
        reply = self._engine.execute(action.arguments["sql"])
        return Step(reply.text, error=reply.error, note={"truncated": True} if reply.truncated else {})

    def close(self) -> dict[str, Any]:
        """Read the tables' state, free the database and return answer and state. Safe to call twice."""
        if self._engine is not None:
            state = self._engine.state(self._tables, self._hash)
            self._evidence = {"answer": self._answer, "state": state}
            self._engine.close()
            self._engine = None
        return self._evidence

    @classmethod
    def grade(cls, task: Task, evidence: dict[str, Any]) -> Grade:
        """Compare answer and final tables with the task's."""
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
        """Return the demonstrator of a generated task, or of one with gold SQL.

        Raises:
            ConfigurationError: the task is published data with answers and no gold program.
        """
        if "gold" in task.payload:
            return derived.play_gold(task.payload, rng, self.settings.mistake_rate)
        if "plan" not in task.payload:
            raise ConfigurationError(
                f"task {task.id} comes from published data ({task.family}), which has answers and no gold SQL, so "
                "there is nothing to demonstrate; set policy.kind=endpoint for a chat model, or "
                "environments.db.settings.source to one with gold SQL (generated, geoquery, defog, sqlite, "
                "wikitablequestions_edits)"
            )
        return expert.play(Plan.model_validate(task.payload["plan"]), rng, self.settings.mistake_rate)

    def shutdown(self) -> None:
        """End the episode, and the server where this environment was the last to use it."""
        self.close()
        if self._started:
            from agenttuning.environments.database import server

            server.release()
            self._started, self._address = False, None

    def _new_engine(self) -> Engine:
        timeout, chars = self.settings.statement_timeout_s, self.settings.max_result_chars
        if self.settings.engine == "sqlite":
            return SQLiteEngine(timeout, chars)
        from agenttuning.environments.database import server
        from agenttuning.environments.database.mariadb import MariaDBEngine

        if self._address is None:
            if self.settings.server is not None:
                self._address = server.read_address(self.settings.server)
            else:
                self._address, self._started = server.acquire(), True
        return MariaDBEngine(self._address, timeout, chars)


def _shown(thought: str, action: Action) -> Turn:
    content = format_reply(thought, action)
    return Turn(role="assistant", content=content, loss=False, thought=thought, action=action)
