"""`python -m agenttuning.rollout.nursery`: imports an environment once and forks one child per instance.

Importing a simulator costs seconds and a hundred megabytes. Paid once here, a further instance costs a fork: some
milliseconds and the pages it writes. Forking is safe because this process runs no thread of ours and no event loop,
which a worker of Ray does. Its control socket carries one socket per wanted child; when that closes,
the children get a moment to shut down, and when this process dies, every child dies with it.

The parent's side is `agenttuning.rollout.remotes`. Messages are pickled and stay between processes of one user.
"""

import contextlib
import ctypes
import gc
import os
import random
import signal
import socket
import sys
from multiprocessing.connection import Connection
from typing import Any

from agenttuning.rollout.host import EnvironmentFailed, EnvironmentHost, call, load_class, make_host

READY = b"ready"
SPAWN = b"spawn"
PR_SET_PDEATHSIG = 1
GRACE_SECONDS = 3
"""How long the children of a dead worker may take to shut their environments down."""


def main(control: socket.socket, path: str) -> None:
    """Import and preload the environment, say so, and fork a child for every socket that arrives."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        load_class(path).preload()
    except Exception as error:
        control.sendall(f"{type(error).__name__}: {error}".encode()[:2000])
        return
    gc.collect()
    gc.freeze()
    control.sendall(READY)
    parent = os.getpid()
    while True:
        message, descriptors, _, _ = socket.recv_fds(control, len(SPAWN), 1)
        if message != SPAWN or not descriptors:
            break
        if os.fork() == 0:
            control.close()
            _die_with(parent)
            _serve(Connection(descriptors[0]))
            os._exit(0)
        os.close(descriptors[0])
    _wait_for_children()


def _wait_for_children() -> None:
    """Leave the children a moment to free what they hold; the alarm ends this process, and with it the rest."""
    signal.alarm(GRACE_SECONDS)
    with contextlib.suppress(ChildProcessError):
        os.wait()


def _die_with(parent: int) -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(0)


def _serve(connection: Connection) -> None:
    """Answer `(method, arguments)` with `(True, result)` or `(False, error)` until the other side closes."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    random.seed()
    connection.send(os.getpid())
    host: EnvironmentHost | None = None
    while True:
        try:
            method, arguments = connection.recv()
        except EOFError:
            break
        answer: tuple[bool, Any]
        try:
            if host is None:
                host, answer = make_host(*arguments), (True, None)
            else:
                answer = (True, call(host, method, arguments))
        except Exception as error:
            answer = (False, error)
        _send(connection, answer)
        if method == "shutdown":
            return
    if host is not None:
        host.shutdown()


def _send(connection: Connection, answer: tuple[bool, Any]) -> None:
    try:
        connection.send(answer)
    except (BrokenPipeError, ConnectionError):
        os._exit(0)
    except Exception as error:
        connection.send((False, EnvironmentFailed(f"its answer cannot leave its process ({error}): {answer[1]!r}")))


if __name__ == "__main__":
    main(socket.socket(fileno=int(sys.argv[1])), sys.argv[2])
