"""Speed and memory of every registered environment, as it is by default, on one core.

    python benchmarks/environments.py

Each environment runs in a process of its own, which is bound to one core together with all that it starts (a sandbox, a
browser, a server). Its expert plays 200 train tasks. Measured are

- `start_s`: from nothing (an interpreter that has imported the contract alone) to the first observation;
- `steps_per_second`, `episodes_per_second`: by the time spent in `reset`, `step` and `close` alone;
- `with_expert_episodes_per_second`: by all time, that of the expert, of formatting and of parsing included;
- `memory_mb`: proportional set size of the process and its children after the episodes, `instance_mb`: what a second
  instance adds beside it after as many as ten episodes.

Writes benchmarks/results/environments.json; `--count` or `--only` make it a trial, see `bench`.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from typing import Any

from bench import add_options, idle_load, machine, write_result

COUNT = 200
SECOND_INSTANCE = 10
SEED = 0


def measure(name: str, count: int) -> dict[str, Any]:
    """Play `count` train tasks of one environment in this process, on one core; return the numbers."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    from agenttuning.environments import base
    from agenttuning.environments.checking.play import play, replay
    from agenttuning.rollout.memory import tree_memory

    def memory() -> float:
        return tree_memory([os.getpid()])[os.getpid()] / 2**20

    started = time.perf_counter()
    base.environment_class(name).preload()
    with base.make_environment(name) as environment:
        environment.reset(next(iter(environment.tasks("train", 1, SEED))))
        ready = time.perf_counter()
        tasks = list(environment.tasks("train", count, SEED))
        begun = time.perf_counter()
        played = [play(environment, task, SEED + number) for number, task in enumerate(tasks)]
        ended = time.perf_counter()
        alone = memory()
        with base.make_environment(name) as second:
            for task, episode in list(zip(tasks, played, strict=True))[:SECOND_INSTANCE]:
                replay(second, task, episode.actions)
            both = memory()
    seconds, steps = sum(p.seconds for p in played), sum(len(p.moves) for p in played)
    return {
        "tasks": len(tasks),
        "steps": steps,
        "mean_reward": round(sum(p.grade.reward for p in played) / len(played), 4),
        "start_s": round(ready - started, 3),
        "steps_per_second": round(steps / seconds, 1),
        "episodes_per_second": round(len(played) / seconds, 2),
        "with_expert_episodes_per_second": round(len(played) / (ended - begun), 2),
        "memory_mb": round(alone, 1),
        "instance_mb": round(max(both - alone, 0.0), 1),
    }


def apart(name: str, count: int) -> dict[str, Any]:
    """Measure an environment in a process of its own."""
    command = [sys.executable, __file__, "--one", name, "--count", str(count)]
    done = subprocess.run(
        command, stdout=subprocess.PIPE, text=True, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    if done.returncode != 0:
        sys.exit(
            f"{name}: the benchmark failed with exit status {done.returncode}; `agenttuning environment check {name}`"
        )
    result: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return result


def main() -> None:
    from agenttuning.environments.base import registered

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=COUNT, help="train tasks to play")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these environments alone")
    add_options(parser)
    parser.add_argument("--one", metavar="NAME", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options.one, options.count)))
        return
    load = idle_load(options)
    results = {}
    for name in options.only or registered():
        results[name] = apart(name, options.count)
        print(name, json.dumps(results[name]), flush=True)
    report = {"machine": {**machine("processor", "python"), "load": load}, **results}
    write_result(report, "environments", options, full=not options.only and options.count == COUNT)


if __name__ == "__main__":
    main()
