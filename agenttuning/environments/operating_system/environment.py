"""The Operating System environment: problems to solve in a real bash, each episode in a box of its own.

The box is `agenttuning.environments.sandbox`. The final state is read from outside after every process of the box is
dead; what solves a task is computed by the generator, or printed by the reference command of a published task in a
second, fresh box before the agent acts.
"""

import random
import shlex
from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from agenttuning.environments.base import Environment, EnvironmentSettings, Expert, Grade, Move, Needs, Parsed, Step
from agenttuning.environments.operating_system.expert import NO_OUTPUT, OUTPUT_HEAD, play
from agenttuning.environments.operating_system.generator import generated_tasks
from agenttuning.environments.operating_system.grading import grade_episode, watched_paths
from agenttuning.environments.operating_system.grammar import format_reply, parse_reply
from agenttuning.environments.operating_system.published import published_tasks
from agenttuning.environments.operating_system.state import collect
from agenttuning.environments.sandbox import CommandResult, Limits, Sandbox
from agenttuning.errors import ConfigurationError, InfrastructureError
from agenttuning.trajectory import Action, Task, Turn

DESCRIPTION = """\
You work on a Linux machine through bash, as root, starting in /root. Solve the problem that I give you, step by step. \
Each reply has one short thought and one act, in one of these forms:

Think: what you know and do next

Act: bash

```bash
the command
```

Think: why this is the answer

Act: answer(the value)

Think: why all is done

Act: finish

Use answer when the problem asks for a value and finish when it asks for a change. You have {turns} replies."""

SHOWN_CHARACTERS = 800
"""Longest output that an agent sees in full."""
KEPT_CHARACTERS = 780
TRUNCATED = "\n[truncated because the output is too long]"
SETUP_TIMEOUT_S = 30.0


class OperatingSystemSettings(EnvironmentSettings):
    """Settings of the Operating System environment."""

    source: Literal["generated", "agentbench"] = "generated"
    """`generated`: seeded families; `agentbench`: published tasks below `data.root`."""
    families: tuple[str, ...] | None = None
    """Draw generated tasks from these families alone (`shifted` has its own); None: all."""
    mistake_rate: Annotated[float, Field(ge=0.0, le=1.0)] = 0.15
    """Share of the expert's episodes with a deliberate mistake and its recovery (the mistake is never trained)."""
    command_timeout_s: Annotated[float, Field(gt=0.0)] = 10.0
    """Time limit of one act; past it all processes of the box are killed."""
    memory_mb: Annotated[int, Field(ge=64)] = 512
    """Address space of one process in MiB."""
    processes: Annotated[int, Field(ge=16)] = 64
    disk_mb: Annotated[int, Field(ge=1)] = 64


class OperatingSystem(Environment):
    """Real bash in a bubblewrap box; see the module's text."""

    name: ClassVar[str] = "os"
    version: ClassVar[str] = "1"
    Settings: ClassVar[type[EnvironmentSettings]] = OperatingSystemSettings
    isolation: ClassVar[Literal["inline", "process"]] = "inline"
    needs: ClassVar[Needs] = Needs(cpu=0.1, memory_mb=64, components=("bubblewrap",))
    max_steps: ClassVar[int] = 8

    def __init__(self, settings: EnvironmentSettings, data_root: str | None = None) -> None:
        super().__init__(settings, data_root)
        if not isinstance(settings, OperatingSystemSettings):
            raise ConfigurationError(f"os: settings must be OperatingSystemSettings, got {type(settings).__name__}")
        self._own = settings
        self._task: Task | None = None
        self._box: Sandbox | None = None
        self._evidence: dict[str, Any] = {}

    def tasks(self, split: str, count: int, seed: int) -> Iterator[Task]:
        """Yield tasks of the source that the settings name."""
        if self._own.source == "agentbench":
            return published_tasks(self.data_root, split, count, seed)
        return generated_tasks(split, count, seed, self._own.families)

    def description(self, task: Task) -> str:
        """Return the rules and the grammar; the same for every task."""
        return DESCRIPTION.format(turns=self.max_steps)

    def demonstration(self) -> tuple[Turn, ...]:
        """Return one worked example of two acts."""
        count = Action(name="bash", arguments={"script": "grep -c . /root/list.txt"})
        answer = Action(name="answer", arguments={"answer": "12"})
        return (
            Turn(role="user", content=_problem("How many lines of /root/list.txt are not empty?")),
            self._shown("grep -c with a dot counts the lines of /root/list.txt that are not empty.", count),
            Turn(role="user", content=OUTPUT_HEAD + "12"),
            self._shown("The output is 12, so 12 lines are not empty.", answer),
        )

    def reset(self, task: Task) -> str:
        """Start a box, set the task up in it, and return the problem."""
        self.close()
        self._task = task
        self._evidence = {"answer": None, "ended": None, "files": {}}
        if "reference" in task.payload:
            with self._prepared(task) as box:
                printed = box.run(_apart(task.payload["reference"]), SETUP_TIMEOUT_S)
            self._evidence["reference"] = printed.output
        self._box = self._prepared(task)
        return _problem(task.instruction)

    def step(self, action: Action) -> Step:
        """Run a script, or take the end of the episode."""
        if self._box is None:
            raise RuntimeError("os: step without reset; call reset(task) first")
        if action.name == "bash":
            return self._step(self._box.run(action.arguments["script"], self._own.command_timeout_s))
        self._evidence["ended"] = action.name
        self._evidence["answer"] = action.arguments.get("answer")
        return Step("", done=True)

    def close(self) -> dict[str, Any]:
        """Kill the box, then read the final state from outside it."""
        box, self._box = self._box, None
        if box is not None and self._task is not None:
            try:
                box.stop()
                self._evidence["files"] = collect(box.root_fd, watched_paths(self._task))
            finally:
                box.close()
        return dict(self._evidence)

    @classmethod
    def grade(cls, task: Task, evidence: dict[str, Any]) -> Grade:
        """Compare the answer or the final files with what the task expects."""
        return grade_episode(task, evidence)

    def parse(self, reply: str) -> Parsed:
        """Read a reply; see `grammar`."""
        return parse_reply(reply)

    def format(self, thought: str | None, action: Action) -> str:
        """Write a reply; see `grammar`."""
        return format_reply(thought, action)

    def expert(self, task: Task, rng: random.Random) -> Expert:
        """Return the program for the task's skill; for a published task, the one that runs its reference command."""
        if "goal" not in task.payload:
            return _reference_expert(task.payload["reference"])
        return play(task.payload["goal"], rng, rng.random() < self._own.mistake_rate)

    def _prepared(self, task: Task) -> Sandbox:
        box = Sandbox(Limits(self._own.memory_mb, self._own.processes, self._own.disk_mb))
        try:
            result = box.run(_apart(task.payload["setup"]), SETUP_TIMEOUT_S)
            if result.exit_code is None or (result.exit_code and task.origin == "generated"):
                raise InfrastructureError(f"os: the set-up of task {task.id} failed in its box: {result.output[-300:]}")
        except BaseException:
            box.close()
            raise
        return box

    def _step(self, result: CommandResult) -> Step:
        shown = result.output.strip("\n")
        cut = result.truncated or len(shown) > SHOWN_CHARACTERS
        if cut:
            shown = shown[:KEPT_CHARACTERS] + TRUNCATED
        alive = self._box is not None and self._box.alive
        if not alive:
            shown = _line(shown, "[the command ended the operating system]")
        elif result.timed_out:
            shown = _line(shown, f"[stopped: the command took longer than {self._own.command_timeout_s:g} seconds]")
        elif result.exited:
            shown = _line(shown, "[the command ended the shell; a new one was started in /root]")
        note = {key: True for key, value in (("truncated", cut), ("timed_out", result.timed_out)) if value}
        text = OUTPUT_HEAD + shown if shown else NO_OUTPUT
        return Step(text, done=not alive, error=result.exit_code != 0, note=note)

    def _shown(self, thought: str, action: Action) -> Turn:
        content = self.format(thought, action)
        return Turn(role="assistant", content=content, loss=False, thought=thought, action=action)


def _problem(instruction: str) -> str:
    return f"Problem: {instruction}"


def _line(shown: str, remark: str) -> str:
    return f"{shown}\n{remark}" if shown else remark


def _apart(script: str) -> str:
    """Return a script that runs `script` in a bash of its own, so that it leaves nothing in the agent's shell."""
    return f"/bin/bash -c {shlex.quote(script)}"


def _reference_expert(command: str) -> Expert:
    step = yield Move(
        "I will run the command that gives the answer.", Action(name="bash", arguments={"script": command})
    )
    answer = step.observation.removeprefix(OUTPUT_HEAD).strip()
    yield Move("The output is the answer.", Action(name="answer", arguments={"answer": answer}))
