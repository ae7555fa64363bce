"""The environment contract, and the registry that finds environments by name.

An environment is one class: it makes tasks, plays one at a time (`reset`, `step`, `close`), and grades from the
evidence that `close` returned. It holds resources, so it is a context manager, and one object plays many episodes
one after another; nothing of an episode may be seen in the next. It knows nothing of policies, of Ray or of files
of a run. Adding one's own is one class in one file and one entry point in the group `agenttuning.environments`.
"""

import random
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from typing import Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from agenttuning.errors import ConfigurationError
from agenttuning.trajectory import Action, Task, Turn


class EnvironmentSettings(BaseModel):
    """Base of an environment's own settings (`environments.<name>.settings` in a recipe)."""

    model_config = ConfigDict(frozen=True, extra="forbid")


@dataclass(frozen=True)
class Step:
    """What one action led to."""

    observation: str
    done: bool = False
    error: bool = False
    """The action was well-formed but failed (an SQL error, a non-zero exit, an inadmissible command)."""
    note: dict[str, Any] = field(default_factory=dict)
    """Diagnostics of the step, such as `{"replaced_by": ...}` or `{"truncated": true}`."""


@dataclass(frozen=True)
class Grade:
    """Reward is what curation thresholds; score is the benchmark's metric. Both in [0, 1]."""

    reward: float
    score: float


@dataclass(frozen=True)
class Parsed:
    """A reply split into its thought (None where it has none) and its action."""

    thought: str | None
    action: Action


@dataclass(frozen=True)
class Move:
    """What an expert does next. A deliberate mistake has `loss=False` and is never trained."""

    thought: str
    action: Action
    loss: bool = True


@dataclass(frozen=True)
class Needs:
    """What one instance takes, for Ray's scheduler and for `doctor`."""

    cpu: float = 0.1
    memory_mb: int = 50
    components: tuple[str, ...] = ()
    """Named parts beyond Python, such as `bubblewrap`."""


Expert = Generator[Move, Step, None]
"""An expert is a generator: it yields a `Move` and is sent the `Step` that the move led to."""


class Environment(ABC):
    """One kind of world. Subclasses state the class variables and implement the abstract methods.

    Args:
        settings: validated settings of the class' own `Settings` model.
        data_root: directory of published data (recipe key `data.root`), or None for the embedded default.
    """

    name: ClassVar[str]
    version: ClassVar[str] = "1"
    """Raise it when observations, actions or grading change: stored numbers then say which rules they followed."""
    Settings: ClassVar[type[EnvironmentSettings]] = EnvironmentSettings
    isolation: ClassVar[Literal["inline", "process"]] = "inline"
    """`process`: blocking or leaking; the rollout worker runs each instance in a process of its own."""
    needs: ClassVar[Needs] = Needs()
    max_steps: ClassVar[int] = 15
    """The paper's limit on agent turns; a recipe may set another."""
    on_malformed: ClassVar[Literal["correct", "end"]] = "correct"
    """What a malformed reply costs: `correct` answers with the parser's message, `end` ends the episode."""

    @classmethod  # noqa: B027 (most have nothing to preload)
    def preload(cls) -> None:
        """Do once what every instance needs: a process that forks instances (`isolation: process`) calls it first."""

    def __init__(self, settings: EnvironmentSettings, data_root: str | None = None) -> None:
        self.settings = settings
        self.data_root = data_root

    def __enter__(self) -> Self:
        """Return self: an environment is closed by leaving the block."""
        return self

    def __exit__(self, *_: object) -> None:
        """Release everything, also after an error."""
        self.shutdown()

    @abstractmethod
    def tasks(self, split: str, count: int, seed: int) -> Iterator[Task]:
        """Yield up to `count` tasks of `split` (`train`, `test`, `shifted`), the same for the same seed.

        Splits share no task under any seeds.
        """

    @abstractmethod
    def description(self, task: Task) -> str:
        """Return the opening message: the rules, the action grammar and the limits, in this project's own words."""

    acknowledgement: ClassVar[str] = "Ok."
    """The assistant's answer to the description; never trained."""

    def demonstration(self) -> tuple[Turn, ...]:
        """Return one complete worked example as turns (assistant turns with `loss=False`), or nothing."""
        return ()

    @abstractmethod
    def reset(self, task: Task) -> str:
        """Set the task up from nothing and return the first observation, which contains the instruction."""

    @abstractmethod
    def step(self, action: Action) -> Step:
        """Carry the action out. A failing action is an observation with `error=True`, not an exception.

        Raises:
            InfrastructureError: the world itself broke; the episode is played again elsewhere.
        """

    @abstractmethod
    def close(self) -> dict[str, Any]:
        """End the episode, free what it held, and return the evidence for `grade` (JSON only). Safe to call twice."""

    @classmethod
    @abstractmethod
    def grade(cls, task: Task, evidence: dict[str, Any]) -> Grade:
        """Grade from stored evidence alone: pure, never runs or evaluates the agent's text."""

    @abstractmethod
    def parse(self, reply: str) -> Parsed:
        """Read a reply in the environment's action grammar.

        Raises:
            MalformedReply: its message tells the model what was wrong and what is expected.
        """

    @abstractmethod
    def format(self, thought: str | None, action: Action) -> str:
        """Return the canonical reply for a thought and an action; `parse(format(t, a))` gives them back."""

    def expert(self, task: Task, rng: random.Random) -> Expert:
        """Return a demonstrator for `task`, started after `reset`.

        It may read `task.payload`, but its thoughts cite only what was shown so far.

        Raises:
            ConfigurationError: the environment has none.
        """
        raise ConfigurationError(
            f"environment {self.name!r} has no expert; set policy.kind=endpoint in the recipe to use a chat model"
        )

    def shutdown(self) -> None:
        """Free what outlives episodes (a browser, a server). The default closes the episode."""
        self.close()


ENTRY_POINTS = "agenttuning.environments"


def registered() -> dict[str, type[Environment]]:
    """Return every installed environment class by name, from the entry points of `agenttuning.environments`."""
    found: dict[str, type[Environment]] = {}
    for point in entry_points(group=ENTRY_POINTS):
        found[point.name] = point.load()
    return dict(sorted(found.items()))


def environment_class(name: str) -> type[Environment]:
    """Return the class registered under `name`.

    Raises:
        ConfigurationError: nothing is registered under that name, or its module does not import.
    """
    points = {p.name: p for p in entry_points(group=ENTRY_POINTS)}
    if name not in points:
        raise ConfigurationError(
            f"environments: {name!r} is not registered; known: {', '.join(sorted(points)) or 'none'}. "
            f"Register your own as an entry point in the group {ENTRY_POINTS!r}."
        )
    try:
        loaded: type[Environment] = points[name].load()
    except ImportError as error:
        raise ConfigurationError(
            f"environment {name!r} does not import ({error}); run `make setup` to install its packages"
        ) from error
    return loaded


def make_environment(name: str, settings: dict[str, Any] | None = None, data_root: str | None = None) -> Environment:
    """Build the environment `name` from raw recipe settings.

    Raises:
        ConfigurationError: unknown name, or settings that its `Settings` model refuses.
    """
    cls = environment_class(name)
    return cls(validated_settings(cls, name, settings or {}), data_root)


def validated_settings(cls: type[Environment], name: str, settings: dict[str, Any]) -> EnvironmentSettings:
    """Return raw recipe settings as the class' own model.

    Raises:
        ConfigurationError: the model refuses them.
    """
    try:
        return cls.Settings.model_validate(settings)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(["environments", name, "settings", *map(str, first["loc"])])
        known = ", ".join(cls.Settings.model_fields) or "none"
        raise ConfigurationError(
            f"{where}: {first['msg']} (got {first.get('input')!r}); known settings: {known}"
        ) from error
