"""What validation and derivation ask of an environment's tasks, and how one attempt at a task is played.

`Trials` is the protocol; `ContractTrials` answers it for any environment that has an expert, from the environment
contract alone. `shell_trials` and `sql_trials` know more about their tasks.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from agenttuning.environments.base import Environment, Expert
from agenttuning.errors import ConfigurationError, InfrastructureError
from agenttuning.trajectory import Action, Task

Solution = Callable[[Environment], Expert]
"""Starts a gold program in an environment that was just reset for its task."""

MAX_ACTIONS = 200
"""Actions of one attempt, for a program that never ends."""


@dataclass(frozen=True)
class Attempt:
    """What one attempt at a task gave."""

    reward: float
    evidence: dict[str, Any] = field(default_factory=dict)
    problem: str | None = None
    """Why the attempt could not be played to its end."""
    shown: tuple[str, ...] = ()
    """The observations before the end."""
    actions: int = 0


class Trials(Protocol):
    """What is tried on the tasks of one environment."""

    environment: Environment

    def set_up(self, task: Task) -> str | None:
        """Run the task's set-up in a fresh world, and say what is wrong with it, or None."""
        ...

    def solutions(self, task: Task) -> dict[str, Solution]:
        """Return the gold programs by name: first the reference, then those that were written independently of it."""
        ...

    def walk(self, task: Task) -> Solution | None:
        """Return a demonstrator that looks around, as an agent does, where the reference does not."""
        ...

    def idle(self, task: Task) -> dict[str, tuple[Action, ...]]:
        """Return ways to do nothing or to answer blindly, by name: none may be rewarded."""
        ...

    def answer(self, task: Task, solved: Attempt) -> str | None:
        """Return the text that solves the task, from a solved attempt, or None where a text does not."""
        ...


class ContractTrials:
    """Trials of any environment: its expert is the reference.

    Args:
        environment: plays the tasks; the caller closes it.
        idle_actions: ways to do nothing, for environments where an episode without an action is not all there is.
    """

    def __init__(self, environment: Environment, idle_actions: dict[str, tuple[Action, ...]] | None = None) -> None:
        self.environment = environment
        self._idle = idle_actions or {}

    def set_up(self, task: Task) -> str | None:
        """See `Trials.set_up`."""
        return reset_problem(self.environment, task)

    def solutions(self, task: Task) -> dict[str, Solution]:
        """Return the expert, seeded by the task's id."""
        return {"expert": lambda environment: environment.expert(task, random.Random(task.id))}

    def walk(self, task: Task) -> Solution | None:
        """Return None: the expert is the reference."""
        return None

    def idle(self, task: Task) -> dict[str, tuple[Action, ...]]:
        """Return the episode without an action, and what was given."""
        return {"no action": (), **self._idle}

    def answer(self, task: Task, solved: Attempt) -> str | None:
        """Return None: the contract does not know what an answer is."""
        return None


def reset_problem(environment: Environment, task: Task) -> str | None:
    """Reset a task and close it again; return what went wrong, or None."""
    try:
        environment.reset(task)
        environment.close()
    except InfrastructureError as error:
        environment.close()
        return str(error)
    return None


def attempt(environment: Environment, task: Task, solution: Solution) -> Attempt:
    """Play a gold program in a fresh world and grade it."""
    shown: list[str] = []
    actions = 0
    try:
        shown.append(environment.reset(task))
        moves = solution(environment)
        move = next(moves, None)
        while move is not None and actions < MAX_ACTIONS:
            step = environment.step(move.action)
            actions += 1
            if step.done:
                break
            shown.append(step.observation)
            try:
                move = moves.send(step)
            except StopIteration:
                break
    except (InfrastructureError, ConfigurationError, ValueError, LookupError) as error:
        environment.close()
        return Attempt(0.0, problem=f"{type(error).__name__}: {error}", shown=tuple(shown), actions=actions)
    evidence = environment.close()
    return Attempt(environment.grade(task, evidence).reward, evidence, None, tuple(shown), actions)


def attempt_actions(environment: Environment, task: Task, actions: tuple[Action, ...]) -> Attempt:
    """Play given actions in a fresh world and grade it."""
    try:
        environment.reset(task)
        for action in actions:
            if environment.step(action).done:
                break
    except InfrastructureError as error:
        environment.close()
        return Attempt(0.0, problem=str(error))
    evidence = environment.close()
    return Attempt(environment.grade(task, evidence).reward, evidence, actions=len(actions))
