"""Checks run in a process of their own, so that what hangs there or ends the process is found and named.

The process is forked. `alive` is called before every call that may take long; where nothing follows it for `limit_s`
seconds, Python's fault handler writes where the process stands, also from code that never yields the interpreter, and
ends it.
"""

import faulthandler
import os
import re
import signal
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.context import ForkProcess
from pathlib import Path
from typing import IO

from agenttuning.environments.checking.verdict import Broken, Check

_FRAME = re.compile(r'File "(.*)", line (\d+) in (\S+)')
_HERE = Path(__file__).parent
_GLUE = str(_HERE.parent / "base.py")
"""A file between a check and a method that tells a stranger nothing."""
POLL_S = 0.2
"""Seconds between two looks at whether a process that sends nothing is still there."""
_armed: tuple[float, IO[bytes]] | None = None
"""In the process of the checks: the limit, and the file to write to."""


def alive() -> None:
    """Begin the time limit anew; does nothing outside the process of the checks."""
    if _armed is not None:
        faulthandler.dump_traceback_later(_armed[0], file=_armed[1], exit=True)


def watched(run: Callable[[], Iterator[Check]], limit_s: float) -> Iterator[Check]:
    """Yield what `run` yields in a process of its own.

    Raises:
        Broken: the process hung, or ended before it was done.
    """
    context = get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    with receiver, tempfile.TemporaryFile() as dump:
        process = context.Process(target=_carry_out, args=(run, sender, dump, limit_s))
        process.start()
        assert process.pid is not None
        sender.close()
        try:
            with suppress(EOFError):
                while (check := _received(receiver, process)) is not None:
                    yield check
                return
            process.join()
            dump.seek(0)
            raise _lost(dump.read().decode(errors="replace"), process.exitcode, limit_s)
        finally:
            process.kill()
            # It leads a group of its own: what it started and left behind ends with it.
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.join()


def _received(receiver: Connection, process: ForkProcess) -> Check | None:
    """Return what the process sends next.

    Raises:
        EOFError: the process is over; what it forked may hold its end of the pipe, so that the pipe alone does not say.
    """
    while not receiver.poll(POLL_S):
        if not process.is_alive() and not receiver.poll():
            raise EOFError
    found: Check | None = receiver.recv()
    return found


def _carry_out(run: Callable[[], Iterator[Check]], sender: Connection, dump: IO[bytes], limit_s: float) -> None:
    global _armed
    os.setsid()
    _armed = (limit_s, dump)
    alive()
    for check in run():
        sender.send(check)
        alive()
    faulthandler.cancel_dump_traceback_later()
    sender.send(None)


def _lost(dump: str, status: int | None, limit_s: float) -> Broken:
    """Word how the process was lost, from what the fault handler wrote."""
    if not dump:
        how = f"by signal {-status}" if status is not None and status < 0 else f"with exit status {status}"
        return Broken(f"the process ended {how}", "no method may end the process; raise an error instead")
    frames = _frames(dump)
    if not frames:
        return Broken(f"hung for {limit_s:g} s", "say so to the authors: it hangs in the check itself")
    path, _, method = frames[-1]
    line = next(frame[1] for frame in frames if frame[0] == path)
    return Broken(
        f"hung in {method} for {limit_s:g} s at {Path(path).name}:{line}", "give what it waits for a time limit"
    )


def _frames(dump: str) -> list[tuple[str, ...]]:
    """Return file, line and function of the frames that a check called, innermost first."""
    for thread in re.split(r"^(?:Current thread|Thread) ", dump, flags=re.MULTILINE):
        frames = [match.groups() for match in map(_FRAME.search, thread.splitlines()) if match]
        outer = next((place for place, frame in enumerate(frames) if Path(frame[0]).parent == _HERE), None)
        if outer is not None:
            return [frame for frame in frames[:outer] if frame[0] != _GLUE]
    return []
