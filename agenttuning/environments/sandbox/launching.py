"""Talks to the launcher (`launcher.py`), one beside each process: asks for a box, and holds its process."""

import contextlib
import functools
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agenttuning.environments.sandbox import launcher
from agenttuning.environments.sandbox.box import ANSWER_TIMEOUT_S
from agenttuning.errors import InfrastructureError

_lock = threading.Lock()


class Refused(Exception):
    """This system cannot start such a box; the text says at which step."""


@dataclass
class Launched:
    """The process of a box, and handles on its files. Of the process `kill` and `wait` are as `subprocess.Popen`'s."""

    handle: int
    root: int
    """On the root as the box sees it."""
    layer: int
    """On what the box itself has written, without the system below it."""
    ids: list[tuple[int, int, int]]
    """First id in the box, first id outside, how many."""

    def kill(self) -> None:
        """Kill bubblewrap."""
        with contextlib.suppress(ProcessLookupError, OSError):
            signal.pidfd_send_signal(self.handle, signal.SIGKILL)

    def wait(self, timeout: float | None = None) -> int:
        """Wait until bubblewrap has ended, and free its handle."""
        if self.handle >= 0:
            poll = select.poll()
            poll.register(self.handle, select.POLLIN)
            if not poll.poll(None if timeout is None else timeout * 1000):
                raise subprocess.TimeoutExpired("bwrap", timeout or 0.0)
            os.close(self.handle)
            self.handle = -1
        return 0


def launch(request: dict[str, Any], descriptors: list[int]) -> Launched:
    """Start a box as `launcher` says.

    Args:
        request: the launcher's request.
        descriptors: the box's first three, and those that become `launcher.FIRST` and following.

    Raises:
        Refused: this system cannot.
        InfrastructureError: it could, but failed this time.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.settimeout(ANSWER_TIMEOUT_S)
    handles = list[int]()
    with ours, theirs:
        try:
            with _lock:
                socket.send_fds(
                    _launcher(os.getpid()).requests, [json.dumps(request).encode()], [theirs.fileno(), *descriptors]
                )
            theirs.close()
            started = _heard(ours, handles)
            _heard(ours, handles)
        except OSError as error:
            _close(handles)
            with _lock:
                _launcher.cache_clear()
            raise InfrastructureError(f"sandbox: the launcher does not answer ({error})") from error
        except BaseException:
            _close(handles)
            raise
    process, root, layer = handles
    return Launched(process, root, layer, [tuple(entry) for entry in started["ids"]])


def _heard(answers: socket.socket, handles: list[int]) -> dict[str, Any]:
    """Take one answer and its handles."""
    message, descriptors, _, _ = socket.recv_fds(answers, launcher.MOST_BYTES, 2)
    for descriptor in descriptors:
        os.set_inheritable(descriptor, False)
    handles += descriptors
    if not message:
        raise InfrastructureError("sandbox: the launcher ended without an answer")
    content: dict[str, Any] = json.loads(message)
    if "error" in content:
        kind = Refused if content["refused"] else InfrastructureError
        raise kind(f"sandbox: {content['error']}")
    return content


def _close(handles: list[int]) -> None:
    for handle in handles:
        os.close(handle)


@dataclass(frozen=True)
class _Launcher:
    """A running launcher, and what it lives as long as."""

    requests: socket.socket
    process: "subprocess.Popen[bytes]"
    starter: ThreadPoolExecutor


@functools.cache
def _launcher(_pid: int) -> _Launcher:
    """Start the launcher of this process (a forked child has none of its parent's)."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    command = [sys.executable, "-I", "-S", str(Path(launcher.__file__).resolve())]
    if os.geteuid() != 0:
        command = ["unshare", "--user", "--map-root-user", "--map-auto", *command, "entered"]

    def start() -> "subprocess.Popen[bytes]":
        return subprocess.Popen(
            command, stdin=theirs.fileno(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, cwd="/"
        )

    # The launcher ends with the thread that started it, so one that lives as long as the process does it.
    starter = ThreadPoolExecutor(1, thread_name_prefix="sandbox-launcher")
    with theirs:
        try:
            process = starter.submit(start).result()
        except OSError as error:
            raise Refused(f"sandbox: {command[0]} did not start ({error})") from error
    ours.settimeout(ANSWER_TIMEOUT_S)
    try:
        ready = bool(ours.recv(1))
    except OSError:
        ready = False
    if not ready:
        ours.close()
        process.kill()
        message = process.communicate()[1].decode(errors="replace").strip()
        raise Refused(f"sandbox: no range of user ids ({message[-200:] or 'no answer'})")
    return _Launcher(ours, process, starter)
