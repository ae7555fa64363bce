"""A control group per box, where the system lets this process make one: bounds the box as a whole.

Read are `/proc/self/cgroup` and the mounts below `/sys/fs/cgroup`, version 1 (one hierarchy per controller) and
version 2 (one for all). A box's group is a child of this process' own, so that limits of a container or a job still
hold above it. Where none can be made, a box has only the limits of its processes.
"""

import contextlib
import functools
import os
import time
from dataclasses import dataclass
from pathlib import Path

MOUNT = Path("/sys/fs/cgroup")
REMOVE_TRIES = 20


@dataclass(frozen=True)
class Hierarchy:
    """A directory in which groups can be made, and the files that hold their limits."""

    parent: Path
    memory: str | None
    processes: str | None


class ControlGroup:
    """The groups of one box, one per hierarchy; empty where none can be made.

    Args:
        name: unique among the boxes of this machine.
        memory_bytes: memory of all processes and files of the box.
        processes: how many processes and threads it may have.
    """

    def __init__(self, name: str, memory_bytes: int, processes: int) -> None:
        self._directories: list[Path] = []
        limits = (("memory", memory_bytes), ("processes", processes))
        for hierarchy in hierarchies():
            directory = hierarchy.parent / name
            with contextlib.suppress(OSError):
                directory.mkdir()
                self._directories.append(directory)
                for kind, value in limits:
                    if file := getattr(hierarchy, kind):
                        (directory / file).write_text(str(value))

    def add(self, pid: int) -> None:
        """Put a process into the groups; what it starts later is in them too."""
        for directory in self._directories:
            with contextlib.suppress(OSError):
                (directory / "cgroup.procs").write_text(str(pid))

    def remove(self) -> None:
        """Remove the groups once their processes are gone. Safe to call twice."""
        for directory in self._directories:
            for _ in range(REMOVE_TRIES):
                try:
                    directory.rmdir()
                    break
                except FileNotFoundError:
                    break
                except OSError:
                    time.sleep(0.005)
        self._directories.clear()


@functools.cache
def hierarchies() -> tuple[Hierarchy, ...]:
    """Return where this process can make groups; found out once, by making one."""
    try:
        own = Path("/proc/self/cgroup").read_text()
    except OSError:
        return ()
    return tuple(h for h in find_hierarchies(own, MOUNT) if _usable(h))


def bounds_memory() -> bool:
    """Say whether boxes on this machine have their memory bounded as a whole."""
    return any(hierarchy.memory for hierarchy in hierarchies())


def find_hierarchies(own: str, mount: Path) -> list[Hierarchy]:
    """Return the hierarchies with memory or process limits that this process is in.

    Args:
        own: text of `/proc/self/cgroup`.
        mount: where control groups are mounted.
    """
    found = []
    for line in own.splitlines():
        _, controllers, path = line.split(":", 2)
        names = controllers.split(",")
        if not controllers:
            found.append(Hierarchy(_existing(mount, path), "memory.max", "pids.max"))
        elif "memory" in names:
            found.append(Hierarchy(_existing(mount / controllers, path), "memory.limit_in_bytes", None))
        elif "pids" in names:
            found.append(Hierarchy(_existing(mount / controllers, path), None, "pids.max"))
    return found


def _existing(top: Path, path: str) -> Path:
    """Return the process' own group, or the top where a container shows nothing of the way there."""
    own = top / path.lstrip("/")
    return own if own.is_dir() else top


def _usable(hierarchy: Hierarchy) -> bool:
    probe = hierarchy.parent / f"agenttuning-probe-{os.getpid()}"
    try:
        probe.mkdir()
    except OSError:
        return False
    try:
        return all((probe / file).exists() for file in (hierarchy.memory, hierarchy.processes) if file)
    finally:
        with contextlib.suppress(OSError):
            probe.rmdir()
