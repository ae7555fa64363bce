"""What one published record becomes: an instruction and a payload.

A record names its scripts as a text, as `{"code"}` or as `{"file"}` below a folder of scripts, with a `language`. The
payload holds `setup` (one bash script), `start` (a background program) where there is one, `reference` (the gold
program) where there is one, and `expect`:

- `{"rule"}`: the answer is what the reference prints in a fresh box, compared by a named rule;
- `{"rule", "answer"}`: the answer is known;
- `{"checks"}`: scripts that must exit with 0, run on a copy of the agent's files after its processes are dead, with the
  answer and what the scripts before printed as arguments; a null among them stands for what the reference prints in a
  fresh box.
"""

import re
import shlex
from pathlib import Path, PurePosixPath
from typing import Any

from agenttuning.environments.operating_system.grading import RULES


class Unplayable(Exception):
    """A record that cannot be played as it is; the text says why."""


def read_record(record: dict[str, Any], scripts: Path | None) -> tuple[str, dict[str, Any]]:
    """Return instruction and payload of a record.

    Args:
        record: as published.
        scripts: the folder that its `file`s are relative to, or None.

    Raises:
        Unplayable: a file that it names is not there, or its language or check is of no known kind.
        KeyError: it is no AgentBench record. The same holds for TypeError, IndexError and AttributeError.
    """
    evaluation = record["evaluation"]
    payload: dict[str, Any] = {"setup": _setup(record.get("create"), scripts)}
    if "start" in record:
        payload["start"] = shell_text(*_script(record["start"], scripts), plain=True)
    example = evaluation.get("example", record.get("example"))
    if example is not None:
        payload["reference"] = shell_text(*_script(example, scripts), plain=True)
    payload["expect"] = _expect(evaluation, scripts)
    needs_reference = None in payload["expect"].get("checks", [None] if "answer" not in payload["expect"] else [])
    if needs_reference and "reference" not in payload:
        raise Unplayable("the check compares with a reference that the record does not have")
    return str(record["description"]).strip(), payload


def shell_text(language: str, code: str, *, plain: bool = False) -> str:
    """Return a command line that runs `code`; arguments may follow it. `plain` bash is returned as it is.

    Raises:
        Unplayable: a language that is none of bash, python, c and c++.
    """
    if language == "bash":
        return code if plain else f"/bin/bash -c {shlex.quote(code)} --"
    if language == "python":
        return f"python3 -I -c {shlex.quote(code)}"
    if language in ("c", "c++"):
        compiler, kind = ("gcc", "c") if language == "c" else ("g++", "c++")
        made = f"printf %s {shlex.quote(code)} | {compiler} -x {kind} - -o /tmp/.program"
        return f"{made} && /tmp/.program"
    raise Unplayable(f"a script in the language {language!r}")


def _setup(create: Any, scripts: Path | None) -> str:
    if not isinstance(create, dict) or create.get("init") is None:
        return ""
    init = create["init"]
    parts = [_script(part, scripts) for part in (init if isinstance(init, list) else [init])]
    if len(parts) == 1:
        return shell_text(*parts[0], plain=True)
    return "\n".join(shell_text(*part) for part in parts)


def _script(given: Any, scripts: Path | None) -> tuple[str, str]:
    """Return language and code."""
    if isinstance(given, str):
        return "bash", given
    language = given.get("language", "bash")
    if "code" in given:
        return language, given["code"]
    path = None if scripts is None else scripts / given["file"]
    if path is None or not path.is_file():
        raise Unplayable(f"the file {given['file']} that it names is not in the data")
    return language, path.read_text()


def _expect(evaluation: dict[str, Any], scripts: Path | None) -> dict[str, Any]:
    if "match" in evaluation:
        match = evaluation["match"]
        if isinstance(match, str):
            return {"rule": "string-match", "answer": match}
        if "regex" in match:
            try:
                re.compile(match["regex"])
            except re.error as error:
                raise Unplayable(f"its pattern {match['regex']!r} does not compile ({error})") from error
            return {"rule": "regex-match", "answer": match["regex"]}
        return {"rule": "string-match", "answer": match["answer"]}
    check = evaluation["check"]
    steps = check if isinstance(check, list) else [check]
    named = [_named(step) for step in steps]
    if len(steps) == 2 and steps[0] is None and named[1]:
        return {"rule": named[1]}
    if any(named):
        raise Unplayable("a chain of checks that mixes named rules and scripts")
    return {"checks": [None if step is None else shell_text(*_script(step, scripts)) for step in steps]}


def _named(step: Any) -> str | None:
    """Return the rule that a check step names, or None."""
    if not isinstance(step, dict) or "file" not in step:
        return None
    name = PurePosixPath(step["file"]).stem
    return name if name in RULES else None
