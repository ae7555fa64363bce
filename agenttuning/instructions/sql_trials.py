"""Trials of Database tasks: gold SQL on the environment's own engine.

The reference is the payload's `gold`: a statement, or a list of them whose last one gives the answer. A task that the
generator made has a plan instead, and its expert is the reference. Independent solutions are `solutions`, statements
by another hand.
"""

import random
from collections.abc import Sequence

from agenttuning.environments.base import Environment, Expert, Move
from agenttuning.environments.database.engine import read_rows
from agenttuning.environments.database.environment import Database
from agenttuning.environments.database.grammar import answer, operation
from agenttuning.instructions.trials import Attempt, Solution, reset_problem
from agenttuning.trajectory import Action, Task

DONE = ("done",)
"""The answer to a change."""


class SqlTrials:
    """Trials in a `Database`; the caller closes it."""

    def __init__(self, environment: Database) -> None:
        self.environment: Environment = environment

    def set_up(self, task: Task) -> str | None:
        """Make the task's tables in an empty database."""
        return reset_problem(self.environment, task)

    def solutions(self, task: Task) -> dict[str, Solution]:
        """Return the gold statements and those by another hand, or the expert of a generated task."""
        changes = task.payload.get("answer") is None
        found: dict[str, Solution] = {}
        if gold := task.payload.get("gold"):
            found["gold"] = gold_solution([gold] if isinstance(gold, str) else gold, changes)
        elif "plan" in task.payload:
            found["expert"] = lambda environment: environment.expert(task, random.Random(task.id))
        for number, sql in enumerate(task.payload.get("solutions", ()), start=1):
            found[f"solution {number}"] = gold_solution([sql], changes)
        return found

    def walk(self, task: Task) -> Solution | None:
        """Return None: the tables stand in the task, so every world of it is the same."""
        return None

    def idle(self, task: Task) -> dict[str, tuple[Action, ...]]:
        """Return answers without a statement."""
        return {f"answer {value} at once": (answer([value]),) for value in ("done", "none", "0", "1")}

    def answer(self, task: Task, solved: Attempt) -> str | None:
        """Return the one value of an answer; several values are named by their question too often to be a leak."""
        values = solved.evidence.get("answer") or []
        return str(values[0]) if task.payload.get("answer") is not None and len(values) == 1 else None


def gold_solution(statements: Sequence[str], changes: bool) -> Solution:
    """Return the program that runs the statements and answers with the values that the last one showed.

    Args:
        statements: gold SQL in order.
        changes: the task asks for a change, which is answered with `done`.
    """

    def start(environment: Environment) -> Expert:
        values: list[str] = []
        for sql in statements:
            step = yield Move("", operation(sql))
            rows = [] if step.error else read_rows(step.observation) or []
            values = [str(value) for row in rows for value in row if value is not None]
        yield Move("", answer(list(DONE) if changes else values))

    return start
