"""What a task family makes: a file tree, an instruction, what the expert is told, and what counts as solved."""

import shlex
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from agenttuning.trajectory import Task


@dataclass(frozen=True)
class Draft:
    """A task before its split is known."""

    instruction: str
    goal: dict[str, str]
    """`skill` names the expert's program, the rest are its arguments: only what the instruction says."""
    expect: dict[str, Any]
    """`{"rule", "answer"}`, or `{"files": {path: content}, "absent": [path]}`; see `grading`."""
    files: dict[str, str]
    """Content by absolute path."""
    directories: tuple[str, ...] = ()
    """Directories beyond those of the files."""
    modes: dict[str, str] = field(default_factory=dict)
    """Octal modes by path, where they differ from 644."""

    def content(self) -> dict[str, Any]:
        """Return what makes this task another one than others, whatever its wording."""
        return {"files": self.files, "goal": self.goal, "expect": self.expect}

    def task(self, split: str, family: str) -> Task:
        """Return the task."""
        payload = {
            "setup": setup_script(self.files, self.directories, self.modes),
            "goal": self.goal,
            "expect": self.expect,
        }
        return Task(environment="os", split=split, instruction=self.instruction, payload=payload, family=family)


def number(answer: int) -> dict[str, Any]:
    """Return the expectation of a whole number."""
    return {"rule": "integer-match", "answer": str(answer)}


def text(answer: str) -> dict[str, Any]:
    """Return the expectation of a text."""
    return {"rule": "string-match", "answer": answer}


def state(files: dict[str, str], absent: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return the expectation of a final state."""
    return {"files": files, "absent": list(absent)}


def setup_script(files: dict[str, str], directories: tuple[str, ...], modes: dict[str, str]) -> str:
    """Return the bash script that makes the tree."""
    parents = sorted({str(PurePosixPath(path).parent) for path in files} | set(directories))
    lines = ["set -e", "mkdir -p " + " ".join(map(shlex.quote, parents))]
    lines += [f"printf %s {shlex.quote(content)} > {shlex.quote(path)}" for path, content in files.items()]
    lines += [f"chmod {mode} {shlex.quote(path)}" for path, mode in modes.items()]
    return "\n".join(lines)
