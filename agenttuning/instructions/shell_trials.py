"""Trials of Operating System tasks: scripts in a real box.

Independent solutions are the payload's `alternatives` (a second policy's, in self-instruct) and, for published
tasks, other readings of the same instruction: see `readings`.
"""

import random
import re

from agenttuning.environments.base import Environment, Expert, Move
from agenttuning.environments.operating_system import OperatingSystem
from agenttuning.environments.operating_system.expert import NO_OUTPUT, OUTPUT_HEAD
from agenttuning.instructions.readings import readings
from agenttuning.instructions.trials import Attempt, Solution
from agenttuning.trajectory import Action, Task

COMPLAINTS = re.compile(r"command not found|syntax error|unexpected EOF|Permission denied|Read-only file system")
"""What a set-up that goes on after an error says; a missing file alone may be meant."""
BLIND = ("0",)
"""Answers that are tried without looking: what a count prints that looks in the wrong place."""


class ShellTrials:
    """Trials in an `OperatingSystem`; the caller closes it."""

    def __init__(self, environment: OperatingSystem) -> None:
        self.environment: Environment = environment
        self._os = environment

    def set_up(self, task: Task) -> str | None:
        """Run the set-up in a fresh box; it must exit with 0 and complain of nothing that is not there."""
        with self._os.fresh_box() as box:
            result = self._os.set_up(box, task)
        if result.exit_code is None:
            return "the set-up does not end, or ends its box"
        if result.exit_code:
            return f"exit {result.exit_code}: {result.output[-200:]}"
        complaint = COMPLAINTS.search(result.output)
        return f"it says {result.output[-200:]}" if complaint else None

    def solutions(self, task: Task) -> dict[str, Solution]:
        """Return the expert of a generated task; else reference, alternatives, and a published task's readings."""
        payload = task.payload
        if "goal" in payload:
            return {"expert": lambda environment: environment.expert(task, random.Random(task.id))}
        if "reference" not in payload:
            return {}
        answers = "rule" in payload["expect"]
        found = {"reference": _solution(payload["reference"], answers)}
        for number, program in enumerate(payload.get("alternatives", ()), start=1):
            found[f"alternative {number}"] = _solution(program, answers)
        if task.origin == "dataset" and answers:
            for name, program in readings(task.instruction, payload["reference"]).items():
                found[name] = _solution(program, answers)
        return found

    def walk(self, task: Task) -> Solution | None:
        """Return the expert of a gold program, which looks at what the set-up made."""
        if "goal" in task.payload or "reference" not in task.payload:
            return None
        return lambda environment: environment.expert(task, random.Random(task.id))

    def idle(self, task: Task) -> dict[str, tuple[Action, ...]]:
        """Return the end at once, and the blind answers."""
        found: dict[str, tuple[Action, ...]] = {"finish at once": (Action(name="finish"),)}
        if "rule" in task.payload["expect"]:
            for answer in BLIND:
                found[f"answer {answer} without looking"] = (Action(name="answer", arguments={"answer": answer}),)
        return found

    def answer(self, task: Task, solved: Attempt) -> str | None:
        """Return the answer; None for a task that asks for a change."""
        return solved.evidence.get("answer") if "rule" in task.payload["expect"] else None


def _solution(program: str, answers: bool) -> Solution:
    def start(environment: Environment) -> Expert:
        step = yield Move("", Action(name="bash", arguments={"script": f"(\n{program}\n)"}))
        printed = "" if step.observation == NO_OUTPUT else step.observation.removeprefix(OUTPUT_HEAD).strip()
        if answers:
            yield Move("", Action(name="answer", arguments={"answer": printed}))
        else:
            yield Move("", Action(name="finish"))

    return start
