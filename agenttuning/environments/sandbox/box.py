"""What every box is: its limits, what a script did in it, and the interface that an environment uses."""

import re
from dataclasses import dataclass
from typing import Protocol, Self

ANSWER_TIMEOUT_S = 20.0
"""How long the box itself (not a script) may take to start."""
INTERRUPT_TIMEOUT_S = 5.0
"""How long a box may take to be interrupted; one that does not let itself be interrupted is ended."""
MAX_SCRIPT_BYTES = 60_000
FLOOD_BYTES = 2 * 2**20
"""A script that has written this much is stopped."""

_ESCAPES = re.compile(r"\x1b(?:\[[0-9;?]*[A-Za-z]|\][^\x07]*\x07|.)|[\x00-\x08\x0b-\x1f\x7f]")
_SHELL_PREFIX = re.compile(r"^/\.box/shell: (?:eval: )?(?:line \d+: )?", re.MULTILINE)


@dataclass(frozen=True)
class Limits:
    """What one box may use."""

    memory_mb: int = 512
    """Address space of one process in MiB; also memory of the whole box, beside its disk, where control groups are."""
    processes: int = 64
    disk_mb: int = 64
    """Size of the box's root file system in MiB."""
    output_bytes: int = 64 * 1024
    """Output of one script that is kept."""


@dataclass(frozen=True)
class CommandResult:
    """What one script did."""

    output: str
    """Standard output and error, interleaved as written, without terminal escapes."""
    exit_code: int | None
    """None when the script was stopped, or ended the box."""
    timed_out: bool = False
    truncated: bool = False
    """The script wrote more than `output` holds."""
    exited: bool = False
    """The script ended its shell (`exit`, `exec`); a new one was started in the home directory."""


class Box(Protocol):
    """One machine with one persistent bash. Not for two threads at once."""

    limits: Limits

    @property
    def isolation(self) -> str:
        """What separates the box from the host, in words."""
        ...

    @property
    def alive(self) -> bool:
        """Whether the box still runs: a script can end it by killing all its processes."""
        ...

    def run(self, script: str, timeout_s: float) -> CommandResult:
        """Evaluate `script` in the box's shell and return what it wrote, after `timeout_s` seconds at the latest.

        A script that outlives its time loses all processes of the box and gets a new shell in the home directory.
        """
        ...

    def clear(self) -> None:
        """Kill all processes of the box, and start a new shell in the home directory; files stay."""
        ...

    def stop(self) -> None:
        """Kill every process of the box and wait until they are gone; files stay readable until `close`."""
        ...

    def read(self, path: str) -> tuple[str, str]:
        """Return kind and text of a file, read from outside the box; see `reading.read_below`."""
        ...

    def copy(self) -> "Box | None":
        """Stop the box, and return a fresh one with its files, but with clean programs and none of its processes.

        None where it holds more than can be copied; see `copying`.
        """
        ...

    def close(self) -> None:
        """Stop the box and free its files. Safe to call twice."""
        ...

    def __enter__(self) -> Self:
        """Return self; leaving the block closes the box."""
        ...

    def __exit__(self, *_: object) -> None:
        """Close the box, also after an error."""
        ...


def clean(raw: bytes) -> str:
    """Decode output, drop terminal escapes and control characters, and name the shell as an interactive one would."""
    return _SHELL_PREFIX.sub("bash: ", _ESCAPES.sub("", raw.decode(errors="replace")))
