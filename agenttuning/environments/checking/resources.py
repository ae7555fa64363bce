"""Checks of what an environment takes: what it leaves behind, its speed and its memory."""

import gc
import math
import threading
import time
from collections.abc import Callable

import psutil

from agenttuning.environments.base import Environment
from agenttuning.environments.checking.play import Subject, replay
from agenttuning.environments.checking.verdict import Broken
from agenttuning.environments.checking.watch import alive

SLOWEST_STEPS = 1.0
"""Steps a second below which a rollout waits for the environment and not for the model."""
SPARE_MB = 30
GROWTH_MB = 0.5
"""Megabytes that memory may grow by for each episode."""
SETTLING_SECONDS = 2.0


def left_behind(subject: Subject) -> str:
    """Count open files, threads and processes after `shutdown`."""
    process = psutil.Process()

    def children() -> int:
        return len({child.pid for child in process.children(recursive=True)} - subject.children_before)

    def files() -> int:
        gc.collect()
        return process.num_fds()

    def cycle() -> None:
        environment = subject.make()
        for task, played in subject.few[:3]:
            replay(environment, task, played.actions)
        alive()
        environment.reset(subject.sample[0])
        environment.shutdown()
        environment.shutdown()

    cycle()
    before = (files(), threading.active_count())
    cycle()
    found = {
        "open files": _settled(files, before[0]) - before[0],
        "threads": _settled(threading.active_count, before[1]) - before[1],
        "processes": _settled(children, 0),
    }
    if any(count > 0 for count in found.values()):
        told = ", ".join(f"{max(count, 0)} {what}" for what, count in found.items())
        raise Broken(f"after shutdown: {told} more", "free in shutdown() what outlives episodes, in close() the rest")
    return "no file, thread or process after shutdown"


def speed(subject: Subject) -> str:
    """Say how fast the expert's episodes were, without the expert's own time."""
    start = time.perf_counter()
    with subject.make() as environment:
        environment.reset(subject.sample[0])
        ready = time.perf_counter() - start
    seconds = sum(played.seconds for _, played in subject.pairs)
    steps = sum(len(played.moves) for _, played in subject.pairs)
    rate = steps / max(seconds, 1e-9)
    value = f"{rate:,.0f} steps/s, {len(subject.pairs) / max(seconds, 1e-9):,.1f} episodes/s, ready in {ready:.2f} s"
    if steps and rate < SLOWEST_STEPS:
        raise Broken(value, "load once in preload() or __init__, not in reset() or step()")
    return value


def memory(subject: Subject) -> str:
    """Play in one instance, then in a second beside it, then there again, and see what each adds."""

    def played(environment: Environment) -> float:
        for task, episode in subject.few:
            replay(environment, task, episode.actions)
        return _resident()

    with subject.make() as first:
        one = played(first)
        with subject.make() as second:
            two = played(second)
            three = played(second)
    taken, growth = max(two - one, 0), max(three - two, 0) / len(subject.few)
    loaded = max(one - subject.rss_before / 2**20, 0)
    value = f"{loaded:.0f} MB loaded, {taken:.0f} MB for another instance, {growth:.2f} MB for each further episode"
    if growth > GROWTH_MB and three - two > SPARE_MB:
        raise Broken(value, "free an episode's memory in close()")
    if taken > subject.cls.needs.memory_mb + SPARE_MB:
        raise Broken(value, f"state it: needs = Needs(memory_mb={math.ceil(taken / 10) * 10}), or take less")
    return value


def _resident() -> float:
    gc.collect()
    process = psutil.Process()
    return float(sum(p.memory_info().rss for p in (process, *process.children(recursive=True)))) / 2**20


def _settled(measure: Callable[[], int], least: int) -> int:
    """Return a measure once it has come down to `least`, or what it is after some seconds."""
    deadline = time.monotonic() + SETTLING_SECONDS
    while (found := measure()) > least and time.monotonic() < deadline:
        alive()
        time.sleep(0.05)
    return found
