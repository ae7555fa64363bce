"""A throw-away machine for untrusted shell scripts: one persistent bash in a bubblewrap box.

What a box is: own user, mount, process, network, IPC and host-name namespaces; own `/proc` and `/dev`; no network, no
new privileges, no further user namespaces. Its root is one tmpfs of fixed size, and there are two levels:

- An own root, where the system can make one (`launcher` says what it takes): all of it can be written, by an overlay
  over the host's programs without `/usr/local`, or over a root file system of the user's; users 0 to 65535, with the
  capabilities that `view` lists.
- Else the shared system: the host's `/usr` (and `/bin`, `/lib*`) read-only without `/usr/local`, a minimal `/etc`; one
  user, without capabilities.

On a host where this runs as root, a box belongs to an unprivileged uid, because a limit on processes does not bind
host root.

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
import itertools
import os
import signal
import subprocess
import tempfile
from dataclasses import dataclass
from typing import Self

from agenttuning.environments.sandbox import spawning
from agenttuning.environments.sandbox.box import ANSWER_TIMEOUT_S, INTERRUPT_TIMEOUT_S, CommandResult, Limits
from agenttuning.environments.sandbox.control_groups import ControlGroup
from agenttuning.environments.sandbox.copying import Ids, TooMuch, pack
from agenttuning.environments.sandbox.launcher import FIRST
from agenttuning.environments.sandbox.launching import Launched, Refused, launch
from agenttuning.environments.sandbox.reading import read_below
from agenttuning.environments.sandbox.view import BOUNDED, MOST_FILES, own_root, view, warden
from agenttuning.environments.sandbox.wire import SHELL, After, Output, Wire
from agenttuning.errors import ConfigurationError, InfrastructureError

OWN_MEMORY_MB = 16
"""Memory of a control group beyond the scripts' and the disk's: bubblewrap, the warden, the kernel's records."""
OWN_PROCESSES = 2
"""Bubblewrap itself, outside and inside."""

BEGINNING = ("root", "var", "opt", "srv", "home", "tmp")
"""What a fresh box over the host's programs begins with, and what a copy replaces."""
UNPACK = (
    "cd / && xargs -0 -r rm -rf -- < /.box/deleted && tar --extract --preserve-permissions --numeric-owner {owner} "
    "--file /.box/archive && cd /root"
)

_counter = itertools.count()
_refused: dict[str | None, str] = {}
"""Why boxes of a root have not their own here."""


@dataclass(frozen=True)
class Contents:
    """What a fresh box is given as `/.box/archive` and `/.box/deleted`: a handle on a tar archive, and paths."""

    archive: int
    deleted: tuple[str, ...]


class Sandbox:
    """A bubblewrap `Box`.

    Args:
        limits: what the box may use.
        root: directory of a root file system that the box's is made of; None: the host's programs.
        own: whether its root is its own; None: where the system can (always with `root`).
        contents: what it is given of another box.

    Raises:
        ConfigurationError: bubblewrap is missing or the system refuses it; names the cure.
        InfrastructureError: the box did not start for another reason.
    """

    def __init__(
        self,
        limits: Limits | None = None,
        root: str | None = None,
        own: bool | None = None,
        contents: Contents | None = None,
    ) -> None:
        self.limits = limits or Limits()
        self.root = None if root is None else spawning.checked_root(root)
        self._contents = contents
        self._process: subprocess.Popen[bytes] | Launched | None = None
        self._pipes: list[int] = []
        self._group: ControlGroup | None = None
        self._init_fd = self._layer_fd = self.root_fd = -1
        """`root_fd`: handle (O_PATH) on the box's root directory, valid until `close`."""
        self._ids: Ids = ()
        self.own = own if own is not None else self.root not in _refused
        """Whether the box's root is its own; else the host's programs are read-only, and there is one user."""
        try:
            try:
                self._start()
            except (Refused, ConfigurationError) as error:
                # What bubblewrap refuses to an own root it may grant without; if not, that refusal is the one to tell.
                if not self.own or own or self.root is not None:
                    raise
                self.close()
                self.own = False
                self._start()
                _refused[self.root] = str(error)
        except Refused as error:
            self.close()
            raise ConfigurationError(f"{error}; {spawning.OWN_ROOT_CURE}") from error
        except BaseException:
            self.close()
            raise

    @property
    def isolation(self) -> str:
        """What separates the box from the host, in words."""
        if not self.own:
            return "shared system: the host's programs read-only, one user"
        below = self.root or "the host's programs"
        return f"own root over {below}, a range of users"

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
        if self._group is not None:
            self._group.remove()

    def read(self, path: str) -> tuple[str, str]:
        """Return kind and text of a file; see `reading.read_below`."""
        return read_below(self.root_fd, path)

    def copy(self) -> "Sandbox | None":
        """Stop the box, and return a fresh one with its files; see `Box.copy`."""
        self.stop()
        layer, layered = (self._layer_fd if self.own else self.root_fd), self.root is not None
        with tempfile.TemporaryFile() as archive:
            try:
                deleted = pack(layer, self.limits.disk_mb * 2**20, archive, self._ids, replaces=layered)
            except TooMuch:
                return None
            archive.seek(0)
            contents = Contents(archive.fileno(), (*(() if layered else BEGINNING), *deleted))
            fresh = Sandbox(self.limits, self.root, self.own, contents)
        if (
            fresh.run(
                UNPACK.format(owner="--same-owner" if self.own else "--no-same-owner"), ANSWER_TIMEOUT_S
            ).exit_code
            == 0
        ):
            return fresh
        fresh.close()
        return None

    def close(self) -> None:
        """Stop the box and free its files. Safe to call twice."""
        self.stop()
        for fd in (self._init_fd, self._layer_fd, self.root_fd):
            if fd >= 0:
                os.close(fd)
        self._init_fd = self._layer_fd = self.root_fd = -1

    def __enter__(self) -> Self:
        """Return self; leaving the block closes the box."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the box, also after an error."""
        self.close()

    def _start(self) -> None:
        limits = self.limits
        memory = (limits.memory_mb + limits.disk_mb + OWN_MEMORY_MB) * 2**20
        name = f"agenttuning-{os.getpid()}-{next(_counter)}"
        self._group = ControlGroup(name, memory, limits.processes + OWN_PROCESSES)
        with contextlib.ExitStack() as child:
            requests, self._requests = self._pipe(child, child_reads=True)
            scripts, our_scripts = self._pipe(child, child_reads=True)
            output, our_output = self._pipe(child, child_reads=False)
            events, our_events = self._pipe(child, child_reads=False)
            info, our_info = self._pipe(child, child_reads=False)
            block, our_block = self._pipe(child, child_reads=True)
            self._wire = Wire(our_scripts, our_output, our_events)
            files = self._files(child)
            further = [scripts, info, block, *files.values()]
            numbers = {fd: FIRST + place if self.own else fd for place, fd in enumerate(further)}
            arguments = view(limits.disk_mb, self.root, own=self.own)
            arguments += ["--info-fd", str(numbers[info]), "--block-fd", str(numbers[block])]
            for file, fd in files.items():
                arguments += ["--ro-bind-data", str(numbers[fd]), f"/.box/{file}"]
            further.append(spawning.memory_file(child, "\0".join(arguments) + "\0"))
            number = FIRST + len(further) - 1 if self.own else further[-1]
            command = [spawning.bwrap(), "--args", str(number)]
            command += ["--", *(BOUNDED if self.own else ()), "/bin/bash", "/.box/warden", str(numbers[scripts])]
            self._spawn(command, [requests, output, events], further)
        init = spawning.child_pid(our_info)
        if init is not None:
            # The box waits at its block until it is in its group, so nothing of it is ever outside.
            self._group.add(init)
            os.write(our_block, b"\0")
        event = self._wire.wait(("ready",), ANSWER_TIMEOUT_S, Output(0))
        if event.name is None or init is None:
            raise spawning.start_failure(self._wire.heard.decode(errors="replace").strip())
        try:
            self._init_fd = os.pidfd_open(init)
            if not self.own:
                self.root_fd = os.open(f"/proc/{init}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        except PermissionError as error:
            cure = spawning.NAMESPACE_CURE
            raise ConfigurationError(f"sandbox: the box's files cannot be read ({error}); {cure}") from error

    def _files(self, child: contextlib.ExitStack) -> dict[str, int]:
        """Return descriptors of what is shown in `/.box`."""
        limits = self.limits
        texts = {
            "warden": warden(limits.memory_mb, limits.processes, limits.disk_mb, writes=not self.own),
            "shell": SHELL,
        }
        if self._contents is not None:
            texts["deleted"] = "".join(f"{path}\0" for path in self._contents.deleted)
        files = {name: spawning.memory_file(child, text) for name, text in texts.items()}
        if self._contents is not None:
            files["archive"] = fcntl.fcntl(self._contents.archive, fcntl.F_DUPFD_CLOEXEC, 10)
            child.callback(os.close, files["archive"])
        return files

    def _spawn(self, command: list[str], standard: list[int], further: list[int]) -> None:
        """Start bubblewrap, by the launcher for an own root."""
        if not self.own:
            self._process = spawning.spawn(command, standard, further)
            return
        limits = self.limits
        if not os.path.exists((self.root or "") + BOUNDED[0]):
            raise Refused(f"sandbox: {self.root or '/'} has no {BOUNDED[0]} (of util-linux)")
        request = {
            **own_root(self.root),
            "command": command,
            "disk_mb": limits.disk_mb,
            "files": MOST_FILES,
            "processes": limits.processes + OWN_PROCESSES,
        }
        self._process = launched = launch(request, [*standard, *further])
        self.root_fd, self._layer_fd, self._ids = launched.root, launched.layer, launched.ids

    def _kill(self, process: "subprocess.Popen[bytes] | Launched") -> None:
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


def sandbox_problem(root: str | None = None) -> str | None:
    """Return why no box can run on this machine, with the cure, or None when one just did."""
    try:
        with Sandbox(root=root) as box:
            result = box.run("cd /tmp && echo $((6 * 7))", ANSWER_TIMEOUT_S)
    except (ConfigurationError, InfrastructureError) as error:
        return str(error)
    return None if result.output == "42\n" else f"sandbox: a box started, but its shell answered {result.output!r}"


def sandbox_level(root: str | None = None) -> tuple[str, str | None]:
    """Start a box, and return its level of isolation in words, and why it is not the better one (None: it is).

    Raises:
        ConfigurationError: no box can run; names the cure.
        InfrastructureError: the box did not start for another reason.
    """
    with Sandbox(root=root) as box:
        return box.isolation, None if box.own else f"{_refused[root]}; {spawning.OWN_ROOT_CURE}"
