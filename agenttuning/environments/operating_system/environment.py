"""The Operating System environment: problems to solve in a real bash, each episode in a box of its own.

The box is `agenttuning.environments.sandbox`. The final state is read from outside after every process of the box is
dead; what solves a task is computed by the generator, or printed by the reference command of a published task in a
second, fresh box before the agent acts. Where a published task is checked by scripts, they run after the agent's
processes are dead, in a fresh box that holds a copy of its files: with clean programs and nothing else of the agent's.
"""

import random
import shlex
from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from agenttuning.environments.base import Environment, EnvironmentSettings, Expert, Grade, Needs, Parsed, Step
from agenttuning.environments.operating_system.expert import NO_OUTPUT, OUTPUT_HEAD, play
from agenttuning.environments.operating_system.generator import generated_tasks
from agenttuning.environments.operating_system.grading import grade_episode, watched_paths
from agenttuning.environments.operating_system.grammar import format_reply, parse_reply
from agenttuning.environments.operating_system.published import published_tasks
from agenttuning.environments.operating_system.published_expert import follow
from agenttuning.environments.operating_system.state import collect
from agenttuning.environments.sandbox import Box, CommandResult, DockerBox, Limits, Sandbox
from agenttuning.environments.stored import stored_tasks
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
CLEAN_PATH = "/usr/sbin:/usr/bin:/sbin:/bin:/usr/local/sbin:/usr/local/bin"
"""The agent's own programs come last, so that none takes the place of the system's."""
CLEAN = f"PATH={CLEAN_PATH} HOME=/root LANG=C.UTF-8 PYTHONNOUSERSITE=1 PYTHONSAFEPATH=1"
"""What a check script sees of the environment; Python loads no module from the agent's directories."""


class OperatingSystemSettings(EnvironmentSettings):
    """Settings of the Operating System environment."""

    source: Literal["generated", "agentbench", "agentbench_dev", "agentbench_std", "file"] = "generated"
    """`generated`: seeded families; `file`: `tasks_file`; the others: AgentBench's tasks below `data.root`."""
    tasks_file: str | None = None
    """Constructed tasks as JSON lines (`agenttuning instructions` writes them)."""
    validated: bool = True
    """Leave out the published tasks that validation by execution has found bad (docs/published-os-tasks.md)."""
    sandbox: Literal["bubblewrap", "docker"] = "bubblewrap"
    """What a box is: a bubblewrap box over this machine's programs, or a Docker container of `docker_image`."""
    docker_image: str = "debian:bookworm-slim"
    root: str | None = None
    """Directory of a root file system that bubblewrap's boxes are made of (debootstrap makes one); None: the system
    directories of this machine."""
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

    @model_validator(mode="after")
    def _no_idle_setting(self) -> Self:
        """Refuse a setting that would do nothing."""
        if (self.tasks_file is None) == (self.source == "file"):
            raise ValueError("source: file needs tasks_file, the file of tasks, and no other source reads it")
        if self.families is not None and self.source != "generated":
            raise ValueError("families are those of source: generated; leave them out")
        if self.root is not None and self.sandbox != "bubblewrap":
            raise ValueError("root is for sandbox: bubblewrap; a container's root is docker_image")
        return self


class OperatingSystem(Environment):
    """Real bash in a bubblewrap box; see the module's text."""

    name: ClassVar[str] = "os"
    version: ClassVar[str] = "2"
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
        self._box: Box | None = None
        self._evidence: dict[str, Any] = {}

    def tasks(self, split: str, count: int, seed: int) -> Iterator[Task]:
        """Yield tasks of the source that the settings name."""
        if self._own.source == "file":
            return stored_tasks(self.name, self._own.tasks_file, split, count, seed, ("setup", "expect"))
        if self._own.source != "generated":
            return published_tasks(self.data_root, self._own.source, split, count, seed, self._own.validated)
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
        if needs_reference(task):
            with self._prepared(task) as box:
                printed = box.run(apart(task.payload["reference"]), SETUP_TIMEOUT_S)
            self._evidence["reference"] = printed.output
        self._box = self._prepared(task)
        self._evidence["isolation"] = self._box.isolation
        return _problem(task.instruction)

    def step(self, action: Action) -> Step:
        """Run a script, or take the end of the episode."""
        if self._box is None:
            raise RuntimeError("os: step without reset; call reset(task) first")
        if action.name == "bash":
            result = self._box.run(action.arguments["script"], self._own.command_timeout_s)
            if result.exit_code is None and self._box.alive and self._task is not None:
                self._begin(self._box, self._task)
            return self._step(result)
        self._evidence["ended"] = action.name
        self._evidence["answer"] = action.arguments.get("answer")
        return Step("", done=True)

    def close(self) -> dict[str, Any]:
        """Kill the box, then read the final state from outside it."""
        box, self._box = self._box, None
        if box is not None and self._task is not None:
            try:
                box.stop()
                if "checks" in self._task.payload["expect"]:
                    self._evidence["checks"] = self._check(box, self._task)
                self._evidence["files"] = collect(box, watched_paths(self._task))
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
        """Return the program for the task's skill; for a task with a reference, the one that executes it in steps.

        Raises:
            ConfigurationError: a published task that has an answer but no reference.
        """
        mistake = rng.random() < self._own.mistake_rate
        if "goal" in task.payload:
            return play(task.payload["goal"], rng, mistake)
        if "reference" not in task.payload:
            raise ConfigurationError(
                f"os: task {task.id} has no reference to demonstrate; set policy.kind=endpoint for a chat model"
            )
        answers = "rule" in task.payload["expect"]
        return follow(task.instruction, task.payload["reference"], answers, rng, mistake)

    def fresh_box(self) -> Box:
        """Start an empty box under the settings' limits."""
        limits = Limits(self._own.memory_mb, self._own.processes, self._own.disk_mb)
        if self._own.sandbox == "docker":
            return DockerBox(limits, self._own.docker_image)
        return Sandbox(limits, self._own.root)

    def set_up(self, box: Box, task: Task) -> CommandResult:
        """Run a task's set-up in a box, and start its background program."""
        result = box.run(apart(task.payload["setup"]), SETUP_TIMEOUT_S)
        self._begin(box, task)
        return result

    def _prepared(self, task: Task) -> Box:
        box = self.fresh_box()
        try:
            result = self.set_up(box, task)
            if result.exit_code is None or (result.exit_code and task.origin == "generated"):
                raise InfrastructureError(f"os: the set-up of task {task.id} failed in its box: {result.output[-300:]}")
        except BaseException:
            box.close()
            raise
        return box

    def _begin(self, box: Box, task: Task) -> None:
        """Start the task's background program, which a stopped act kills with all other processes."""
        if "start" in task.payload:
            box.run(task.payload["start"], SETUP_TIMEOUT_S)

    def _check(self, box: Box, task: Task) -> list[int | None]:
        """Run the check scripts on a copy of the files, in order until one fails; return their exit codes."""
        arguments, codes = [str(self._evidence["answer"])], list[int | None]()
        clean = box.copy()
        if clean is None:
            return codes
        with clean:
            for check in task.payload["expect"]["checks"]:
                if check is None:
                    arguments.append(self._evidence["reference"])
                    continue
                given = " ".join(map(shlex.quote, arguments))
                body = shlex.quote(f'{check} "$@"')
                result = clean.run(f"env -i {CLEAN} /bin/bash --norc -c {body} check {given}", SETUP_TIMEOUT_S)
                codes.append(result.exit_code)
                if result.exit_code != 0:
                    break
                arguments.append(result.output)
        return codes

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


def needs_reference(task: Task) -> bool:
    """Say whether grading compares with what the reference prints in a fresh box."""
    expect = task.payload["expect"]
    return ("rule" in expect and "answer" not in expect) or None in expect.get("checks", ())


def _problem(instruction: str) -> str:
    return f"Problem: {instruction}"


def _line(shown: str, remark: str) -> str:
    return f"{shown}\n{remark}" if shown else remark


def apart(script: str) -> str:
    """Return a script that runs `script` in a bash of its own, so that it leaves nothing in the agent's shell."""
    return f"/bin/bash -c {shlex.quote(script)}"
