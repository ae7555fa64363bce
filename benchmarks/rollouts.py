"""Rollouts against other ways of playing episodes, and what they cost in CPU, memory and time.

    python benchmarks/rollouts.py [--episodes N] [--sequential N] [--trivial N] [--in-flight N] [--vllm] [--output FILE]

All parts play the environment of `rollouts_world` against its endpoint on loopback, which is a process of its own.

- `ratios.vs_sequential`: episodes per second of one job against one episode after another, under faults;
- `ratios.vs_best_other`: against the better of `threads` and `lock_step` (see `rollouts_peers`) under faults, and
  `vs_best_other_without_faults`. The client, 64 episodes at once, and the time-out of 5 s are the same for all;
- `ratios.of_endpoint_bound`: answers per second of the job without faults, against capacity / latency of the endpoint.
  The job's seconds are all of `play_tasks`: starting actors, storing every episode, and shutting down;
- `cpu_ms_per_step`, `kib_per_episode`: user and system time of one worker per step, and memory per episode, with 1,000
  episodes in flight and an endpoint of two seconds. HTTP counts; the environment does next to nothing, and its thread
  counts;
- `lost`, `doubled`: in the run of 100,000 trivial episodes, which is broken off by SIGKILL to its driver in the middle;
  `resident_growth` is the memory of driver and actors with all of them stored over that with a tenth;
- `resume_scan_seconds`: finding out what is left, with all of them stored;
- `ratios.vllm_through_serve`: see `rollouts_vllm`; measured with `--vllm`, else null.

Full sizes write benchmarks/results/rollouts.json; others print only, unless `--output` names a file.
"""

import argparse
import asyncio
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import urlopen

HERE = Path(__file__).parent
RESULT = HERE / "results" / "rollouts.json"
CAPACITY, LATENCY, JITTER = 64, 0.2, 0.25
SLOW_S = 2.0
FULL = {"episodes": 6_000, "sequential": 24, "trivial": 100_000, "in_flight": 1_000}


@contextmanager
def endpoint(latency: float, faults: bool, capacity: int = CAPACITY) -> Iterator[str]:
    """Serve the world's endpoint; yields its URL."""
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [str(port), str(latency), str(JITTER), str(capacity), str(int(faults))]
    server = subprocess.Popen([sys.executable, str(HERE / "rollouts_world.py"), *words])
    try:
        url = f"http://127.0.0.1:{port}/v1"
        deadline = time.monotonic() + 30
        while True:
            try:
                urlopen(f"{url}/models").close()
                break
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)
        yield url
    finally:
        server.terminate()
        server.wait()


def spec_for(url: str, concurrency: int = CAPACITY) -> Any:
    """Return the policy of all ways: the same time-out, patience and concurrency."""
    from agenttuning.recipe import PolicySpec

    return PolicySpec(
        kind="endpoint", base_url=url, model="count", request_timeout_s=5.0, patience_s=300.0, concurrency=concurrency
    )


def recipe_for(in_flight: int, **rollout: Any) -> Any:
    """Return a recipe of one actor."""
    from agenttuning.recipe import EnvironmentSpec, Recipe, Rollout

    # The endpoint always says the same, which would end an episode as repetition.
    settings = {"actors": (1, 1), "actor_cpus": 0.5, "episodes_in_flight": in_flight, "max_repeats": 1_000, **rollout}
    return Recipe(environments={"count": EnvironmentSpec()}, rollout=Rollout(**settings))


def start_ray() -> None:
    """Start a Ray of its own, with the environment on every process's path."""
    import ray

    quiet = {"include_dashboard": False, "log_to_driver": False, "logging_level": "ERROR"}
    ray.init(address="local", num_cpus=2, object_store_memory=300 * 2**20, **quiet)


def schedules(sizes: dict[str, int], faults: bool, scratch: Path) -> dict[str, Any]:
    """Play the same tasks in each way; those whose rate does not depend on their number play fewer, for time's sake."""
    from rollouts_peers import timed
    from rollouts_world import STEPS, task

    from agenttuning.rollout.job import play_tasks
    from agenttuning.storage import Store

    found: dict[str, Any] = {}
    tasks = [task(number) for number in range(sizes["episodes"])]
    for way in ("sequential", "threads", "lock_step", "job"):
        fewer = {"sequential": sizes["sequential"], "lock_step": CAPACITY * max(1, len(tasks) // (8 * CAPACITY))}
        mine = tasks[: fewer.get(way)]
        with endpoint(LATENCY, faults) as url:
            if way == "job":
                # More episodes than slots, so that a slot is never idle while an environment works.
                recipe = recipe_for(CAPACITY + CAPACITY // 2)
                started = time.monotonic()
                summary = play_tasks(mine, recipe, spec_for(url), Store(str(scratch / f"job-{faults}")))
                if summary.outcomes != {"count": {"completed": len(mine)}}:
                    raise SystemExit(f"not all episodes were played to their end: {summary.outcomes}")
                result = {"episodes": summary.played, "seconds": time.monotonic() - started, "retried": summary.retried}
            else:
                result = timed(way, mine, spec_for(url, 1 if way == "sequential" else CAPACITY), CAPACITY)
            served = json.load(urlopen(f"{url}/served"))
        result["episodes_per_second"] = result["episodes"] / result["seconds"]
        found[way] = {**result, "answers": served["served"], "most_in_flight": served["most"]}
        print(f"{'with' if faults else 'without'} faults, {way}: {result['episodes_per_second']:.2f} episodes/s")
    rate = found["job"]["episodes_per_second"]
    best = max(found[way]["episodes_per_second"] for way in ("threads", "lock_step"))
    found["vs_sequential"] = rate / found["sequential"]["episodes_per_second"]
    found["vs_best_other"] = rate / best
    found["of_endpoint_bound"] = rate * STEPS / (CAPACITY / LATENCY)
    return found


def overhead(in_flight: int, scratch: Path) -> dict[str, float]:
    """Return CPU per step and memory per episode of one worker with many episodes in flight."""
    import psutil
    from rollouts_world import task

    from agenttuning.rollout.worker import EpisodeWorker, RolloutPlan
    from agenttuning.storage import Store

    steps = 12
    process = psutil.Process()

    def cpu() -> float:
        times = process.cpu_times()
        return times.user + times.system

    async def play(url: str) -> dict[str, float]:
        plan = RolloutPlan(recipe_for(in_flight), spec_for(url, in_flight), Store(str(scratch / "overhead")))
        worker = EpisodeWorker(plan)
        await worker.play(task(-1, 1), 0)
        before = process.memory_info().rss
        waiting = [asyncio.create_task(worker.play(task(n, steps), 0)) for n in range(in_flight)]
        await asyncio.sleep(3 * SLOW_S)
        most, begun, began = before, cpu(), asked(url)
        until = time.monotonic() + 6 * SLOW_S
        while time.monotonic() < until:
            await asyncio.sleep(0.5)
            most = max(most, process.memory_info().rss)
        answered, spent = asked(url) - began, cpu() - begun
        await asyncio.gather(*waiting)
        await worker.aclose()
        return {"cpu_ms_per_step": 1000 * spent / answered, "kib_per_episode": (most - before) / 1024 / in_flight}

    with endpoint(SLOW_S, faults=False, capacity=in_flight) as url:
        return asyncio.run(play(url))


def asked(url: str) -> int:
    """Return how many answers the endpoint has given."""
    served: int = json.load(urlopen(f"{url}/served"))["served"]
    return served


def trivial_driver(count: int, uri: str) -> None:
    """Play `count` episodes of one step; prints what is done and the memory of driver and actors as it goes."""
    import psutil
    from rollouts_world import task

    from agenttuning.recipe import PolicySpec
    from agenttuning.rollout.job import play_tasks
    from agenttuning.storage import Store

    start_ray()
    tasks = [task(number, 1) for number in range(count)]

    def told(done: int, total: int, _: Any) -> None:
        me = psutil.Process()
        actors = [p for p in me.children(recursive=True) if "MapWorker" in p.name() or "MapWorker" in _title(p)]
        resident = me.memory_info().rss + sum(p.memory_info().rss for p in actors)
        print(json.dumps({"done": done, "resident": resident}), flush=True)

    play_tasks(tasks, recipe_for(256, recycle_episodes=None), PolicySpec(), Store(uri), on_progress=told)


def _title(process: Any) -> str:
    import psutil

    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def trivial(count: int, scratch: Path) -> dict[str, Any]:
    """Play many trivial episodes, killed once in the middle; return what is lost and doubled, memory, and the scan."""
    import pyarrow.compute as pc
    from rollouts_world import task

    from agenttuning.recipe import PolicySpec
    from agenttuning.rollout.worker import RolloutPlan
    from agenttuning.storage import Store
    from agenttuning.storage.index import read_index
    from agenttuning.storage.segments import read_trajectories

    uri, seen = str(scratch / "trivial"), []
    command = [sys.executable, __file__, "--driver", str(count), uri]
    started = time.monotonic()
    for kill_at in (count // 2, None):
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as driver:
            assert driver.stdout is not None
            for line in driver.stdout:
                if not line.startswith("{"):
                    continue
                told = json.loads(line)
                if kill_at is None:
                    seen.append((told["done"], told["resident"]))
                elif told["done"] >= kill_at:
                    driver.kill()
            status = driver.wait()
        if kill_at is None and status:
            raise SystemExit(f"the driver of the trivial episodes ended with status {status}")
    seconds = time.monotonic() - started
    store = Store(uri)
    scan = time.monotonic()
    indexed = read_index(store)
    scanned = time.monotonic() - scan
    wanted = {RolloutPlan(None, PolicySpec(), store).id_of(task(n, 1), 0) for n in range(count)}  # type: ignore[arg-type]
    stored = Counter(t.id for t in read_trajectories(store))
    indexed_ids = set(indexed.column("id").to_pylist())
    return {
        "episodes": count,
        "seconds": seconds,
        "lost": len(wanted - stored.keys()) + len(wanted - indexed_ids),
        "doubled": sum(stored.values()) - len(stored) + indexed.num_rows - len(indexed_ids),
        "successes": int(pc.sum(indexed.column("reward")).as_py()),
        "resume_scan_seconds": scanned,
        "resident": seen,
    }


def grown(count: int, scratch: Path) -> dict[str, Any]:
    """Play many trivial episodes in one run; return its memory at the end over that at a tenth."""
    uri = str(scratch / "grown")
    command = [sys.executable, __file__, "--driver", str(count), uri]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as driver:
        assert driver.stdout is not None
        told = [json.loads(line) for line in driver.stdout if line.startswith("{")]
        if driver.wait():
            raise SystemExit(f"the driver of the trivial episodes ended with status {driver.returncode}")
    first = next(t["resident"] for t in told if t["done"] >= count // 10)
    last = max(t["resident"] for t in told if t["done"] >= count * 9 // 10)
    return {"resident_at_tenth": first, "resident_at_end": last, "growth": last / first}


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, size in FULL.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=size)
    parser.add_argument("--vllm", action="store_true", help="measure vLLM through Ray Serve too (minutes)")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--driver", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    from rollouts_world import install

    with tempfile.TemporaryDirectory(prefix="rollouts-") as directory:
        scratch = Path(directory)
        for place in (str(install(scratch)), str(HERE)):
            sys.path.insert(0, place)
            os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [place, os.environ.get("PYTHONPATH", "")]))
        if arguments.driver:
            trivial_driver(int(arguments.driver[0]), arguments.driver[1])
            return
        sizes = {name: getattr(arguments, name) for name in FULL}
        report = measure(sizes, scratch, arguments.vllm)
    text = json.dumps(report, indent=2) + "\n"
    target = arguments.output or (RESULT if sizes == FULL else None)
    if target is not None:
        target.parent.mkdir(exist_ok=True)
        target.write_text(text)
    print(text)


def measure(sizes: dict[str, int], scratch: Path, with_vllm: bool) -> dict[str, Any]:
    """Run all parts and return the report."""
    import ray

    cost = overhead(sizes["in_flight"], scratch)
    start_ray()
    clean, faulty = schedules(sizes, False, scratch), schedules(sizes, True, scratch)
    ray.shutdown()
    memory = grown(sizes["trivial"], scratch)
    killed = trivial(sizes["trivial"], scratch)
    killed.pop("resident")
    through_serve = None
    if with_vllm:
        from rollouts_vllm import through_serve as measured

        through_serve = measured(scratch)
    return {
        "ratios": {
            "vs_sequential": round(faulty["vs_sequential"], 2),
            "vs_best_other": round(faulty["vs_best_other"], 3),
            "vs_best_other_without_faults": round(clean["vs_best_other"], 3),
            "of_endpoint_bound": round(clean["of_endpoint_bound"], 3),
            "vllm_through_serve": through_serve and round(through_serve["ratio"], 3),
        },
        "cpu_ms_per_step": round(cost["cpu_ms_per_step"], 3),
        "kib_per_episode": round(cost["kib_per_episode"], 1),
        "lost": killed["lost"],
        "doubled": killed["doubled"],
        "resume_scan_seconds": round(killed["resume_scan_seconds"], 2),
        "resident_growth": round(memory["growth"], 3),
        "sizes": sizes,
        "schedules": {"without_faults": clean, "with_faults": faulty},
        "trivial": {"killed_once": killed, "one_run": memory},
        "vllm": through_serve,
        "machine": {"cores": os.cpu_count(), "python": platform.python_version(), "load_before": os.getloadavg()[0]},
    }


if __name__ == "__main__":
    main()
