"""Two parts of the rollout benchmark: how fast episodes are played in each way, and what one worker costs."""

import asyncio
import time
from pathlib import Path
from typing import Any

from rollouts_world import (
    BROKEN,
    CAPACITY,
    HANGING,
    LATENCY,
    REFUSED,
    RETRY_AFTER_S,
    STEP_S,
    STEPS,
    TIMEOUT_S,
    endpoint,
    recipe_for,
    served,
    spec_for,
    start_ray,
    task,
)

from agenttuning.policies.slowness import LEAST_S

TOOLS = ("agentbench", "fireact")
"""With the waits of the tools themselves; without faults they are `threads` and `lock_step`."""
BETTER = ("threads", "threads_openai", "lock_step")
"""The same ways with better clients."""
SHARES = {"agentbench": 4, "threads": 4, "threads_openai": 8, "lock_step": 16, "fireact": 125}
"""These play a part of the episodes, for time's sake: their rate hardly depends on how many there are. Without faults,
where it is close, `threads` plays them all."""
SPARE = 2 * CAPACITY
"""Episodes in flight beyond the endpoint's places: while one waits or is stored, another is in its place."""
SLOW_S = 2.0
"""Latency of the endpoint for `overhead`."""
OVERHEAD_STEPS = 12


def schedules(sizes: dict[str, int], faults: bool, scratch: Path) -> dict[str, Any]:
    """Play the same tasks in each way; return rates, ratios and bounds."""
    from rollouts_peers import timed

    found: dict[str, Any] = {}
    tasks = [task(number, step_s=STEP_S) for number in range(sizes["episodes"])]
    tools = TOOLS if faults else ()
    for way in ("sequential", *tools, *BETTER, "job"):
        share = 1 if way == "threads" and not faults else SHARES.get(way, 1)
        count = sizes["sequential"] if way == "sequential" else len(tasks) // share
        whole_batches = max(CAPACITY, count - count % CAPACITY) if way in ("lock_step", "fireact") else count
        mine = tasks[:whole_batches]
        with endpoint(LATENCY, faults) as url:
            result = play(mine, url, scratch) if way == "job" else timed(way, mine, url, CAPACITY, TIMEOUT_S)
            told = served(url)
        found[way] = {
            **result,
            "episodes_per_second": result["episodes"] / result["seconds"],
            "answers": told["served"],
            "most_in_flight": told["most"],
            "answers_per_second_in_the_middle": told["per_second"],
        }
        rate = found[way]["episodes_per_second"]
        said = f"{result['episodes']} episodes in {result['seconds']:.0f} s, {rate:.2f} per second"
        print(f"  {way}: {said}; in the middle {told['per_second']:.0f} answers per second", flush=True)
    rate = found["job"]["episodes_per_second"]
    found["vs_sequential"] = rate / found["sequential"]["episodes_per_second"]
    found["vs_best_other"] = rate / max(found[way]["episodes_per_second"] for way in tools or BETTER)
    found["vs_best_better_client"] = rate / max(found[way]["episodes_per_second"] for way in BETTER)
    found["of_endpoint_bound"] = rate * STEPS / (CAPACITY / LATENCY)
    found["bounds"] = bounds(faults)
    return found


def play(tasks: list[Any], url: str, scratch: Path) -> dict[str, Any]:
    """Play the tasks as one job, from its call to its return."""
    from agenttuning.rollout.job import play_tasks
    from agenttuning.storage import Store

    start_ray()
    started = time.monotonic()
    summary = play_tasks(tasks, recipe_for(CAPACITY + SPARE), spec_for(url), Store(str(scratch / "job")))
    seconds = time.monotonic() - started
    if summary.outcomes != {"count": {"completed": len(tasks)}}:
        raise SystemExit(f"not all episodes were played to their end: {summary.outcomes}")
    return {"episodes": summary.played, "seconds": seconds, "retried": summary.retried}


def bounds(faults: bool) -> dict[str, float]:
    """Return what is possible in answers per second, with clients that cost nothing and no beginning or end.

    `free_faults` is an endpoint whose faults take no time at all; `full_places` is every place always in use,
    and `full_places_dropping` the same where a hanging request is dropped as soon as `slowness` may; `threads`
    is one thread for each place, that waits out its own refusals and time-outs.
    """
    refused, broken, hanging = (REFUSED, BROKEN, HANGING) if faults else (0.0, 0.0, 0.0)
    good = 1 - refused - broken - hanging
    in_place = good * LATENCY + hanging * TIMEOUT_S
    dropping = good * LATENCY + hanging * LEAST_S
    waits = refused * RETRY_AFTER_S
    return {
        "free_faults": CAPACITY / LATENCY,
        "full_places": CAPACITY * good / in_place,
        "full_places_dropping": CAPACITY * good / dropping,
        "threads": CAPACITY * good / (in_place + waits),
    }


def overhead(sizes: dict[str, int], scratch: Path) -> dict[str, float]:
    """Return CPU per step and memory per episode of one worker with many episodes in flight."""
    import psutil

    from agenttuning.rollout.worker import EpisodeWorker, RolloutPlan
    from agenttuning.storage import Store

    process, in_flight = psutil.Process(), sizes["in_flight"]

    def cpu() -> float:
        times = process.cpu_times()
        return float(times.user + times.system)

    async def measure(url: str) -> dict[str, float]:
        plan = RolloutPlan(recipe_for(in_flight), spec_for(url, in_flight), Store(str(scratch / "overhead")))
        worker = EpisodeWorker(plan)
        await worker.play(task(-1, 1), 0)
        before = process.memory_info().rss
        waiting = [asyncio.create_task(worker.play(task(n, OVERHEAD_STEPS), 0)) for n in range(in_flight)]
        await asyncio.sleep(3 * SLOW_S)
        most, begun, began = before, cpu(), served(url)["served"]
        until = time.monotonic() + 6 * SLOW_S
        while time.monotonic() < until:
            await asyncio.sleep(0.5)
            most = max(most, process.memory_info().rss)
        answered, spent = served(url)["served"] - began, cpu() - begun
        await asyncio.gather(*waiting)
        await worker.aclose()
        return {"cpu_ms_per_step": 1000 * spent / answered, "kib_per_episode": (most - before) / 1024 / in_flight}

    with endpoint(SLOW_S, faults=False, capacity=in_flight) as url:
        return asyncio.run(measure(url))
