"""How much memory processes hold together with their descendants."""

import contextlib
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import psutil


def tree_memory(roots: Iterable[int]) -> dict[int, int]:
    """Return the proportional memory (PSS, bytes) of each process and all its descendants; the gone are left out.

    Pages that processes share count in parts, so that an import which many forks share is not held against each.
    """
    children: defaultdict[int, list[int]] = defaultdict(list)
    for process in psutil.process_iter(["ppid"]):
        children[process.info["ppid"]].append(process.pid)
    return {root: size for root in roots if (size := _tree(root, children))}


def _tree(pid: int, children: dict[int, list[int]]) -> int:
    return _own(pid) + sum(_tree(child, children) for child in children.get(pid, ()))


def _own(pid: int) -> int:
    with contextlib.suppress(OSError, ValueError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) << 10
    with contextlib.suppress(psutil.Error):
        return int(psutil.Process(pid).memory_info().rss)
    return 0
