"""Two parts of the rollout benchmark: 100,000 trivial episodes in one run, and the same with a kill in the middle.

    python benchmarks/rollouts_trivial.py COUNT URI

is the driver, a program of its own: it plays COUNT episodes of one step, and tells what is done, and the memory of
driver and actors, about once a second.
"""

import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rollouts_world import recipe_for, start_ray, task

IN_FLIGHT = 256
TELL_S = 15.0
"""Time between two lines of progress."""


def drive(count: int, uri: str) -> None:
    """Play the episodes."""
    import psutil

    from agenttuning.recipe import PolicySpec
    from agenttuning.rollout.job import play_tasks
    from agenttuning.storage import Store

    start_ray()
    tasks = [task(number, 1) for number in range(count)]

    def told(done: int, total: int, _: Any) -> None:
        me = psutil.Process()
        resident = me.memory_info().rss + sum(p.memory_info().rss for p in me.children(True) if _is_actor(p))
        print(json.dumps({"done": done, "resident": resident}), flush=True)

    play_tasks(tasks, recipe_for(IN_FLIGHT, recycle_episodes=None), PolicySpec(), Store(uri), on_progress=told)


def _is_actor(process: Any) -> bool:
    import psutil

    try:
        return "MapWorker" in " ".join(process.cmdline())
    except psutil.Error:
        return False


@contextmanager
def driver(count: int, uri: str) -> Iterator[tuple[subprocess.Popen[str], Iterator[dict[str, int]]]]:
    """Run the driver; yields it and what it tells. One that ends badly, and was not killed, is an error."""
    command = [sys.executable, __file__, str(count), uri]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:

        def lines() -> Iterator[dict[str, int]]:
            assert process.stdout is not None
            started = shown = time.monotonic()
            for line in process.stdout:
                if line.startswith("{"):
                    told = json.loads(line)
                    if time.monotonic() - shown > TELL_S:
                        shown = time.monotonic()
                        print(f"  {told['done']:,} of {count:,} in {shown - started:.0f} s", flush=True)
                    yield told

        yield process, lines()
        status = process.wait()
    if status > 0:
        raise SystemExit(f"the driver of the trivial episodes ended with status {status}")


def one_run(sizes: dict[str, int], scratch: Path) -> dict[str, Any]:
    """Play all in one run; return its memory at the end over that at a tenth."""
    count, started = sizes["trivial"], time.monotonic()
    with driver(count, str(scratch / "one")) as (_, lines):
        told = list(lines)
    first = next(t["resident"] for t in told if t["done"] >= count // 10)
    last = max(t["resident"] for t in told if t["done"] >= count * 9 // 10)
    seconds = time.monotonic() - started
    return {"seconds": seconds, "resident_at_tenth": first, "resident_at_end": last, "growth": last / first}


def killed_once(sizes: dict[str, int], scratch: Path) -> dict[str, Any]:
    """Play all with SIGKILL to the driver in the middle; return what is lost and doubled, and the scan."""
    import pyarrow.compute as pc

    from agenttuning.recipe import PolicySpec
    from agenttuning.rollout.worker import RolloutPlan
    from agenttuning.storage import Store
    from agenttuning.storage.index import read_index
    from agenttuning.storage.segments import read_trajectories

    count, uri, started = sizes["trivial"], str(scratch / "killed"), time.monotonic()
    at_kill = 0
    with driver(count, uri) as (process, lines):
        for told in lines:
            if not at_kill and told["done"] >= count // 2:
                at_kill = told["done"]
                process.kill()
    with driver(count, uri) as (_, lines):
        resumed_at = next(lines)["done"]
        for _told in lines:
            pass
    seconds = time.monotonic() - started
    store = Store(uri)
    for name in store.list(prefix="index/", suffix=".parquet")[-2:]:
        store.delete(name)  # What names all of them, and the last half minute: a kill leaves neither.
    scan = time.monotonic()
    plan = RolloutPlan(recipe_for(IN_FLIGHT), PolicySpec(), store)
    wanted = {plan.id_of(task(n, 1), 0) for n in range(count)}
    indexed = read_index(store)
    indexed_ids = set(indexed.column("id").to_pylist())
    left = wanted - indexed_ids
    scanned = time.monotonic() - scan
    stored = Counter(t.id for t in read_trajectories(store))
    return {
        "episodes": count,
        "seconds": seconds,
        "done_at_kill": at_kill,
        "done_at_resume": resumed_at,
        "lost": len(wanted - stored.keys()) + len(left),
        "doubled": sum(stored.values()) - len(stored) + indexed.num_rows - len(indexed_ids),
        "successes": int(pc.sum(indexed.column("reward")).as_py()),
        "resume_scan_seconds": scanned,
    }


if __name__ == "__main__":
    drive(int(sys.argv[1]), sys.argv[2])
