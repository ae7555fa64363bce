"""The same box as a Docker container: `docker run` holds it, `docker exec` runs its shell.

For hosts where user namespaces are refused and a Docker daemon is there, and for tasks that need an image of their
own. A container has no network, no new privileges, and limits on memory and processes; the size of a file is limited,
the whole disk is not (most storage drivers of Docker cannot). It starts in a second, not in 20 milliseconds.

Files are read by the daemon (`docker cp`) after all processes are killed, one path component at a time, so a symbolic
link is reported and not followed.
"""

import contextlib
import itertools
import os
import shutil
import subprocess
import tarfile
from pathlib import PurePosixPath
from typing import Self

from agenttuning.environments.sandbox.box import ANSWER_TIMEOUT_S, CommandResult, Limits
from agenttuning.environments.sandbox.copying import MOST_ENTRIES, is_system
from agenttuning.environments.sandbox.reading import FILE_LIMIT, path_parts, text_of
from agenttuning.environments.sandbox.wire import After, Output, Wire
from agenttuning.errors import ConfigurationError, InfrastructureError

IMAGE = "debian:bookworm-slim"
DAEMON_TIMEOUT_S = 120.0
"""How long one command of the daemon may take (starting a container may pull its image)."""
CURE = "start a Docker daemon that this user may use (`docker info` must answer), or set sandbox=bubblewrap"

MARK = bytes(range(1, 7))
"""Standard output and error of `docker exec` reach this process by two ways, and one may overtake the other."""

_LOOP = """\
ulimit -c 0; ulimit -n 256; ulimit -v @MEMORY_KB@; ulimit -f @DISK_KB@
exec 3<&0 4>&2 5>&1 2>&1 </dev/null
while :; do
  /bin/bash -c "$1" /.box/shell; printf 'exited %d\\n' $? >&4; printf '\\1\\2\\3\\4\\5\\6' >&5
done
"""
_SHELL = """\
builtin printf 'ready\\n' >&4
while IFS= builtin read -r -d '' -u 3 BOX_SCRIPT; do
  eval "$BOX_SCRIPT" </dev/null 3<&- 4>&- 5>&-
  builtin printf 'done %d\\n' $? >&4
  builtin printf '\\1\\2\\3\\4\\5\\6' >&5
done
"""
"""As `wire.SHELL`, and marks the end of each output."""
_counter = itertools.count()


class DockerBox:
    """A Docker `Box`.

    Args:
        limits: what the container may use.
        image: an image with `/bin/bash`, as `docker run` names it.

    Raises:
        ConfigurationError: no daemon answers, or it does not have the image.
        InfrastructureError: the container did not start for another reason.
    """

    def __init__(self, limits: Limits | None = None, image: str = IMAGE) -> None:
        self.limits = limits or Limits()
        self.image = image
        self.name = f"agenttuning-{os.getpid()}-{next(_counter)}"
        self._process: subprocess.Popen[bytes] | None = None
        self._made = False
        memory = f"{self.limits.memory_mb + self.limits.disk_mb}m"
        done = _docker(
            *("run", "--detach", "--name", self.name, "--hostname", "box", "--network", "none"),
            *("--memory", memory, "--pids-limit", str(self.limits.processes)),
            *("--security-opt", "no-new-privileges", "--cap-drop", "NET_RAW", "--cap-drop", "MKNOD"),
            *("--env", "HOME=/root", "--env", "LANG=C.UTF-8", "--env", "TERM=dumb", "--workdir", "/root"),
            *("--entrypoint", "/bin/bash", image, "-c", "while :; do sleep 3600; done"),
        )
        if done.returncode:
            message = done.stderr.decode(errors="replace").strip()
            missing = "image" in message.lower() or "manifest" in message.lower()
            kind = ConfigurationError if missing else InfrastructureError
            raise kind(f"sandbox: docker did not start a container of {image} ({message[-300:]}); {CURE}")
        self._made = True
        try:
            self._open_shell()
        except BaseException:
            self.close()
            raise

    @property
    def isolation(self) -> str:
        """What separates the box from the host, in words."""
        return f"Docker container of {self.image}"

    @property
    def alive(self) -> bool:
        """Whether the container still runs a shell."""
        return self._process is not None

    def run(self, script: str, timeout_s: float) -> CommandResult:
        """Evaluate `script` in the box's shell; see `Box.run`."""
        if not self.alive:
            return CommandResult("", None)
        result, after = self._wire.evaluate(script, timeout_s, self.limits.output_bytes)
        if after is After.ENDED:
            self._leave_shell()
        elif after is After.RUNNING:
            self.clear()
        return result

    def clear(self) -> None:
        """Kill all processes and start a new shell, by a restart: in a container full of processes no exec starts."""
        if not self.alive:
            return
        self._leave_shell()
        _docker("restart", "--time", "0", self.name)
        self._open_shell()

    def stop(self) -> None:
        """Kill the container; its files stay until `close`."""
        self._leave_shell()
        if self._made:
            _docker("kill", self.name)

    def read(self, path: str) -> tuple[str, str]:
        """Return kind and text of a file; see `reading.read_below`."""
        parts = path_parts(path)
        for end in range(1, len(parts)):
            kind, _ = self._copied("/" + "/".join(parts[:end]), with_text=False)
            if kind != "directory":
                return "missing", ""
        return self._copied(path, with_text=True)

    def copy(self) -> "DockerBox | None":
        """Stop the box, and return a fresh one with the files that differ from its image; see `Box.copy`."""
        self.stop()
        changes = changed_paths(_docker("diff", self.name).stdout.decode(errors="surrogateescape"))
        if len(changes) > MOST_ENTRIES:
            return None
        fresh = DockerBox(self.limits, self.image)
        try:
            for change, path in changes:
                if change == "D":
                    _docker("exec", fresh.name, "rm", "-rf", "--", path)
                elif change == "A" or self._copied(path, with_text=False)[0] != "directory":
                    _move(self.name, fresh.name, path)
        except BaseException:
            fresh.close()
            raise
        return fresh

    def close(self) -> None:
        """Remove the container. Safe to call twice."""
        self._leave_shell()
        if self._made:
            _docker("rm", "--force", "--volumes", self.name)
        self._made = False

    def __enter__(self) -> Self:
        """Return self; leaving the block closes the box."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the box, also after an error."""
        self.close()

    def _open_shell(self) -> None:
        loop = _LOOP.replace("@MEMORY_KB@", str(self.limits.memory_mb * 1024))
        loop = loop.replace("@DISK_KB@", str(self.limits.disk_mb * 1024))
        command = [_program(), "exec", "--interactive", self.name, "/bin/bash", "-c", loop, "loop", _SHELL]
        pipe = subprocess.PIPE
        process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, bufsize=0)
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        self._process = process
        self._wire = Wire(process.stdin.fileno(), process.stdout.fileno(), process.stderr.fileno(), MARK)
        if self._wire.wait(("ready",), ANSWER_TIMEOUT_S, Output(0)).name is None:
            message = self._wire.heard.decode(errors="replace").strip()
            self._leave_shell()
            raise InfrastructureError(f"sandbox: the container's shell did not start ({message[-300:] or 'no answer'})")

    def _leave_shell(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()

    def _copied(self, path: str, *, with_text: bool) -> tuple[str, str]:
        """Read the first entry of the tar stream that the daemon makes of a path."""
        copying = subprocess.Popen(
            [_program(), "cp", f"{self.name}:{path}", "-"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        try:
            assert copying.stdout is not None
            with tarfile.open(fileobj=copying.stdout, mode="r|") as stream:
                entry = stream.next()
                if entry is None:
                    return "missing", ""
                if entry.issym():
                    return "link", ""
                if entry.isdir():
                    return "directory", ""
                if not entry.isfile():
                    return "other", ""
                content = stream.extractfile(entry) if with_text else None
                return text_of(content.read(FILE_LIMIT + 1)) if content is not None else ("file", "")
        except tarfile.ReadError:
            return "missing", ""
        finally:
            copying.kill()
            copying.communicate()


def changed_paths(listing: str) -> list[tuple[str, str]]:
    """Return change (`A`, `C`, `D`) and path of each line of `docker diff` that a copy takes.

    Left out are the system's programs (`copying.is_system`) and what lies in a directory that is added as a whole.
    """
    found, added = list[tuple[str, str]](), ""
    changes = [line.split(" ", 1) for line in listing.splitlines()]
    for change, path in sorted(changes, key=lambda entry: entry[1].split("/")):
        if is_system(path) or (added and path.startswith(added + "/")):
            continue
        found.append((change, path))
        if change == "A":
            added = path
    return found


def docker_problem(image: str = IMAGE) -> str | None:
    """Return why no container can run on this machine, with the cure, or None when one just did."""
    try:
        with DockerBox(image=image) as box:
            result = box.run("cd /tmp && echo $((6 * 7))", ANSWER_TIMEOUT_S)
    except (ConfigurationError, InfrastructureError) as error:
        return str(error)
    return None if result.output == "42\n" else f"sandbox: a container started, but its shell said {result.output!r}"


def _program() -> str:
    path = shutil.which("docker")
    if path is None:
        raise ConfigurationError(f"sandbox: `docker` is not on the PATH; {CURE}")
    return path


def _move(source: str, target: str, path: str) -> None:
    """Copy a path from one container to the same place in another, as a tar stream that nothing here unpacks."""
    parent = str(PurePosixPath(path).parent)
    reading = [_program(), "cp", "--archive", f"{source}:{path}", "-"]
    writing = [_program(), "cp", "--archive", "-", f"{target}:{parent}"]
    with subprocess.Popen(reading, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as stream:
        done = subprocess.run(writing, stdin=stream.stdout, capture_output=True, timeout=DAEMON_TIMEOUT_S)
    if done.returncode:
        message = done.stderr.decode(errors="replace").strip()
        raise InfrastructureError(f"sandbox: docker did not copy {path} to a fresh container ({message[-300:]})")


def _docker(*arguments: str) -> "subprocess.CompletedProcess[bytes]":
    try:
        done = subprocess.run([_program(), *arguments], capture_output=True, timeout=DAEMON_TIMEOUT_S)
    except subprocess.TimeoutExpired as error:
        raise InfrastructureError(f"sandbox: `docker {arguments[0]}` took over {DAEMON_TIMEOUT_S:g} s") from error
    if done.returncode and b"docker daemon" in done.stderr:
        message = done.stderr.decode(errors="replace").strip().splitlines()[0]
        raise ConfigurationError(f"sandbox: no Docker daemon answers ({message}); {CURE}")
    return done
