"""A throw-away machine for untrusted shell scripts: one persistent bash in a bubblewrap box.

What a box is: own user, mount, process, network, IPC and host-name namespaces; a root that is one tmpfs of fixed
size; the host's `/usr` (and `/bin`, `/lib*`) read-only, without `/usr/local`; a minimal `/etc`; own `/proc` and
`/dev`; no network, no capability, no further user namespaces. On a host where this runs as root, the box belongs to
an unprivileged uid, because a limit on processes does not bind host root.

How it works: pid 2 of the box, the warden, starts a shell that reads NUL-ended scripts, evaluates each in itself
(so `cd` and variables persist) and reports the exit code on a channel that scripts do not hold. When a script runs
out of time or floods its output, the warden kills every process of the box but itself and starts a new shell; files
stay. `stop` kills the box's process namespace; its files can still be read through `root_fd` until `close`.

What it is not: memory is limited per process (RLIMIT_AS) and by the number of processes, not by a cgroup, and the
number of files only by time; the box offers itself as the first victim if the host runs out. The kernel is shared
with the host.
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
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from agenttuning.errors import ConfigurationError, InfrastructureError

BOX_UID_BASE = 100_000
ANSWER_TIMEOUT_S = 20.0
"""How long the box itself (not a script) may take to start or to be interrupted."""
MAX_SCRIPT_BYTES = 60_000
FLOOD_BYTES = 2 * 2**20
"""A script that has written this much is stopped."""

INSTALL_CURE = "install bubblewrap 0.8 or newer: `apt-get install bubblewrap`"
NAMESPACE_CURE = (
    "allow user namespaces: `sysctl -w user.max_user_namespaces=10000 kernel.unprivileged_userns_clone=1`; on Ubuntu "
    "24.04 also `sysctl -w kernel.apparmor_restrict_unprivileged_userns=0`; a container needs "
    "`--security-opt seccomp=unconfined --security-opt systempaths=unconfined --cap-add SYS_ADMIN --cap-add SYS_PTRACE`"
)

WARDEN = """\
ulimit -c 0; ulimit -n 256; ulimit -u @PROCESSES@; ulimit -v @MEMORY_KB@
echo 1000 > /proc/self/oom_score_adj
scripts=$1
exec 3<&"$scripts" {scripts}<&- 4>&2 5<&0 2>/dev/null </dev/null
printf 'root:x:0:0:root:/root:/bin/bash\\nnobody:x:65534:65534:nobody:/:/bin/false\\n' > /etc/passwd
printf 'root:x:0:\\nnogroup:x:65534:\\n' > /etc/group
printf 'passwd: files\\ngroup: files\\nhosts: files\\n' > /etc/nsswitch.conf
printf '127.0.0.1 localhost box\\n' > /etc/hosts
start() { (exec 5<&- 2>&1; while :; do /bin/bash /.box/shell; printf 'exited %d\\n' $? >&4; done) & }
start
while read -r -u 5 request; do
  kill -KILL -1
  wait
  start
  printf 'killed\\n' >&4
done
"""
SHELL = """\
builtin printf 'ready\\n' >&4
while IFS= builtin read -r -d '' -u 3 BOX_SCRIPT; do
  eval "$BOX_SCRIPT" </dev/null 3<&- 4>&-
  builtin printf 'done %d\\n' $? >&4
done
"""

_EVENT = re.compile(rb"(ready|done|exited|killed)(?: (\d+))?")
_ESCAPES = re.compile(r"\x1b(?:\[[0-9;?]*[A-Za-z]|\][^\x07]*\x07|.)|[\x00-\x08\x0b-\x1f\x7f]")
_SHELL_PREFIX = re.compile(r"^/\.box/shell: (?:eval: )?(?:line \d+: )?", re.MULTILINE)
_REFUSED = re.compile(r"namespace|uid map|gid map|setgroups|permi|unknown option|mount proc|/proc", re.IGNORECASE)
_counter = itertools.count()


@dataclass(frozen=True)
class Limits:
    """What one box may use."""

    memory_mb: int = 512
    """Address space of one process in MiB."""
    processes: int = 64
    disk_mb: int = 64
    """Size of the box's root file system in MiB."""
    output_bytes: int = 64 * 1024
    """Output of one script that is kept."""


@dataclass(frozen=True)
class CommandResult:
    """What one script did."""

    output: str
    """Standard output and error, interleaved as written, without terminal escapes."""
    exit_code: int | None
    """None when the script was stopped, or ended the box."""
    timed_out: bool = False
    truncated: bool = False
    """The script wrote more than `output` holds."""
    exited: bool = False
    """The script ended its shell (`exit`, `exec`); a new one was started in the home directory."""


class Sandbox:
    """One box with one persistent bash. Not for two threads at once.

    Raises:
        ConfigurationError: bubblewrap is missing or the system refuses it; names the cure.
        InfrastructureError: the box did not start for another reason.
    """

    def __init__(self, limits: Limits | None = None) -> None:
        self.limits = limits or Limits()
        self._process: subprocess.Popen[bytes] | None = None
        self._pipes: list[int] = []
        self._init_fd = -1
        self.root_fd = -1
        """Handle (O_PATH) on the box's root directory, valid until `close`."""
        self._heard = b""
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
        """Evaluate `script` in the box's shell and return what it wrote, after `timeout_s` seconds at the latest.

        A script that outlives its time loses all processes of the box and gets a new shell in the home directory.
        """
        data = script.replace("\0", "").encode(errors="replace")
        if len(data) > MAX_SCRIPT_BYTES:
            return CommandResult(f"bash: script of {len(data)} bytes, the limit is {MAX_SCRIPT_BYTES}", 126)
        output = _Output(self.limits.output_bytes)
        event, code = self._await(("done", "exited"), timeout_s, output, data + b"\0")
        stopped = event is None and self.alive
        if stopped:
            self._interrupt()
        return CommandResult(
            output=_clean(output.kept),
            exit_code=code,
            timed_out=stopped and not output.flooded,
            truncated=output.total > len(output.kept),
            exited=event == "exited",
        )

    def stop(self) -> None:
        """Kill every process of the box and wait until they are gone; files stay readable through `root_fd`."""
        process, self._process = self._process, None
        if process is not None:
            self._kill(process)
        for fd in self._pipes:
            os.close(fd)
        self._pipes.clear()

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
        with contextlib.ExitStack() as child:
            requests, self._requests = self._pipe(child, child_reads=True)
            scripts, self._scripts = self._pipe(child, child_reads=True)
            output, self._output = self._pipe(child, child_reads=False)
            events, self._events = self._pipe(child, child_reads=False)
            info, self._info = self._pipe(child, child_reads=False)
            warden = WARDEN.replace("@PROCESSES@", str(self.limits.processes))
            warden = warden.replace("@MEMORY_KB@", str(self.limits.memory_mb * 1024))
            files = {name: _memory_file(child, text) for name, text in (("warden", warden), ("shell", SHELL))}
            arguments = [*_view(self.limits.disk_mb), "--info-fd", str(info)]
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
                    pass_fds=(scripts, info, arguments_fd, *files.values()),
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
        event, _ = self._await(("ready",), ANSWER_TIMEOUT_S, _Output(0))
        if event is None:
            raise _start_failure(self._heard.decode(errors="replace").strip())
        init = int(json.loads(os.read(self._info, 65536))["child-pid"])
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
        """Return the child's end, closed with the stack, and our non-blocking end, closed by `stop`."""
        reading, writing = os.pipe()
        theirs, ours = (reading, writing) if child_reads else (writing, reading)
        # From 10 upwards: the warden uses 3 to 5.
        moved = fcntl.fcntl(theirs, fcntl.F_DUPFD_CLOEXEC, 10)
        os.close(theirs)
        child.callback(os.close, moved)
        os.set_blocking(ours, False)
        self._pipes.append(ours)
        return moved, ours

    def _await(
        self, wanted: tuple[str, ...], timeout_s: float, output: "_Output", data: bytes = b""
    ) -> tuple[str | None, int | None]:
        """Send `data` and take output until a wanted event; return it with its code, or None with the reason spent.

        A box that has ended is stopped here.
        """
        if not self.alive:
            return None, None
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
                        self.stop()
                        return None, None
                except BrokenPipeError:
                    poll.unregister(fd)
            while (event := self._next_event()) is not None:
                if event[0] in wanted:
                    output.drain(self._output)
                    return event
        return None, None

    def _listen(self) -> bool:
        """Read events; False when the box has ended or fills the channel with something else."""
        chunk = os.read(self._events, 65536)
        self._heard += chunk
        return bool(chunk) and len(self._heard) < 2**20

    def _next_event(self) -> tuple[str, int | None] | None:
        while b"\n" in self._heard:
            line, rest = self._heard.split(b"\n", 1)
            if match := _EVENT.fullmatch(line):
                self._heard = rest
                return match[1].decode(), int(match[2]) if match[2] else None
            if line.startswith(b"bwrap:"):  # bubblewrap's own complaint, kept for `_start_failure`
                return None
            self._heard = rest
        return None

    def _interrupt(self) -> None:
        """Kill all processes of the box but the warden, which starts a new shell."""
        with contextlib.suppress(BlockingIOError, BrokenPipeError):
            os.write(self._requests, b"kill\n")
        event, _ = self._await(("killed",), ANSWER_TIMEOUT_S, _Output(0, flood=2**62))
        if event is None:
            self.stop()


class _Output:
    """Keeps the first bytes of a script's output and counts the rest."""

    def __init__(self, limit: int, flood: int = FLOOD_BYTES) -> None:
        self.kept = b""
        self.total = 0
        self._limit = limit
        self._flood = flood

    @property
    def flooded(self) -> bool:
        return self.total > self._flood

    def take(self, fd: int) -> bool:
        chunk = os.read(fd, 65536)
        self.total += len(chunk)
        self.kept += chunk[: self._limit - len(self.kept)]
        return bool(chunk)

    def drain(self, fd: int) -> None:
        """Take what the pipe holds now; bounded, as a background process may go on writing."""
        with contextlib.suppress(BlockingIOError):
            for _ in range(4):
                if not self.take(fd):
                    return


def sandbox_problem() -> str | None:
    """Return why no box can run on this machine, with the cure, or None when one just did."""
    try:
        with Sandbox() as box:
            result = box.run("cd /tmp && echo $((6 * 7))", ANSWER_TIMEOUT_S)
    except (ConfigurationError, InfrastructureError) as error:
        return str(error)
    return None if result.output == "42\n" else f"sandbox: a box started, but its shell answered {result.output!r}"


def _clean(raw: bytes) -> str:
    """Decode output, drop terminal escapes and control characters, and name the shell as an interactive one would."""
    return _SHELL_PREFIX.sub("bash: ", _ESCAPES.sub("", raw.decode(errors="replace")))


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


@functools.cache
def _system_view() -> tuple[str, ...]:
    """Return the arguments that show the host's programs, and nothing else of the host."""
    arguments = ["--ro-bind", "/usr", "/usr", "--tmpfs", "/usr/local", "--remount-ro", "/usr/local"]
    for name in ("bin", "sbin", "lib", "lib32", "lib64", "libx32"):
        path = Path("/", name)
        if path.is_symlink():
            arguments += ["--symlink", os.readlink(path), str(path)]
        elif path.is_dir():
            arguments += ["--ro-bind", str(path), str(path)]
    arguments += ["--dir", "/etc", "--ro-bind-try", "/etc/alternatives", "/etc/alternatives"]
    return tuple(arguments)


def _view(disk_mb: int) -> list[str]:
    """Return bubblewrap's arguments for a box's namespaces, root view and surroundings."""
    return [
        *("--unshare-user", "--uid", "0", "--gid", "0", "--disable-userns"),
        *("--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts", "--unshare-cgroup-try"),
        *("--die-with-parent", "--new-session", "--hostname", "box", "--clearenv"),
        *("--setenv", "PATH", "/usr/sbin:/usr/bin:/sbin:/bin", "--setenv", "HOME", "/root"),
        *("--setenv", "USER", "root", "--setenv", "LANG", "C.UTF-8", "--setenv", "TERM", "dumb"),
        *("--size", str(disk_mb * 2**20), "--tmpfs", "/"),
        *_system_view(),
        *("--dir", "/root", "--dir", "/var/log", "--dir", "/opt", "--dir", "/srv", "--dir", "/home"),
        *("--perms", "1777", "--dir", "/tmp", "--proc", "/proc"),
        # The tmpfs that bubblewrap mounts at /dev has no size limit.
        *("--dev", "/dev", "--remount-ro", "/dev", "--size", str(4 * 2**20), "--tmpfs", "/dev/shm"),
        *("--chdir", "/root"),
    ]
