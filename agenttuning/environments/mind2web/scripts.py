"""Task scripts: what the recorder plays on a site, as YAML beside this module.

One script is a goal in the words of a user, the page it begins on, the steps, and the values of each variant::

    - goal: Log in as {mail}.
      page: login.html
      values:
        - {mail: rolf@ekman.test}
      steps:
        - "TYPE #email <- {mail}"
        - "CLICK button:text-is('Sign in')"

A step is an operation, a selector of the browser driver, and for TYPE and SELECT the value behind ` <- `.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from agenttuning.errors import DataError

FOLDER = Path(__file__).parent / "scripts"
OPERATIONS = ("CLICK", "TYPE", "SELECT")


@dataclass(frozen=True)
class ScriptStep:
    """One action of a script, with its values filled in."""

    op: str
    selector: str
    value: str


@dataclass(frozen=True)
class Script:
    """One task to record."""

    name: str
    """`<site>-<script>-<variant>`: stable as long as scripts are added at the end."""
    goal: str
    page: str
    steps: tuple[ScriptStep, ...]


def scripts(site: str) -> Iterator[Script]:
    """Yield the scripts of a site, one for each variant.

    Raises:
        DataError: the file is missing, or a script is not as the module says.
    """
    path = FOLDER / f"{site}.yaml"
    if not path.exists():
        raise DataError(f"no scripts for the site {site!r}: {path} does not exist")
    for number, entry in enumerate(yaml.safe_load(path.read_text(encoding="utf-8"))):
        if not isinstance(entry, dict) or set(entry) != {"goal", "page", "values", "steps"}:
            raise DataError(f"{path}: script {number} must have exactly goal, page, values and steps")
        for variant, values in enumerate(entry["values"]):
            yield _script(f"{site}-{number}-{variant}", entry, values)


def _script(name: str, entry: dict[str, Any], values: dict[str, str]) -> Script:
    try:
        steps = tuple(_step(text.format(**values)) for text in entry["steps"])
        return Script(name, entry["goal"].format(**values), entry["page"], steps)
    except (KeyError, ValueError) as error:
        raise DataError(f"script {name}: {error}") from error


def _step(text: str) -> ScriptStep:
    op, _, rest = text.partition(" ")
    selector, arrow, value = rest.partition(" <- ")
    if op not in OPERATIONS or not selector or bool(arrow) != (op != "CLICK"):
        raise ValueError(
            f"{text!r} is no step; write CLICK selector, TYPE selector <- value or SELECT selector <- value"
        )
    return ScriptStep(op, selector, value)
