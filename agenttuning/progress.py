"""Progress of a stage on the terminal: what, how many, how fast, how long still.

On a terminal it is one live line drawn by rich; elsewhere (CI, a job's log) it is plain lines every few seconds.
"""

import sys
import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.text import Text

PLAIN_SECONDS = 10.0
"""Least time between two plain lines of one stage."""

console = Console(highlight=False, soft_wrap=True)


def say(text: str) -> None:
    """Print one line that stays."""
    console.print(Text.from_ansi(text))
    sys.stdout.flush()


def duration(seconds: float) -> str:
    """Return `75` as `1m15s`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h{minutes:02d}m"
    return f"{minutes}m{rest:02d}s" if minutes else f"{rest}s"


class Progress:
    """One stage's progress. Use as a context manager; call `update` as often as you like.

    Args:
        stage: what runs, for example `generate`.
        total: how many units there are in all.
        unit: plural name of what is counted.
    """

    def __init__(self, stage: str, total: int, unit: str) -> None:
        self.stage = stage
        self.total = total
        self.unit = unit
        self._first: tuple[float, int] | None = None
        self._last_plain = 0.0
        self._line = ""
        self._live: Live | None = None

    def __enter__(self) -> Self:
        """Start the clock."""
        self._started = time.monotonic()
        if console.is_terminal:
            self._live = Live(Text(f"{self.stage}: starting"), console=console, refresh_per_second=4, transient=True)
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the last line standing."""
        if self._live is not None:
            self._live.stop()
        if self._line:
            say(self._line)

    def update(self, done: int, note: str = "", total: int | None = None) -> None:
        """Show that `done` units are done, with an optional note and a corrected total."""
        self.total = total if total is not None else self.total
        now = time.monotonic()
        if self._first is None:
            self._first = (now, done)
        line = self._render(done, note, now)
        if line == self._line:
            return
        self._line = line
        if self._live is not None:
            self._live.update(Text(line))
        elif now - self._last_plain >= PLAIN_SECONDS:
            self._last_plain = now
            say(line)
            self._line = ""

    def _render(self, done: int, note: str, now: float) -> str:
        started, first = self._first or (now, done)
        parts = [f"{self.stage}: {done}/{self.total} {self.unit}"]
        if done > first and now > started:
            rate = (done - first) / (now - started)
            parts.append(f"{rate:.1f}/s" if rate >= 1 else f"{1 / rate:.1f} s each")
            if done < self.total:
                parts.append(f"about {duration((self.total - done) / rate)} left")
        parts.append(f"{duration(now - self._started)} so far")
        return ", ".join(parts) + (f" | {note}" if note else "")
