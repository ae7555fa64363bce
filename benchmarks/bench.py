"""What the benchmarks share: they refuse a busy machine, know facts about it, and write their result in one way.

A run at full size on an idle machine writes its file in `results/`. A trial (`--force`, another size) prints only,
unless `--output` names a file.
"""

import argparse
import json
import os
import platform
import sys
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
BUSY = 0.5
"""Load average of the last minute above which the numbers would mean nothing."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add `--force` and `--output`."""
    parser.add_argument("--force", action="store_true", help="measure on a busy machine all the same, as a trial")
    parser.add_argument("--output", type=Path, help="where the result goes; unset: a full run writes results/")


def idle_load(options: argparse.Namespace) -> float:
    """Return the load of the last minute; on a busy machine, end the program unless `--force` was given."""
    load = os.getloadavg()[0]
    if load > BUSY and not options.force:
        sys.exit(f"the load is {load:.2f}, above {BUSY}: the numbers would mean nothing; wait, or give --force")
    return round(load, 2)


def machine(*names: str) -> dict[str, Any]:
    """Return facts about this machine: `cores`, `processor`, `python`."""
    facts = {
        "cores": os.cpu_count(),
        "processor": platform.processor() or platform.machine(),
        "python": platform.python_version(),
    }
    return {name: facts[name] for name in names}


def write_result(
    report: dict[str, Any], name: str, options: argparse.Namespace | None = None, full: bool = True
) -> None:
    """Write a report as `results/<name>.json`, where it is that of a full run, or where `--output` says."""
    trial = not full or (options is not None and options.force)
    target = (options.output if options else None) or (None if trial else RESULTS / f"{name}.json")
    if target is not None:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(json.dumps(report, indent=2) + "\n")
