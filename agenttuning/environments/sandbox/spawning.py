"""Starts bubblewrap for a box without a root of its own, and what both ways of starting need."""

import contextlib
import fcntl
import functools
import itertools
import json
import os
import re
import select
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from agenttuning.environments.sandbox.box import ANSWER_TIMEOUT_S
from agenttuning.errors import ConfigurationError, InfrastructureError

BOX_UID_BASE = 100_000

INSTALL_CURE = "install bubblewrap 0.8 or newer: `apt-get install bubblewrap`"
NAMESPACE_CURE = (
    "allow user namespaces: `sysctl -w user.max_user_namespaces=10000 kernel.unprivileged_userns_clone=1`; on Ubuntu "
    "24.04 also `sysctl -w kernel.apparmor_restrict_unprivileged_userns=0`; a container needs "
    "`--security-opt seccomp=unconfined --security-opt systempaths=unconfined --cap-add SYS_ADMIN --cap-add SYS_PTRACE`"
)

_REFUSED = re.compile(r"namespace|uid map|gid map|setgroups|permi|unknown option|mount proc|/proc", re.IGNORECASE)
_counter = itertools.count()
OWN_ROOT_CURE = (
    "a root of its own takes Linux 6.6 or newer and root, or for another user `apt-get install uidmap` and a range of "
    "65536 ids in /etc/subuid and /etc/subgid (docs/environments/os.md)"
)


def spawn(command: list[str], standard: list[int], further: list[int]) -> "subprocess.Popen[bytes]":
    """Start a command with three standard descriptors and further ones, as `owner`.

    Raises:
        InfrastructureError: it did not start.
    """
    user = owner()

    def start() -> "subprocess.Popen[bytes]":
        return subprocess.Popen(
            command,
            stdin=standard[0],
            stdout=standard[1],
            stderr=standard[2],
            pass_fds=further,
            cwd="/",
            env={},
            user=user,
            group=user,
            extra_groups=None if user is None else (),
        )

    # bubblewrap dies with the thread that started it, so a thread that lives as long as the process does it.
    try:
        return _spawner(os.getpid()).submit(start).result()
    except OSError as error:
        raise InfrastructureError(f"sandbox: {command[0]} did not start ({error})") from error


def checked_root(root: str) -> str:
    """Return the absolute path of a root file system.

    Raises:
        ConfigurationError: it is none.
    """
    path = Path(root).absolute()
    if not (path / "usr/bin/bash").is_file():
        raise ConfigurationError(
            f"sandbox: root {root} holds no usr/bin/bash, so it is no root file system; make one with debootstrap "
            "(docs/environments/os.md)"
        )
    return str(path)


@functools.cache
def _spawner(_pid: int) -> ThreadPoolExecutor:
    """One thread per process (a forked child has none of its parent's threads)."""
    return ThreadPoolExecutor(1, thread_name_prefix="sandbox")


@functools.cache
def bwrap() -> str:
    """Return the path of bubblewrap.

    Raises:
        ConfigurationError: it is not installed.
    """
    path = shutil.which("bwrap")
    if path is None:
        raise ConfigurationError(f"sandbox: bubblewrap (`bwrap`) is not on the PATH; {INSTALL_CURE}")
    return path


def child_pid(info: int) -> int | None:
    """Return the pid of the box's first process as bubblewrap tells it, or None where bubblewrap gave up."""
    poll = select.poll()
    poll.register(info, select.POLLIN)
    text = b""
    while poll.poll(ANSWER_TIMEOUT_S * 1000):
        chunk = os.read(info, 65536)
        text += chunk
        if not chunk or text.rstrip().endswith(b"}"):
            break
    try:
        return int(json.loads(text)["child-pid"])
    except (ValueError, KeyError):
        return None


def start_failure(message: str) -> ConfigurationError | InfrastructureError:
    """Return the error for what bubblewrap said when it gave up."""
    text = f"sandbox: the box did not start ({message or 'no answer'})"
    if "unknown option" in message.lower():
        return ConfigurationError(f"{text}; {INSTALL_CURE}")
    if _REFUSED.search(message):
        return ConfigurationError(f"{text}; {NAMESPACE_CURE}")
    return InfrastructureError(text)


def memory_file(child: contextlib.ExitStack, text: str) -> int:
    """Return a descriptor from 10 upwards that reads `text`, closed with the stack."""
    fd = os.memfd_create("box")
    moved = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 10)
    os.close(fd)
    child.callback(os.close, moved)
    os.write(moved, text.encode())
    os.lseek(moved, 0, os.SEEK_SET)
    return moved


def owner() -> int | None:
    """Return the unprivileged uid that owns the next box where this runs as root, one per box; else None."""
    if os.geteuid() != 0:
        return None
    lines = Path("/proc/self/uid_map").read_text().splitlines()
    highest = max(int(first) + int(count) for first, _, count in map(str.split, lines))
    base, room = (BOX_UID_BASE, 2**16) if highest >= BOX_UID_BASE + 2**16 else (1024, highest - 1024)
    return base + (os.getpid() * 64 + next(_counter)) % room
