"""Where environments run: on a thread of the worker (`inline`) or in a process of their own (`process`).

A `Seat` is one environment instance with a thread of its own, on which all its calls run one after another, so an
environment may keep what belongs to one thread (a database connection) and never blocks the event loop. Seats are
reused for many episodes. Every call has a time limit. Past it the seat is lost: a process is killed, a thread is
abandoned (Python cannot end it; it is a daemon and holds up nothing). A crash takes down nothing else.

`SeatPool` keeps the idle seats of one environment. Its processes are forked from one nursery, see
`agenttuning.rollout.nursery`.
"""

import asyncio
import contextlib
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from multiprocessing.connection import Connection
from typing import Any, Protocol

from agenttuning.environments.base import Environment
from agenttuning.errors import ConfigurationError, InfrastructureError
from agenttuning.rollout.host import (
    Closed,
    EnvironmentHost,
    ExpertReply,
    Opening,
    Played,
    call,
    class_path,
    make_host,
)
from agenttuning.rollout.nursery import GRACE_SECONDS, READY, SPAWN
from agenttuning.trajectory import Task

SETUP_SECONDS = 120.0
"""Building an environment and setting a task up may take this long, or as long as a step where that is longer."""
SHUTDOWN_SECONDS = 5.0
"""How long `SeatPool.close` waits for environments to free what they hold."""


class EnvironmentLost(InfrastructureError):
    """An environment hung past its time limit or its process died. The episode is played again on a fresh one."""


class Remote(Protocol):
    """Something that carries out a host's methods; blocking, used from one thread."""

    def start(self) -> None:
        """Build the environment."""
        ...

    def call(self, method: str, arguments: tuple[Any, ...]) -> Any:
        """Return the method's result, or raise what it raised."""
        ...

    def kill(self) -> None:
        """End a call that hangs, from another thread."""
        ...


class _Local:
    """The host itself."""

    def __init__(self, arguments: tuple[str, dict[str, Any], str | None]) -> None:
        self._arguments = arguments
        self._host: EnvironmentHost | None = None

    def start(self) -> None:
        self._host = make_host(*self._arguments)

    def call(self, method: str, arguments: tuple[Any, ...]) -> Any:
        assert self._host is not None
        return call(self._host, method, arguments)

    def kill(self) -> None:
        """Nothing ends a thread."""


class _Child:
    """A host in a child process."""

    def __init__(self, name: str, connection: Connection, arguments: tuple[Any, ...]) -> None:
        self._name = name
        self._connection = connection
        self._arguments = arguments
        try:
            self._pid: int = connection.recv()
        except (EOFError, OSError) as error:
            raise EnvironmentLost(f"environment {name!r}: its process died at its start") from error

    def start(self) -> None:
        self.call("start", self._arguments)

    def call(self, method: str, arguments: tuple[Any, ...]) -> Any:
        try:
            self._connection.send((method, arguments))
            ok, result = self._connection.recv()
        except (EOFError, OSError) as error:
            self._connection.close()
            raise EnvironmentLost(
                f"environment {self._name!r}: its process died during {method} (killed, out of memory, or a crash of "
                "native code)"
            ) from error
        if method == "shutdown":
            self._connection.close()
        if ok:
            return result
        raise result

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._pid, signal.SIGKILL)


class Nursery:
    """The parent's side of `agenttuning.rollout.nursery`: starts it at the first need and asks it for children."""

    def __init__(self, name: str, path: str) -> None:
        self._name = name
        self._path = path
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None

    def spawn(self) -> Connection:
        """Fork a child and return the connection to it.

        Raises:
            ConfigurationError: the environment does not import.
        """
        ours, theirs = socket.socketpair()
        with self._lock, theirs:
            if self._process is None or self._process.poll() is not None:
                self._start()
            assert self._control is not None
            try:
                socket.send_fds(self._control, [SPAWN], [theirs.fileno()])
            except OSError as error:
                ours.close()
                raise EnvironmentLost(f"environment {self._name!r}: the process that forks it died") from error
        return Connection(ours.detach())

    def close(self) -> None:
        """End the nursery and all its children."""
        with self._lock:
            if self._control is not None:
                self._control.close()
            if self._process is not None:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._process.wait(timeout=GRACE_SECONDS + 1)
                self._process.kill()
                self._process.wait()
            self._process = self._control = None

    def _start(self) -> None:
        if self._control is not None:
            self._control.close()
        ours, theirs = socket.socketpair()
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
        command = [sys.executable, "-m", "agenttuning.rollout.nursery", str(theirs.fileno()), self._path]
        with theirs:
            self._process = subprocess.Popen(command, pass_fds=[theirs.fileno()], env=environment)
        self._control = ours
        first = ours.recv(2048)
        if first != READY:
            cause = first.decode(errors="replace") or f"its process ended with status {self._process.wait()}"
            raise ConfigurationError(
                f"environment {self._name!r} does not import ({cause}); run `make setup` to install its packages"
            )


class Seat:
    """One environment instance, its thread, and its time limits.

    Args:
        name: the environment's name, for messages.
        make: builds what carries out the calls; runs on the seat's thread at the first call.
        step_timeout_s: limit of one step.
    """

    def __init__(self, name: str, make: Callable[[], Remote], step_timeout_s: float) -> None:
        self.name = name
        self.usable = True
        self._make = make
        self._remote: Remote | None = None
        self._step_s = step_timeout_s
        self._calls: queue.SimpleQueue[tuple[Future[Any], str, tuple[Any, ...]] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=f"environment-{name}", daemon=True)
        self._thread.start()

    async def open(self, task: Task, demonstration: bool) -> Opening:
        """See `EnvironmentHost.open`."""
        limit = max(SETUP_SECONDS, self._step_s)
        opening: Opening = await self._call("open", task, demonstration, limit=limit)
        return opening

    async def play(self, reply: str) -> Played:
        """See `EnvironmentHost.play`."""
        played: Played = await self._call("play", reply)
        return played

    async def parse(self, reply: str) -> Played:
        """See `EnvironmentHost.parse`."""
        played: Played = await self._call("parse", reply)
        return played

    async def move(self, seed: int) -> ExpertReply:
        """See `EnvironmentHost.move`."""
        reply: ExpertReply = await self._call("move", seed)
        return reply

    async def close(self) -> Closed:
        """See `EnvironmentHost.close`."""
        closed: Closed = await self._call("close")
        return closed

    def discard(self) -> None:
        """Give the environment up: free it after the call in progress, and kill its process if that call hangs."""
        if self.usable:
            self.usable = False
            self._calls.put((Future(), "shutdown", ()))
            self._calls.put(None)

    def join(self, timeout_s: float) -> None:
        """Wait until a discarded environment is freed."""
        self._thread.join(max(0.0, timeout_s))

    def kill(self) -> None:
        """Give the environment up at once."""
        self.discard()
        if self._remote is not None:
            self._remote.kill()

    async def _call(self, method: str, *arguments: Any, limit: float | None = None) -> Any:
        if not self.usable:
            raise EnvironmentLost(f"environment {self.name!r}: was lost before {method}")
        future: Future[Any] = Future()
        self._calls.put((future, method, arguments))
        seconds = limit or self._step_s
        try:
            async with asyncio.timeout(seconds):
                return await asyncio.wrap_future(future)
        except TimeoutError as error:
            self.kill()
            raise EnvironmentLost(
                f"environment {self.name!r}: {method} took longer than {seconds:g} s and was ended; "
                f"rollout.step_timeout_s is {self._step_s:g}"
            ) from error
        except asyncio.CancelledError:
            self.kill()
            raise

    def _run(self) -> None:
        while (item := self._calls.get()) is not None:
            future, method, arguments = item
            if method == "shutdown" and self._remote is None:
                continue
            if not future.set_running_or_notify_cancel():
                continue
            try:
                if self._remote is None:
                    self._remote = self._make()
                    self._remote.start()
                future.set_result(self._remote.call(method, arguments))
            except BaseException as error:
                future.set_exception(error)


class SeatPool:
    """The idle seats of one environment, and how more are made.

    Args:
        cls: the environment's class.
        settings: its raw settings.
        data_root: directory of published data, or None.
        step_timeout_s: limit of one step.
    """

    def __init__(
        self, cls: type[Environment], settings: dict[str, Any], data_root: str | None, step_timeout_s: float
    ) -> None:
        self.name = cls.name
        self._arguments = (class_path(cls), settings, data_root)
        self._nursery = Nursery(cls.name, self._arguments[0]) if cls.isolation == "process" else None
        self._step_s = step_timeout_s
        self._idle: list[Seat] = []
        self._all: set[Seat] = set()

    def take(self) -> Seat:
        """Return an idle seat, the last one used first, or a new one."""
        while self._idle:
            if (seat := self._idle.pop()).usable:
                return seat
        seat = Seat(self.name, self._make, self._step_s)
        self._all.add(seat)
        return seat

    def give_back(self, seat: Seat) -> None:
        """Return a seat; one that was discarded is not used again."""
        if seat.usable:
            self._idle.append(seat)
        else:
            self._all.discard(seat)

    def close(self) -> None:
        """Free all environments, also those in the middle of an episode; wait a little for them."""
        deadline = time.monotonic() + SHUTDOWN_SECONDS
        for seat in self._all:
            seat.discard()
        for seat in self._all:
            seat.join(deadline - time.monotonic())
        self._idle.clear()
        self._all.clear()
        if self._nursery is not None:
            self._nursery.close()

    def _make(self) -> Remote:
        if self._nursery is None:
            return _Local(self._arguments)
        return _Child(self.name, self._nursery.spawn(), self._arguments)
