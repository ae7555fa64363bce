"""A throw-away machine for untrusted shell scripts: one persistent bash in a bubblewrap box.

What a box is: own user, mount, process, network, IPC and host-name namespaces; a root that is one tmpfs of fixed
size; the host's `/usr` (and `/bin`, `/lib*`) read-only, without `/usr/local`; a minimal `/etc`; own `/proc` and
`/dev`; no network, no capability, no further user namespaces. On a host where this runs as root, the box belongs to
an unprivileged uid, because a limit on processes does not bind host root.

How it works: pid 2 of the box, the warden, starts a shell that reads NUL-ended scripts, evaluates each in itself
(so `cd` and variables persist) and reports the exit code on a channel that scripts do not hold. When a script runs
out of time or floods its output, the warden kills every process of the box but itself and starts a new shell; files
stay. `stop` kills the box's process namespace; its files can still be read through `root_fd` until `close`.

Memory and processes are limited for the box as a whole where control groups can be made (`control_groups`), and per
process everywhere. What it is not: where no control group can be made, memory is limited per process times the
number of processes, and the number of files only by time; the box offers itself as the first victim if the host runs
out. The kernel is shared with the host.
"""

import contextlib
import fcntl
import functools
import itertools
import json
import os
import re
import select
import shutil
import signal
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Self

from agenttuning.environments.sandbox.box import ANSWER_TIMEOUT_S, INTERRUPT_TIMEOUT_S, CommandResult, Limits
from agenttuning.environments.sandbox.control_groups import ControlGroup
from agenttuning.environments.sandbox.copying import TooMuch, pack
from agenttuning.environments.sandbox.reading import read_below
from agenttuning.environments.sandbox.view import view, warden
from agenttuning.environments.sandbox.wire import SHELL, After, Output, Wire
from agenttuning.errors import ConfigurationError, InfrastructureError

BOX_UID_BASE = 100_000
OWN_MEMORY_MB = 16
"""Memory of a control group beyond the scripts' and the disk's: bubblewrap, the warden, the kernel's records."""
OWN_PROCESSES = 2
"""Bubblewrap itself, outside and inside."""

UNPACK = (
    "cd / && rm -rf root var opt srv home tmp && tar --extract --preserve-permissions --no-same-owner "
    "--file /.box/archive && cd /root"
)
"""Replaces the files that a fresh box begins with by those of its archive."""

INSTALL_CURE = "install bubblewrap 0.8 or newer: `apt-get install bubblewrap`"
NAMESPACE_CURE = (
    "allow user namespaces: `sysctl -w user.max_user_namespaces=10000 kernel.unprivileged_userns_clone=1`; on Ubuntu "
    "24.04 also `sysctl -w kernel.apparmor_restrict_unprivileged_userns=0`; a container needs "
    "`--security-opt seccomp=unconfined --security-opt systempaths=unconfined --cap-add SYS_ADMIN --cap-add SYS_PTRACE`"
)

_REFUSED = re.compile(r"namespace|uid map|gid map|setgroups|permi|unknown option|mount proc|/proc", re.IGNORECASE)
_counter = itertools.count()


class Sandbox:
    """A bubblewrap `Box`.

    Args:
        limits: what the box may use.
        archive: handle on what the box holds as `/.box/archive`, read from where it stands; None: nothing.

    Raises:
        ConfigurationError: bubblewrap is missing or the system refuses it; names the cure.
        InfrastructureError: the box did not start for another reason.
    """

    def __init__(self, limits: Limits | None = None, archive: int | None = None) -> None:
        self._archive = archive
        self.limits = limits or Limits()
        self._process: subprocess.Popen[bytes] | None = None
        self._pipes: list[int] = []
        self._init_fd = -1
        self.root_fd = -1
        """Handle (O_PATH) on the box's root directory, valid until `close`."""
        memory = (self.limits.memory_mb + self.limits.disk_mb + OWN_MEMORY_MB) * 2**20
        name = f"agenttuning-{os.getpid()}-{next(_counter)}"
        self._group = ControlGroup(name, memory, self.limits.processes + OWN_PROCESSES)
        try:
            self._start()
        except BaseException:
            self.close()
            raise

    @property
    def alive(self) -> bool:
        """Whether the box still runs: a script can end it by killing all its processes."""
        return self._process is not None

    def run(self, script: str, timeout_s: float) -> CommandResult:
        """Evaluate `script` in the box's shell; see `Box.run`."""
        if not self.alive:
            return CommandResult("", None)
        result, after = self._wire.evaluate(script, timeout_s, self.limits.output_bytes)
        if after is After.ENDED:
            self.stop()
        elif after is After.RUNNING:
            self.clear()
        return result

    def clear(self) -> None:
        """Kill all processes of the box but the warden, which starts a new shell."""
        if not self.alive:
            return
        with contextlib.suppress(BlockingIOError, BrokenPipeError):
            os.write(self._requests, b"kill\n")
        event = self._wire.wait(("killed",), INTERRUPT_TIMEOUT_S, Output(0, flood=2**62))
        if event.name is None:
            self.stop()

    def stop(self) -> None:
        """Kill every process of the box and wait until they are gone; files stay readable through `root_fd`."""
        process, self._process = self._process, None
        if process is not None:
            self._kill(process)
        for fd in self._pipes:
            os.close(fd)
        self._pipes.clear()
        self._group.remove()

    def read(self, path: str) -> tuple[str, str]:
        """Return kind and text of a file; see `reading.read_below`."""
        return read_below(self.root_fd, path)

    def copy(self) -> "Sandbox | None":
        """Stop the box, and return a fresh one with its files; see `Box.copy`."""
        self.stop()
        with tempfile.TemporaryFile() as archive:
            try:
                pack(self.root_fd, self.limits.disk_mb * 2**20, archive)
            except TooMuch:
                return None
            archive.seek(0)
            fresh = Sandbox(self.limits, archive.fileno())
        if fresh.run(UNPACK, ANSWER_TIMEOUT_S).exit_code == 0:
            return fresh
        fresh.close()
        return None

    def close(self) -> None:
        """Stop the box and free its files. Safe to call twice."""
        self.stop()
        for fd in (self._init_fd, self.root_fd):
            if fd >= 0:
                os.close(fd)
        self._init_fd = self.root_fd = -1

    def __enter__(self) -> Self:
        """Return self; leaving the block closes the box."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the box, also after an error."""
        self.close()

    def _start(self) -> None:
        bwrap = _bwrap()
        limits = self.limits
        with contextlib.ExitStack() as child:
            requests, self._requests = self._pipe(child, child_reads=True)
            scripts, our_scripts = self._pipe(child, child_reads=True)
            output, our_output = self._pipe(child, child_reads=False)
            events, our_events = self._pipe(child, child_reads=False)
            info, our_info = self._pipe(child, child_reads=False)
            block, our_block = self._pipe(child, child_reads=True)
            self._wire = Wire(our_scripts, our_output, our_events)
            texts = {"warden": warden(limits.memory_mb, limits.processes, limits.disk_mb), "shell": SHELL}
            files = {name: _memory_file(child, text) for name, text in texts.items()}
            if self._archive is not None:
                files["archive"] = fcntl.fcntl(self._archive, fcntl.F_DUPFD_CLOEXEC, 10)
                child.callback(os.close, files["archive"])
            arguments = [*view(limits.disk_mb), "--info-fd", str(info), "--block-fd", str(block)]
            for name, fd in files.items():
                arguments += ["--ro-bind-data", str(fd), f"/.box/{name}"]
            arguments_fd = _memory_file(child, "\0".join(arguments) + "\0")
            command = [bwrap, "--args", str(arguments_fd), "--", "/bin/bash", "/.box/warden", str(scripts)]
            owner = _owner()

            def spawn() -> subprocess.Popen[bytes]:
                return subprocess.Popen(
                    command,
                    stdin=requests,
                    stdout=output,
                    stderr=events,
                    pass_fds=(scripts, info, block, arguments_fd, *files.values()),
                    cwd="/",
                    env={},
                    user=owner,
                    group=owner,
                    extra_groups=None if owner is None else (),
                )

            # bubblewrap dies with the thread that started it, so a thread that lives as long as the process does it.
            try:
                self._process = _spawner(os.getpid()).submit(spawn).result()
            except OSError as error:
                raise InfrastructureError(f"sandbox: {bwrap} did not start ({error})") from error
        init = _child_pid(our_info)
        if init is not None:
            # The box waits at its block until it is in its group, so nothing of it is ever outside.
            self._group.add(init)
            os.write(our_block, b"\0")
        event = self._wire.wait(("ready",), ANSWER_TIMEOUT_S, Output(0))
        if event.name is None or init is None:
            raise _start_failure(self._wire.heard.decode(errors="replace").strip())
        try:
            self._init_fd = os.pidfd_open(init)
            self.root_fd = os.open(f"/proc/{init}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        except PermissionError as error:
            raise ConfigurationError(f"sandbox: the box's files cannot be read ({error}); {NAMESPACE_CURE}") from error

    def _kill(self, process: "subprocess.Popen[bytes]") -> None:
        """Kill the first process of the box's namespace, and with it all others; bubblewrap outside ends after them."""
        if self._init_fd >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._init_fd, signal.SIGKILL)
        else:
            process.kill()
        try:
            process.wait(ANSWER_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _pipe(self, child: contextlib.ExitStack, *, child_reads: bool) -> tuple[int, int]:
        """Return the child's end, closed with the stack, and ours, closed by `stop`."""
        reading, writing = os.pipe()
        theirs, ours = (reading, writing) if child_reads else (writing, reading)
        # From 10 upwards: the warden uses 3 to 5.
        moved = fcntl.fcntl(theirs, fcntl.F_DUPFD_CLOEXEC, 10)
        os.close(theirs)
        child.callback(os.close, moved)
        os.set_blocking(ours, False)
        self._pipes.append(ours)
        return moved, ours


def sandbox_problem() -> str | None:
    """Return why no box can run on this machine, with the cure, or None when one just did."""
    try:
        with Sandbox() as box:
            result = box.run("cd /tmp && echo $((6 * 7))", ANSWER_TIMEOUT_S)
    except (ConfigurationError, InfrastructureError) as error:
        return str(error)
    return None if result.output == "42\n" else f"sandbox: a box started, but its shell answered {result.output!r}"


@functools.cache
def _spawner(_pid: int) -> ThreadPoolExecutor:
    """One thread per process (a forked child has none of its parent's threads)."""
    return ThreadPoolExecutor(1, thread_name_prefix="sandbox")


@functools.cache
def _bwrap() -> str:
    path = shutil.which("bwrap")
    if path is None:
        raise ConfigurationError(f"sandbox: bubblewrap (`bwrap`) is not on the PATH; {INSTALL_CURE}")
    return path


def _child_pid(info: int) -> int | None:
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


def _start_failure(message: str) -> ConfigurationError | InfrastructureError:
    text = f"sandbox: the box did not start ({message or 'no answer'})"
    if "unknown option" in message.lower():
        return ConfigurationError(f"{text}; {INSTALL_CURE}")
    if _REFUSED.search(message):
        return ConfigurationError(f"{text}; {NAMESPACE_CURE}")
    return InfrastructureError(text)


def _memory_file(child: contextlib.ExitStack, text: str) -> int:
    """Return a descriptor from 10 upwards that reads `text`, closed with the stack."""
    fd = os.memfd_create("box")
    moved = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 10)
    os.close(fd)
    child.callback(os.close, moved)
    os.write(moved, text.encode())
    os.lseek(moved, 0, os.SEEK_SET)
    return moved


def _owner() -> int | None:
    """Return the unprivileged uid that owns the next box where this runs as root, one per box; else None."""
    if os.geteuid() != 0:
        return None
    lines = Path("/proc/self/uid_map").read_text().splitlines()
    highest = max(int(first) + int(count) for first, _, count in map(str.split, lines))
    base, room = (BOX_UID_BASE, 2**16) if highest >= BOX_UID_BASE + 2**16 else (1024, highest - 1024)
    return base + (os.getpid() * 64 + next(_counter)) % room
