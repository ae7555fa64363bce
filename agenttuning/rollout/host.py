"""`EnvironmentHost`: one environment object and the episode it is playing, behind four plain calls.

The same host serves an environment on a thread of the worker and one in a process of its own, so both play alike.
Reply text goes in and observations come out; the expert's generator lives here too, beside the environment it reads.
The host is synchronous and knows nothing of policies, limits or time-outs. What the environment returns or raises
leaves it as plain values and known errors only, see `agenttuning.rollout.given`.
"""

import importlib
import random
from dataclasses import dataclass
from typing import Any

from agenttuning.environments.base import Environment, Expert, Grade, Step
from agenttuning.errors import ConfigurationError, MalformedReply
from agenttuning.rollout.given import (
    Unusable,
    as_stored,
    expert_of,
    grade_of,
    ours,
    parsed_of,
    said,
    step_of,
    steps_of,
    text,
    told,
    turns_of,
)
from agenttuning.trajectory import Action, Task, Turn


class EnvironmentFailed(Exception):
    """The environment's own code raised, or returned what cannot be used. The episode is not tried again."""


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
    ungraded: str = ""
    """Why `grade` gave nothing that can be used; a mended one may (`agenttuning.rollout.rescore`)."""


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
        self._last: Step | str = ""
        """The last step as the environment gave it, or why there is none."""

    def open(self, task: Task, demonstration: bool) -> Opening:
        """Set the task up and return everything that is shown before the first reply."""
        environment = self._environment
        task = task.model_copy(deep=True)  # What an environment writes into its payload is not to be stored.
        self._task, self._expert, self._last = task, None, "nothing was played"
        observation = environment.reset(task)
        return Opening(
            description=text("the description", environment.description(task)),
            acknowledgement=text("the acknowledgement", environment.acknowledgement),
            demonstration=turns_of(environment.demonstration()) if demonstration else (),
            observation=text("the first observation", observation),
            version=text("the version", environment.version),
            max_steps=steps_of(environment.max_steps),
            ends_on_malformed=environment.on_malformed == "end",
        )

    def play(self, reply: str) -> Played:
        """Parse a reply and carry its action out."""
        try:
            parsed = self._environment.parse(reply)
            plain = parsed_of(parsed)
            self._last = self._environment.step(parsed.action)
            return Played(thought=plain.thought, action=plain.action, step=step_of(self._last))
        except MalformedReply as error:
            self._last = said(error)
            return Played(malformed=self._last)

    def parse(self, reply: str) -> Played:
        """Parse a reply without carrying it out."""
        try:
            parsed = parsed_of(self._environment.parse(reply))
        except MalformedReply as error:
            return Played(malformed=said(error))
        return Played(thought=parsed.thought, action=parsed.action)

    def move(self, seed: int) -> ExpertReply:
        """Return the expert's next reply; the first call starts the expert with `seed`.

        Raises:
            ExpertFailed: it raised, ended early, or wrote what its own environment cannot parse.
        """
        assert self._task is not None
        try:
            if self._expert is None:
                self._expert = expert_of(self._environment.expert(self._task, random.Random(seed)))
                move = next(self._expert)
            elif isinstance(self._last, str):
                raise ExpertFailed(f"{self._name} wrote a reply that its own parser refuses: {self._last}")
            else:
                move = self._expert.send(self._last)
            return ExpertReply(text("its reply", self._environment.format(move.thought, move.action)), bool(move.loss))
        except StopIteration as error:
            raise ExpertFailed(f"{self._name} ended before the episode did") from error
        except ExpertFailed:
            raise
        except Exception as error:
            if ours(error) is not None:
                raise
            raise ExpertFailed(f"{self._name} raised {told(error)}") from error

    def close(self) -> Closed:
        """End the episode and grade it from its evidence as it will be stored."""
        assert self._task is not None
        if self._expert is not None:
            self._expert.close()
        evidence = as_stored("the evidence", self._environment.close())
        try:
            grade = type(self._environment).grade(self._task, as_stored("the evidence", evidence))
            return Closed(evidence, grade_of(grade))
        except Exception as error:
            failure = _failure("grade", error)
            if not isinstance(failure, EnvironmentFailed):
                raise
            return Closed(evidence, Grade(0.0, 0.0), ungraded=str(failure))

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
    except BaseException as error:
        raise ours(error) or ConfigurationError(
            f"environment {path}: cannot be started ({told(error)}); see `agenttuning doctor` for what it needs"
        ) from error


def call(host: EnvironmentHost, method: str, arguments: tuple[Any, ...]) -> Any:
    """Call a method of the host; what is no failure of our own vocabulary becomes `EnvironmentFailed`.

    Raises:
        EnvironmentFailed: the environment's own code raised, or returned what cannot be used.
        AgentTuningError: what the environment raised of our vocabulary.
        ExpertFailed: see `EnvironmentHost.move`.
    """
    try:
        return getattr(host, method)(*arguments)
    except ExpertFailed:
        raise
    except BaseException as error:
        # Also SystemExit, which would end the event loop that waits for this call.
        raise _failure(method, error) from error


def _failure(method: str, error: BaseException) -> Exception:
    return ours(error) or EnvironmentFailed(f"{method}: {said(error) if isinstance(error, Unusable) else told(error)}")


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
