"""Rollouts against other ways of playing episodes, and what they cost in CPU, memory and time.

    python benchmarks/rollouts.py [--vllm] [--only PART ...]

All parts play the environment of `rollouts_world` against its endpoint on loopback, which is a process of its own.
Where schedules are compared, a step of the environment takes 5 ms, as a command of the `os` environment does.

- `ratios.vs_sequential`: episodes per second of one job against one episode after another, under faults;
- `ratios.vs_best_other`: under faults, against the better of `agentbench` and `fireact`, thread pool and lock-step
  batches with the waits of the tools themselves; `vs_best_better_client` against the best of the same ways with
  clients that know these faults; `vs_best_other_without_faults` against the best of all. `rollouts_peers` says what
  each does; the number of requests at once, 64, and the time-out of 5 s are the same for all. The job has more
  episodes in flight than that, and the same requests; it drops a request that hangs far beyond all others
  (`policies.slowness`) and asks again;
- `ratios.of_endpoint_bound`: answers per second of the job without faults, against capacity / latency of the endpoint.
  The job's seconds are all of `play_tasks`: starting actors, storing every episode, and shutting down;
- `cpu_ms_per_step`, `kib_per_episode`: user and system time of one worker per step, and memory per episode, with 1,000
  episodes in flight and an endpoint of two seconds. HTTP counts; the environment does next to nothing, and its thread
  counts;
- `lost`, `doubled`: in a run of 100,000 trivial episodes, which is broken off by SIGKILL to its driver in the middle;
  `resident_growth` is the memory of driver and actors at the end of another over that with a tenth played;
- `resume_scan_seconds`: finding out what is left, with all of them stored;
- `ratios.vllm_through_serve`: see `rollouts_vllm`; measured with `--vllm`, else null.

`schedules.*.bounds` are what this endpoint allows (`rollouts_parts.bounds`): under faults, places that are always in
use answer 1.09 times as often as one ideal thread for each place, which waits out its own refusals; 1.2 times where
hanging requests are dropped after a second, as the job does; 1.23 times if faults took no time at all. More than that
over `threads` can only come from what its client costs.

Each part runs in a process of its own: it counts in no other's memory, and its failure loses no other's result (its
numbers are null, `failed` says why, and the exit status is 1). A ratio is of one part, so of one run. All parts take
about 40 minutes. At full size a part's result replaces the last one in benchmarks/results/rollouts.json, where
`measured` says of each part when and on what; at other sizes it is a trial, see `bench`.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench import RESULTS, add_options, idle_load, machine, write_result

from agenttuning.machine import cpu_bfloat16

FULL = {"episodes": 16_000, "sequential": 24, "trivial": 100_000, "in_flight": 1_000}
LONGEST_S = 1_200.0
"""A part that takes longer is ended."""
MARK = "RESULT "

Part = Callable[[dict[str, int], Path], dict[str, Any]]


def parts() -> dict[str, Part]:
    """Return the parts by name, in the order in which they run."""
    from rollouts_parts import overhead, schedules
    from rollouts_trivial import killed_once, one_run
    from rollouts_vllm import through_serve

    return {
        "overhead": overhead,
        "without_faults": lambda sizes, scratch: schedules(sizes, False, scratch),
        "with_faults": lambda sizes, scratch: schedules(sizes, True, scratch),
        "one_run": one_run,
        "killed_once": killed_once,
        "vllm": lambda sizes, scratch: through_serve(scratch),
    }


def main() -> None:
    """Run the parts and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, size in FULL.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=size)
    parser.add_argument("--vllm", action="store_true", help="measure vLLM through Ray Serve too (minutes)")
    parser.add_argument("--only", nargs="+", metavar="PART", choices=list(parts()), help="these parts alone")
    parser.add_argument("--part", help=argparse.SUPPRESS)
    add_options(parser)
    options = parser.parse_args()
    sizes = {name: getattr(options, name) for name in FULL}
    if options.part:
        run_here(options.part, sizes)
        return
    load = idle_load(options)
    chosen = options.only or [name for name in parts() if options.vllm or name != "vllm"]
    found: dict[str, Any] = {}
    failed: dict[str, str] = {}
    started = time.monotonic()
    for number, name in enumerate(chosen, 1):
        print(f"[{time.monotonic() - started:5.0f} s] {number}/{len(chosen)} {name}", flush=True)
        try:
            found[name] = run_apart(name, sizes)
            print(f"  {json.dumps(found[name])}", flush=True)
        except RuntimeError as error:
            failed[name] = str(error)
            print(f"  failed: {error}", flush=True)
    here = {**machine("cores", "python"), "bfloat16": cpu_bfloat16(), "load_before": load, "date": today()}
    full = sizes == FULL and not failed
    last = last_parts() if full else {"found": {}, "measured": {}}
    found = last["found"] | found
    measured = last["measured"] | dict.fromkeys(chosen, here)
    report = {**summary(found, sizes), "measured": measured, "parts": found}
    if failed:
        report["failed"] = failed
    write_result(report, "rollouts", options, full=full)
    print(f"[{time.monotonic() - started:5.0f} s] done\n{json.dumps(report, indent=2)}")
    sys.exit(1 if failed else 0)


def today() -> str:
    """Return the date."""
    return f"{datetime.now(UTC):%Y-%m-%d}"


def last_parts() -> dict[str, Any]:
    """Return what the stored result has by part: `found`, and where and when it was `measured`."""
    stored = json.loads((RESULTS / "rollouts.json").read_text())
    return {"found": stored["parts"], "measured": stored["measured"]}


def run_here(name: str, sizes: dict[str, int]) -> None:
    """Run a part in this process, and print its result marked."""
    from rollouts_world import install

    with tempfile.TemporaryDirectory(prefix="rollouts-") as directory:
        scratch = Path(directory)
        for place in (str(install(scratch)), str(Path(__file__).parent)):
            sys.path.insert(0, place)
            os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [place, os.environ.get("PYTHONPATH", "")]))
        print(MARK + json.dumps(parts()[name](sizes, scratch)), flush=True)


def run_apart(name: str, sizes: dict[str, int]) -> dict[str, Any]:
    """Run a part in a process of its own, showing what it prints; return its result.

    Raises:
        RuntimeError: it fails, or takes longer than `LONGEST_S`.
    """
    words = [word for key, size in sizes.items() for word in (f"--{key.replace('_', '-')}", str(size))]
    command = [sys.executable, __file__, "--part", name, *words]
    result: dict[str, Any] | None = None
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        assert process.stdout is not None
        ended = threading.Timer(LONGEST_S, lambda: os.killpg(process.pid, signal.SIGKILL))
        ended.start()
        for line in process.stdout:
            if line.startswith(MARK):
                result = json.loads(line.removeprefix(MARK))
            else:
                print(line, end="", flush=True)
        status = process.wait()
        ended.cancel()
    if result is None or status:
        late = f" (it took longer than {LONGEST_S:.0f} s)" if status < 0 else ""
        raise RuntimeError(f"{name} ended with status {status}{late}; what it said is above")
    return result


def summary(found: dict[str, Any], sizes: dict[str, int]) -> dict[str, Any]:
    """Return the report; null is what was not measured."""

    def value(part: str, key: str, digits: int) -> float | None:
        return round(found[part][key], digits) if part in found else None

    return {
        "ratios": {
            "vs_sequential": value("with_faults", "vs_sequential", 2),
            "vs_best_other": value("with_faults", "vs_best_other", 3),
            "vs_best_better_client": value("with_faults", "vs_best_better_client", 3),
            "vs_best_other_without_faults": value("without_faults", "vs_best_other", 3),
            "of_endpoint_bound": value("without_faults", "of_endpoint_bound", 3),
            "vllm_through_serve": value("vllm", "ratio", 3),
        },
        "cpu_ms_per_step": value("overhead", "cpu_ms_per_step", 3),
        "kib_per_episode": value("overhead", "kib_per_episode", 1),
        "lost": value("killed_once", "lost", 0),
        "doubled": value("killed_once", "doubled", 0),
        "resume_scan_seconds": value("killed_once", "resume_scan_seconds", 2),
        "resident_growth": value("one_run", "growth", 3),
        "sizes": sizes,
    }


if __name__ == "__main__":
    main()
