"""The talk with a box's shell: scripts in, output and events out, over three descriptors that do not block.

Events are lines `ready`, `done <exit code>`, `exited <exit code>` and `killed`, written on a channel of their own. A
script can reach that channel if it searches for it; all it wins is a wrong exit code in its own episode.
"""

import contextlib
import os
import re
import select
import time
from dataclasses import dataclass
from enum import Enum

from agenttuning.environments.sandbox.box import FLOOD_BYTES, MAX_SCRIPT_BYTES, CommandResult, clean

SHELL = """\
builtin printf 'ready\\n' >&4
while IFS= builtin read -r -d '' -u 3 BOX_SCRIPT; do
  eval "$BOX_SCRIPT" </dev/null 3<&- 4>&-
  builtin printf 'done %d\\n' $? >&4
done
"""
"""Reads NUL-ended scripts on descriptor 3, evaluates each in itself, and reports on descriptor 4."""

MOST_EVENT_BYTES = 2**20
MARK_TIMEOUT_S = 2.0
"""How long the mark of an output is waited for once the script is done."""
TAIL_BYTES = 2**17
"""Where the mark is looked for: what a background process may write after it in one reading."""
_EVENT = re.compile(rb"(ready|done|exited|killed)(?: (\d{1,9}))?")


class After(Enum):
    """In what state a script left its box."""

    FINE = "fine"
    RUNNING = "running"
    """The script goes on, past its time or its output: the box must be cleared."""
    ENDED = "ended"


@dataclass(frozen=True)
class Event:
    """What the box said; `name` is None where it said nothing in time, `ended` true where it never will again."""

    name: str | None
    code: int | None = None
    ended: bool = False


class Wire:
    """Both directions to one box. Descriptors belong to the caller.

    Args:
        scripts: where scripts are written.
        output: where the shell's output is read.
        events: where events are read.
        mark: what the shell writes into its output after each script, where the two ways out of the box may overtake
            each other; empty where they do not. Made of control characters, which `clean` drops.
    """

    def __init__(self, scripts: int, output: int, events: int, mark: bytes = b"") -> None:
        self._scripts, self._output, self._events = scripts, output, events
        self._mark = mark
        for fd in (scripts, output, events):
            os.set_blocking(fd, False)
        self.heard = b""
        """What the events channel said and nobody took: a start-up message where the box did not start."""

    def evaluate(self, script: str, timeout_s: float, keep: int) -> tuple[CommandResult, After]:
        """Send a script, and return what it did and in what state it left the box."""
        data = script.replace("\0", "").encode(errors="replace")
        if len(data) > MAX_SCRIPT_BYTES:
            return CommandResult(f"bash: script of {len(data)} bytes, the limit is {MAX_SCRIPT_BYTES}", 126), After.FINE
        output = Output(keep, mark=self._mark)
        event = self.wait(("done", "exited"), timeout_s, output, data + b"\0")
        stopped = event.name is None and not event.ended
        result = CommandResult(
            output=clean(output.kept),
            exit_code=event.code,
            timed_out=stopped and not output.flooded,
            truncated=output.total > len(output.kept),
            exited=event.name == "exited",
        )
        return result, After.ENDED if event.ended else After.RUNNING if stopped else After.FINE

    def wait(self, wanted: tuple[str, ...], timeout_s: float, output: "Output", data: bytes = b"") -> Event:
        """Send `data` and take output until a wanted event, the end of the time or a flood of output."""
        deadline = time.monotonic() + timeout_s
        poll = select.poll()
        poll.register(self._events, select.POLLIN)
        poll.register(self._output, select.POLLIN)
        if data:
            poll.register(self._scripts, select.POLLOUT)
        while (left := deadline - time.monotonic()) > 0 and not output.flooded:
            for fd, _ in poll.poll(left * 1000):
                try:
                    if fd == self._scripts:
                        data = data[os.write(fd, data) :]
                        if not data:
                            poll.unregister(fd)
                    elif fd == self._output:
                        if not output.take(fd):
                            poll.unregister(fd)
                    elif not self._listen():
                        output.drain(self._output)
                        return Event(None, ended=True)
                except BrokenPipeError:
                    poll.unregister(fd)
            while (event := self._next()) is not None:
                if event.name in wanted:
                    self._take_rest(output)
                    return event
        return Event(None)

    def _take_rest(self, output: "Output") -> None:
        """Take what the pipe holds, up to the mark where there is one."""
        output.drain(self._output)
        deadline = time.monotonic() + MARK_TIMEOUT_S
        poll = select.poll()
        poll.register(self._output, select.POLLIN)
        while not output.complete and (left := deadline - time.monotonic()) > 0:
            if poll.poll(left * 1000) and not output.take(self._output):
                return

    def _listen(self) -> bool:
        """Read events; False when the box has ended or fills the channel with something else."""
        chunk = os.read(self._events, 65536)
        self.heard += chunk
        return bool(chunk) and len(self.heard) < MOST_EVENT_BYTES

    def _next(self) -> Event | None:
        while b"\n" in self.heard:
            line, rest = self.heard.split(b"\n", 1)
            if match := _EVENT.fullmatch(line):
                self.heard = rest
                return Event(match[1].decode(), int(match[2]) if match[2] else None)
            if line.startswith((b"bwrap:", b"docker:", b"Error", b"OCI ")):  # a complaint, kept for the start failure
                return None
            self.heard = rest
        return None


class Output:
    """Keeps the first bytes of a script's output and counts the rest."""

    def __init__(self, limit: int, flood: int = FLOOD_BYTES, mark: bytes = b"") -> None:
        self.kept = b""
        self.total = 0
        self._limit = limit
        self._flood = flood
        self._mark = mark
        self._tail = b""

    @property
    def complete(self) -> bool:
        """Whether the mark came, or none is waited for, or so much came that the script is stopped."""
        return self._mark in self._tail or self.flooded

    @property
    def flooded(self) -> bool:
        """Whether the script has written so much that it is stopped."""
        return self.total > self._flood

    def take(self, fd: int) -> bool:
        """Read once; False at the end."""
        chunk = os.read(fd, 65536)
        self.total += len(chunk)
        self.kept += chunk[: self._limit - len(self.kept)]
        self._tail = (self._tail + chunk)[-TAIL_BYTES:] if self._mark else b""
        return bool(chunk)

    def drain(self, fd: int) -> None:
        """Take what the pipe holds now; bounded, as a background process may go on writing."""
        with contextlib.suppress(BlockingIOError):
            for _ in range(4):
                if not self.take(fd):
                    return
