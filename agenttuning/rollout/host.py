"""`EnvironmentHost`: one environment object and the episode it is playing, behind four plain calls.

The same host serves an environment on a thread of the worker and one in a process of its own, so both play alike.
Reply text goes in and observations come out; the expert's generator lives here too, beside the environment it reads.
The host is synchronous and knows nothing of policies, limits or time-outs.
"""

import importlib
import random
import traceback
from dataclasses import dataclass
from typing import Any

import orjson

from agenttuning.environments.base import Environment, Expert, Grade, Step
from agenttuning.errors import AgentTuningError, ConfigurationError, MalformedReply
from agenttuning.trajectory import Action, Task, Turn


class EnvironmentFailed(Exception):
    """The environment's own code raised: the text holds the end of its traceback. The episode is not tried again."""


class ExpertFailed(Exception):
    """The expert's code raised, or it ended before the episode did."""


@dataclass(frozen=True)
class Opening:
    """What an episode begins with."""

    description: str
    acknowledgement: str
    demonstration: tuple[Turn, ...]
    observation: str
    version: str
    max_steps: int
    ends_on_malformed: bool


@dataclass(frozen=True)
class Played:
    """What a reply led to: `step`, or the correction in `malformed` where the reply could not be read."""

    thought: str | None = None
    action: Action | None = None
    step: Step | None = None
    malformed: str | None = None


@dataclass(frozen=True)
class ExpertReply:
    """An expert's move as the text that any policy would have written."""

    text: str
    loss: bool


@dataclass(frozen=True)
class Closed:
    """How an episode ended for the environment: the stored evidence and its grade."""

    evidence: dict[str, Any]
    grade: Grade


class EnvironmentHost:
    """One environment and its current episode.

    Args:
        path: the environment's class as `module:name`.
        settings: raw settings, already accepted by the class' own `Settings`.
        data_root: directory of published data, or None.
    """

    def __init__(self, path: str, settings: dict[str, Any], data_root: str | None) -> None:
        cls = load_class(path)
        self._environment: Environment = cls(cls.Settings.model_validate(settings), data_root)
        self._task: Task | None = None
        self._expert: Expert | None = None
        self._last: Played | None = None

    def open(self, task: Task, demonstration: bool) -> Opening:
        """Set the task up and return everything that is shown before the first reply."""
        environment = self._environment
        self._task, self._expert, self._last = task, None, None
        observation = environment.reset(task)
        return Opening(
            description=environment.description(task),
            acknowledgement=environment.acknowledgement,
            demonstration=environment.demonstration() if demonstration else (),
            observation=observation,
            version=environment.version,
            max_steps=environment.max_steps,
            ends_on_malformed=environment.on_malformed == "end",
        )

    def play(self, reply: str) -> Played:
        """Parse a reply and carry its action out."""
        try:
            parsed = self._environment.parse(reply)
            step = self._environment.step(parsed.action)
            self._last = Played(thought=parsed.thought, action=parsed.action, step=step)
        except MalformedReply as error:
            self._last = Played(malformed=str(error))
        return self._last

    def parse(self, reply: str) -> Played:
        """Parse a reply without carrying it out."""
        try:
            parsed = self._environment.parse(reply)
        except MalformedReply as error:
            return Played(malformed=str(error))
        return Played(thought=parsed.thought, action=parsed.action)

    def move(self, seed: int) -> ExpertReply:
        """Return the expert's next reply; the first call starts the expert with `seed`.

        Raises:
            ExpertFailed: it raised, ended early, or wrote what its own environment cannot parse.
        """
        assert self._task is not None
        try:
            if self._expert is None:
                self._expert = self._environment.expert(self._task, random.Random(seed))
                move = next(self._expert)
            elif self._last is None or self._last.step is None:
                refusal = self._last.malformed if self._last else "nothing was played"
                raise ExpertFailed(f"{self._name} wrote a reply that its own parser refuses: {refusal}")
            else:
                move = self._expert.send(self._last.step)
            return ExpertReply(self._environment.format(move.thought, move.action), move.loss)
        except StopIteration as error:
            raise ExpertFailed(f"{self._name} ended before the episode did") from error
        except (AgentTuningError, ExpertFailed):
            raise
        except Exception as error:
            raise ExpertFailed(f"{self._name} raised {_tail(error)}") from error

    def close(self) -> Closed:
        """End the episode and grade it from its evidence as it will be stored."""
        assert self._task is not None
        if self._expert is not None:
            self._expert.close()
        evidence = orjson.loads(orjson.dumps(self._environment.close()))
        grade = type(self._environment).grade(self._task, evidence)
        return Closed(evidence, grade)

    def shutdown(self) -> None:
        """Free everything; the host is not used again."""
        self._environment.shutdown()

    @property
    def _name(self) -> str:
        return f"the expert of {self._environment.name!r}"


def make_host(path: str, settings: dict[str, Any], data_root: str | None) -> EnvironmentHost:
    """Build a host.

    Raises:
        ConfigurationError: the environment cannot be built on this machine.
    """
    try:
        return EnvironmentHost(path, settings, data_root)
    except AgentTuningError:
        raise
    except Exception as error:
        raise ConfigurationError(
            f"environment {path}: cannot be started ({_tail(error)}); see `agenttuning doctor` for what it needs"
        ) from error


def call(host: EnvironmentHost, method: str, arguments: tuple[Any, ...]) -> Any:
    """Call a method of the host; what is no failure of our own vocabulary becomes `EnvironmentFailed`.

    Raises:
        EnvironmentFailed: the environment's own code raised.
        AgentTuningError: as the environment raised it.
        ExpertFailed: see `EnvironmentHost.move`.
    """
    try:
        return getattr(host, method)(*arguments)
    except (AgentTuningError, ExpertFailed):
        raise
    except Exception as error:
        raise EnvironmentFailed(f"{method}: {_tail(error)}") from error


def class_path(cls: type[Environment]) -> str:
    """Return `module:name`, which `load_class` turns back into the class."""
    return f"{cls.__module__}:{cls.__qualname__}"


def load_class(path: str) -> type[Environment]:
    """Import the class that `module:name` names."""
    module, _, name = path.partition(":")
    found: Any = importlib.import_module(module)
    for part in name.split("."):
        found = getattr(found, part)
    return found  # type: ignore[no-any-return]


def _tail(error: Exception, frames: int = 3) -> str:
    where = " < ".join(
        f"{frame.filename.rsplit('/', 1)[-1]}:{frame.lineno}"
        for frame in reversed(traceback.extract_tb(error.__traceback__)[-frames:])
    )
    return f"{type(error).__name__}: {error} (at {where})"
