"""The one door to the `alfworld` wheel: its rules, its text grammar, its constants.

Importing `alfworld` creates the directory `$ALFWORLD_DATA`, by default in the user's cache. Here it is pointed at a
directory for temporary files first, unless the user has set it. Nothing of this module imports `textworld`.
"""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import ModuleType

NOTHING = "Nothing happens."
"""The engine's answer to a command that it does not admit."""


@contextmanager
def quiet_home() -> Iterator[None]:
    """Give `import alfworld` a directory of its own to create, and leave the variable as it was found."""
    before = os.environ.get("ALFWORLD_DATA")
    os.environ["ALFWORLD_DATA"] = before or os.path.join(tempfile.gettempdir(), "agenttuning-alfworld")
    try:
        yield
    finally:
        if before is None:
            os.environ.pop("ALFWORLD_DATA", None)


@cache
def constants() -> ModuleType:
    """Return `alfworld.gen.constants`: which receptacle holds what, what can be heated, cooled, cleaned, opened."""
    with quiet_home():
        from alfworld.gen import constants as module
    return module  # type: ignore[no-any-return]


@cache
def rules() -> tuple[str, str]:
    """Return the wheel's PDDL domain and text grammar, the rules of every published game too."""
    with quiet_home():
        from alfworld import info
    return Path(info.ALFRED_PDDL_PATH).read_text(), Path(info.ALFRED_TWL2_PATH).read_text()


def worded(grammar: str, wording: str) -> str:
    """Return the grammar with the command and the reply of placing an object in the asked wording.

    `put` is the wording of the paper's time (`put mug 1 in/on shelf 1`), `move` the wheel's (`move mug 1 to shelf 1`).
    """
    if wording == "move":
        return grammar
    return grammar.replace("move {o} to {r}", "put {o} in/on {r}").replace(
        "You move the {o.name} to the {r.name}.", "You put the {o.name} in/on the {r.name}."
    )
