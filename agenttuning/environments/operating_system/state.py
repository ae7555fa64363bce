"""The final state of a box, read from outside it after all its processes are dead."""

from collections.abc import Iterable

from agenttuning.environments.sandbox import Box


def collect(box: Box, paths: Iterable[str]) -> dict[str, dict[str, str]]:
    """Return `{path: {"kind", "text"}}` for absolute paths of a stopped box; see `sandbox.reading.read_below`."""
    found = {}
    for path in paths:
        kind, text = box.read(path)
        found[path] = {"kind": kind, "text": text}
    return found
