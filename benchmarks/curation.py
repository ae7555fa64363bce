"""Throughput and memory of curation on Ray Data, on two cores.

    python benchmarks/curation.py

Makes 10,000 and 100,000 distinct synthetic trajectories (4 KB and more in the mean, 8 % of them exact or near
duplicates), curates both with every rule, each in a process of its own, and prints trajectories per second and peak
memory. Memory is the proportional set size of the curating process and all
its children (Ray's included), sampled five times a second. Writes benchmarks/results/curation.json; other sizes
(`--sizes 500 2000`) are trials, see `bench`.
"""

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from bench import add_options, idle_load, machine, write_result

SIZES = (10_000, 100_000)
CORES = 2
MOST_SECONDS, MOST_GROWTH = 600.0, 1.2
EXACT, NEAR = 0.04, 0.04
"""Shares of exact and near duplicates."""
PER_SEGMENT = 20
EVALUATION_SAMPLES = 1000


def make(size: int, folder: Path) -> dict[str, Any]:
    """Write `size` trajectories as segments; return what they are."""
    from agenttuning.storage import Store
    from agenttuning.storage.segments import commit_segment

    rng = random.Random(size)
    words = _vocabulary()
    store, lengths, waiting, number = Store(str(folder)), [], [], 0
    recent: list[Any] = []
    for count in range(size):
        kind = rng.random()
        if recent and kind < EXACT:
            t = _again(rng.choice(recent), count)
        elif recent and kind < EXACT + NEAR:
            t = _nearly(rng.choice(recent), count, rng, words)
        else:
            t = _trajectory(count, rng, words)
            recent = [*recent[-199:], t]
        lengths.append(sum(len(turn.content.encode()) for turn in t.turns))
        waiting.append(t)
        if len(waiting) == PER_SEGMENT:
            commit_segment(store, f"w{number % 4}", number, waiting)
            waiting, number = [], number + 1
    if waiting:
        commit_segment(store, "last", number, waiting)
    return {"trajectories": size, "mean_bytes": round(sum(lengths) / size), "duplicates": EXACT + NEAR}


def _vocabulary() -> list[str]:
    rng = random.Random(7)
    parts = [a + b for a in "bcdfglmnprstv" for b in ("a", "e", "i", "o", "u", "ai", "ou")]
    return sorted({"".join(rng.choices(parts, k=rng.choice((2, 2, 3)))) for _ in range(8000)})


def _trajectory(number: int, rng: random.Random, words: list[str]) -> Any:
    from agenttuning.trajectory import Action, Call, Outcome, Task, Trajectory, Turn, trajectory_id

    environment = rng.choice(("os", "db", "alfworld"))
    subject = [rng.choice(words) for _ in range(6)]
    instruction = f"Problem {number}: find the {subject[0]} of {subject[1]} and count its {' '.join(subject[2:])}."
    turns = [
        Turn(role="user", content="You act in an environment. Give one thought and one action in each turn. " * 6),
        Turn(role="assistant", content="Ok.", loss=False),
        Turn(role="user", content=instruction),
    ]
    calls = []
    for step in range(rng.randint(3, 6)):
        named = rng.choice(subject)
        command = f"look {named} {rng.choice(words)} {step}"
        thought = f"To count the {named}, I look into {subject[step % 6]} for step {step} of {subject[0]}."
        calls.append(Call(turn=len(turns)))
        action = Action(name="bash", arguments={"script": command})
        turns.append(
            Turn(
                role="assistant",
                content=f"Think: {thought}\n\nAct: {command}",
                loss=True,
                thought=thought,
                action=action,
            )
        )
        listing = " ".join(rng.choices([*subject, *words], k=rng.randint(90, 150)))
        turns.append(Turn(role="user", content=f"The output:\n{named} {listing} {rng.randint(0, 10**9)}"))
    final = Action(name="answer", arguments={"answer": str(number)})
    calls.append(Call(turn=len(turns)))
    thought = f"The {subject[0]} of {subject[1]} is settled, so I answer."
    turns.append(
        Turn(role="assistant", content=f"Think: {thought}\n\nAct: answer", loss=True, thought=thought, action=final)
    )
    reward = 1.0 if rng.random() < 0.9 else 0.0
    task = Task(environment=environment, split="train", instruction=instruction, family=f"f{number % 5}")
    return Trajectory(
        id=trajectory_id(task, "expert", {}, 0), task=task, attempt=0, turns=tuple(turns), reward=reward, score=reward,
        outcome=Outcome.COMPLETED, policy="expert", calls=tuple(calls), steps=len(calls),
    )  # fmt: skip


def _again(t: Any, number: int) -> Any:
    from agenttuning.trajectory import trajectory_id

    return t.model_copy(update={"id": trajectory_id(t.task, "expert", {}, number), "attempt": number})


def _nearly(t: Any, number: int, rng: random.Random, words: list[str]) -> Any:
    place = rng.randrange(4, len(t.turns), 2)
    turn = t.turns[place]
    changed = turn.model_copy(update={"content": f"{turn.content} {rng.choice(words)}"})
    return _again(t.model_copy(update={"turns": (*t.turns[:place], changed, *t.turns[place + 1 :])}), number)


def curate_once(folder: Path) -> dict[str, Any]:
    """Curate one directory with every rule on a Ray of two cores; return seconds and peak memory."""
    import psutil
    import ray

    from agenttuning.curation import run
    from agenttuning.recipe import validate_recipe
    from agenttuning.session import tree_memory
    from agenttuning.storage import Store

    recipe = validate_recipe({})
    recipe = validate_recipe({"curation": {"rules": [*recipe.curation.rules, "near_task"]}})
    rng = random.Random(3)
    words = _vocabulary()
    evaluation = {"made up": [" ".join(rng.choices(words, k=60)) for _ in range(EVALUATION_SAMPLES)]}
    peak, driver, stop = 0, 0, threading.Event()

    def watch() -> None:
        nonlocal peak, driver
        me = psutil.Process()
        while not stop.wait(0.2):
            peak, driver = max(peak, tree_memory()), max(driver, me.memory_info().rss)

    run.RAY_UNITS = 1  # Every size is judged on Ray Data, so that their memory compares.
    ray.init(
        address="local", num_cpus=CORES, include_dashboard=False, object_store_memory=256 << 20, logging_level="ERROR"
    )
    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    started = time.monotonic()
    report = run.curate(Store(str(folder)), Store(str(folder.parent / "curated")), recipe, evaluation=evaluation)
    seconds = time.monotonic() - started
    stop.set()
    watcher.join()
    ray.shutdown()
    return {
        "seconds": round(seconds, 1),
        "per_second": round(report.collected / seconds, 1),
        "peak_memory_mb": round(peak / 2**20, 1),
        "peak_driver_rss_mb": round(driver / 2**20, 1),
        "collected": report.collected,
        "kept": report.kept,
        "dropped": {rule: n for rule, n in report.total.dropped.items() if n},
    }


def _apart(what: str, size: int, folder: Path) -> dict[str, Any]:
    """Run one half in a process of its own, so that neither counts in the other's memory."""
    command = [sys.executable, __file__, "--half", what, "--sizes", str(size), "--folder", str(folder)]
    # Work is bound to the cores by Ray's count; the numbers of other libraries' threads must not add to it.
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "RAY_BACKEND_LOG_LEVEL": "fatal"}
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    result: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES))
    add_options(parser)
    parser.add_argument("--folder", type=Path, help="where the data go; unset: a temporary directory")
    parser.add_argument("--half", choices=("make", "curate"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.half:
        size = options.sizes[0]
        told = make(size, options.folder) if options.half == "make" else curate_once(options.folder)
        print(json.dumps(told))
        return
    load = idle_load(options)
    results = []
    root = options.folder or Path(tempfile.mkdtemp(prefix="curation-benchmark-"))
    try:
        for size in options.sizes:
            folder = root / str(size) / "trajectories"
            made = _apart("make", size, folder)
            print(f"{size:,} trajectories of {made['mean_bytes']:,} bytes made", flush=True)
            result = {**made, **_apart("curate", size, folder)}
            shutil.rmtree(folder.parent)
            results.append(result)
            print(
                f"{size:,}: {result['seconds']} s, {result['per_second']} trajectories/s, "
                f"peak {result['peak_memory_mb']} MB (driver {result['peak_driver_rss_mb']} MB), "
                f"kept {result['kept']:,}, dropped {result['dropped']}",
                flush=True,
            )
    finally:
        if options.folder is None:
            shutil.rmtree(root, ignore_errors=True)
    growth = results[-1]["peak_memory_mb"] / results[0]["peak_memory_mb"]
    ok = results[-1]["seconds"] <= MOST_SECONDS and growth <= MOST_GROWTH
    print(f"memory at {options.sizes[-1]:,} is {growth:.2f} times that at {options.sizes[0]:,}; bounds hold: {ok}")
    facts = {"cores": CORES, **machine("processor"), "load": load}
    report = {"machine": facts, "results": results, "growth": round(growth, 3)}
    write_result(report, "curation", options, full=tuple(options.sizes) == SIZES)
    if not ok:
        sys.exit(1)


if __name__ == "__main__":
    main()
