"""What carries out an environment's calls: its host here (`Local`), or a host in a child process (`Child`).

`Nursery` is the parent's side of `agenttuning.rollout.nursery`, which forks the children.
"""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
from multiprocessing.connection import Connection
from typing import Any, Protocol

from agenttuning.errors import ConfigurationError, InfrastructureError
from agenttuning.rollout.host import EnvironmentHost, call, make_host
from agenttuning.rollout.nursery import GRACE_SECONDS, READY, SPAWN


class EnvironmentLost(InfrastructureError):
    """An environment hung past its time limit or its process died. The episode is played again on a fresh one."""


class Remote(Protocol):
    """Something that carries out a host's methods; blocking, used from one thread."""

    pid: int | None
    """The process it lives in, None where that is the worker's own."""

    def start(self) -> None:
        """Build the environment."""
        ...

    def call(self, method: str, arguments: tuple[Any, ...]) -> Any:
        """Return the method's result, or raise what it raised."""
        ...

    def kill(self) -> None:
        """End a call that hangs, from another thread."""
        ...


class Local:
    """The host itself."""

    def __init__(self, arguments: tuple[str, dict[str, Any], str | None]) -> None:
        self.pid: int | None = None
        self._arguments = arguments
        self._host: EnvironmentHost | None = None

    def start(self) -> None:
        """See `Remote.start`."""
        self._host = make_host(*self._arguments)

    def call(self, method: str, arguments: tuple[Any, ...]) -> Any:
        """See `Remote.call`."""
        assert self._host is not None
        return call(self._host, method, arguments)

    def kill(self) -> None:
        """Nothing ends a thread."""


class Child:
    """A host in a child process."""

    def __init__(self, name: str, connection: Connection, arguments: tuple[Any, ...]) -> None:
        self._name = name
        self._connection = connection
        self._arguments = arguments
        try:
            self.pid: int | None = connection.recv()
        except (EOFError, OSError) as error:
            raise EnvironmentLost(f"environment {name!r}: its process died at its start") from error

    def start(self) -> None:
        """See `Remote.start`."""
        self.call("start", self._arguments)

    def call(self, method: str, arguments: tuple[Any, ...]) -> Any:
        """See `Remote.call`; a process that is gone is `EnvironmentLost`."""
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
        """Kill the process, which ends a hanging call with `EnvironmentLost`."""
        if self.pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)


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
            EnvironmentLost: this machine has no process or file descriptor for it now, or the one that forks died.
        """
        try:
            ours, theirs = socket.socketpair()
            with self._lock, theirs, ours:
                if self._process is None or self._process.poll() is not None:
                    self._start()
                assert self._control is not None
                socket.send_fds(self._control, [SPAWN], [theirs.fileno()])
                return Connection(ours.detach())
        except OSError as error:
            raise EnvironmentLost(f"environment {self._name!r}: no process can be forked for it ({error})") from error

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
