"""Operating System tasks as proposals: set-up, instruction, reference solution and check, all as text in JSON."""

import re
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Any, ClassVar

from agenttuning.environments.operating_system import OperatingSystem
from agenttuning.environments.operating_system.grading import RULES
from agenttuning.instructions.proposals import Refused, text_field
from agenttuning.instructions.shell_trials import ShellTrials
from agenttuning.trajectory import Task

CHECKS = ("integer-match", "string-match", "size-match", "list-match")
LONGEST_SCRIPT = 8_000
LONGEST_INSTRUCTION = 1_500
_BLOCK = re.compile(r"```(?:bash|sh|shell)?[ \t]*\n(.*?)```", re.DOTALL)

RULES_TEXT = f"""\
A task is for an agent that works as root in bash on a small Linux machine without network, and starts in /root.
Each task is an object with these fields:
- "instruction": what the agent is asked, in plain words, with every path it needs and without the answer.
- "setup": a bash script that makes the files of the task on an empty machine. It must not fail or need a network.
- "reference": a bash script that solves the task. For a question it prints the answer and nothing else.
- "check": for a question {{"rule": one of {", ".join(CHECKS)}}}; for a change {{"files": {{path: content}}, "absent": \
[path]}}, the files that must hold just that content afterwards and the paths that must be gone.
The answer must depend on the files, must not be 0, and must be the same whenever the script runs. Nothing may be
solved from the start. Use other subjects, commands and file layouts than the examples."""

EXAMPLES: tuple[dict[str, Any], ...] = (
    {
        "instruction": "The folder /srv/bakery holds one file per day with the number of loaves sold, one number a "
        "line. On how many days were more than 40 loaves sold in all?",
        "setup": "mkdir -p /srv/bakery\nfor day in 1 2 3 4 5 6; do printf '%d\\n' $((day * 7)) $((day * 4)) > "
        "/srv/bakery/day-$day.txt; done",
        "reference": "for file in /srv/bakery/*.txt; do awk '{ sum += $1 } END { print sum }' \"$file\"; done | awk "
        "'$1 > 40' | wc -l",
        "check": {"rule": "integer-match"},
    },
    {
        "instruction": "Rename every .jpeg file in /home/nora/scans to end in .jpg instead; leave other files alone.",
        "setup": "mkdir -p /home/nora/scans\ncd /home/nora/scans\necho one > a.jpeg\necho two > b.jpeg\necho three > "
        "notes.txt",
        "reference": 'cd /home/nora/scans\nfor file in *.jpeg; do mv "$file" "${file%.jpeg}.jpg"; done',
        "check": {
            "files": {
                "/home/nora/scans/a.jpg": "one\n",
                "/home/nora/scans/b.jpg": "two\n",
                "/home/nora/scans/notes.txt": "three\n",
            },
            "absent": ["/home/nora/scans/a.jpeg", "/home/nora/scans/b.jpeg"],
        },
    },
    {
        "instruction": "Which user is named most often in /var/log/door.log? Each line ends with the user's name.",
        "setup": 'mkdir -p /var/log\nfor name in ida tom ida sven tom ida; do echo "opened by $name" >> '
        "/var/log/door.log; done",
        "reference": "awk '{ print $NF }' /var/log/door.log | sort | uniq -c | sort -rn | awk 'NR == 1 { print $2 }'",
        "check": {"rule": "string-match"},
    },
)


class ShellProposals:
    """Proposals that become tasks of the environment `os`."""

    environment: ClassVar[str] = "os"
    examples: Sequence[dict[str, Any]] = EXAMPLES

    def __init__(self, environment: OperatingSystem, split: str = "train", origin: str = "self-instructed") -> None:
        self.trials = ShellTrials(environment)
        self._split = split
        self._origin = origin

    def rules(self) -> str:
        """Return what a task is."""
        return RULES_TEXT

    def task(self, proposal: dict[str, Any]) -> Task:
        """Read one proposal; see `Proposals.task`."""
        payload: dict[str, Any] = {
            "setup": text_field(proposal, "setup", LONGEST_SCRIPT, empty=True),
            "reference": text_field(proposal, "reference", LONGEST_SCRIPT),
            "expect": _expect(proposal.get("check")),
        }
        return Task(
            environment=self.environment,
            split=self._split,
            instruction=text_field(proposal, "instruction", LONGEST_INSTRUCTION),
            payload=payload,
            family=self._origin,
            origin=self._origin,
        )

    def solving(self, task: Task) -> str:
        """Return the task as a question for a script."""
        end = "print the answer and nothing else" if "rule" in task.payload["expect"] else "make the change"
        return (
            "You work as root in bash on a small Linux machine. This script made its files:\n\n"
            f"```bash\n{task.payload['setup']}\n```\n\nThe task:\n{task.instruction}\n\n"
            f"Write one bash script that solves it: it must {end}. Reply with the script in one ```bash block."
        )

    def solved(self, task: Task, reply: str) -> Task:
        """Take the script from a reply; see `Proposals.solved`."""
        blocks = [block.strip() for block in _BLOCK.findall(reply) if block.strip()]
        if not blocks:
            raise Refused("no_second_solution", "the second policy's reply has no ```bash block")
        return task.model_copy(update={"payload": {**task.payload, "alternatives": [blocks[-1]]}})


def _expect(check: Any) -> dict[str, Any]:
    if not isinstance(check, dict):
        raise Refused("missing_check", "the field 'check' must be an object")
    if "rule" in check:
        if check["rule"] not in CHECKS or check["rule"] not in RULES:
            raise Refused("unknown_rule", f"no rule is called {check['rule']!r}; known: {', '.join(CHECKS)}")
        return {"rule": check["rule"]}
    files, absent = check.get("files", {}), check.get("absent", [])
    if not isinstance(files, dict) or not isinstance(absent, list) or not (files or absent):
        raise Refused("wrong_check", "a check has a rule, or files and absent paths")
    if not all(isinstance(text, str) for text in [*files.values(), *absent]):
        raise Refused("wrong_check", "contents and paths must be texts")
    for path in [*files, *absent]:
        if not path.startswith("/") or path != str(PurePosixPath(path)) or ".." in path.split("/") or path == "/":
            raise Refused("wrong_path", f"{path!r} is not an absolute, normal path")
    return {"files": files, "absent": absent}
