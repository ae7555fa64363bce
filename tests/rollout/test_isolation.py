import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from toy_environments import Toy, ToyProcess, toy_task

from agenttuning.errors import ConfigurationError, InfrastructureError
from agenttuning.rollout import isolation
from agenttuning.rollout.host import EnvironmentFailed
from agenttuning.rollout.isolation import SeatPool
from agenttuning.rollout.remotes import EnvironmentLost

KINDS = pytest.mark.parametrize("cls", [Toy, ToyProcess])


def run(work, cls, marks, step_s=20.0, pool=None, **settings):
    """Run `work(pool)` on a pool of `cls`."""
    bounds = pool or {}

    async def main():
        pool = SeatPool(cls, {"marks": str(marks), **settings}, None, step_s, **bounds)
        try:
            return await work(pool)
        finally:
            await asyncio.to_thread(pool.close)

    return asyncio.run(main())


def pids(marks: Path, what: str) -> list[int]:
    return [int(p.name.split("-")[1]) for p in sorted(marks.glob(f"{what}-*"))]


@KINDS
def test_an_episode_is_played_through_a_seat(cls, toys):
    async def work(pool):
        seat = pool.take()
        opening = await seat.open(toy_task(5, environment=cls.name), False)
        assert opening.observation == "Reach 5 (task 0). The number is 0."
        assert (opening.version, opening.max_steps, opening.ends_on_malformed) == ("7", 8, False)
        assert (await seat.play("nonsense")).malformed == "Write one line `Act: add(n)` or `Act: finish`."
        played = await seat.play("Think: so\nAct: add(5)")
        assert (played.thought, played.step.observation) == ("so", "The number is 5.")
        assert (await seat.parse("Act: finish")).step is None
        assert (await seat.play("Act: finish")).step.done
        closed = await seat.close()
        assert closed.evidence == {"value": 5, "closed": True, "pair": [1, 2]}
        assert closed.grade.reward == 1.0

    run(work, cls, toys)
    assert len(pids(toys, "shutdown")) == 1


def test_processes_are_reused_apart_from_the_worker_and_ended_with_the_pool(toys):
    async def work(pool):
        first, second = pool.take(), pool.take()
        for seat in (first, second):
            await seat.open(toy_task(), False)
        pool.give_back(first)
        again = pool.take()
        assert again is first
        await again.open(toy_task(), False)

    run(work, ToyProcess, toys)
    opened = pids(toys, "reset")
    assert len(opened) == 3
    assert len(set(opened)) == 2
    assert os.getpid() not in opened
    assert sorted(set(opened)) == sorted(pids(toys, "shutdown"))
    for pid in set(opened):
        _wait_gone(pid)


def test_a_further_process_costs_milliseconds(toys):
    async def work(pool):
        await pool.take().open(toy_task(), False)
        started = time.monotonic()
        await asyncio.gather(*(pool.take().open(toy_task(), False) for _ in range(8)))
        return time.monotonic() - started

    assert run(work, ToyProcess, toys) < 2.0


@KINDS
def test_a_hang_is_ended_and_others_go_on(cls, toys):
    async def work(pool):
        stuck, other = pool.take(), pool.take()
        await asyncio.gather(stuck.open(toy_task(), False), other.open(toy_task(), False))
        started = time.monotonic()
        with pytest.raises(EnvironmentLost, match="play took longer than 1 s"):
            await stuck.play("Act: hang")
        assert time.monotonic() - started < 4
        with pytest.raises(EnvironmentLost, match="was lost before"):
            await stuck.play("Act: finish")
        assert (await other.play("Act: add(2)")).step.observation == "The number is 2."
        pool.give_back(stuck)
        pool.give_back(other)
        assert pool.take() is other
        assert pool.take() is not stuck

    run(work, cls, toys, step_s=1.0)


def test_a_hang_at_reset_has_its_own_limit(toys, monkeypatch):
    monkeypatch.setattr(isolation, "SETUP_SECONDS", 1.5)

    async def work(pool):
        with pytest.raises(EnvironmentLost, match=r"open took longer than 1.5 s"):
            await pool.take().open(toy_task(reset="hang"), False)

    run(work, Toy, toys, step_s=0.5)


def test_a_crash_takes_down_nothing_else(toys):
    async def work(pool):
        doomed, other = pool.take(), pool.take()
        await asyncio.gather(doomed.open(toy_task(), False), other.open(toy_task(), False))
        with pytest.raises(EnvironmentLost, match="its process died during play"):
            await doomed.play("Act: die")
        assert (await other.play("Act: add(2)")).step is not None
        assert (await pool.take().open(toy_task(), False)).version == "7"

    run(work, ToyProcess, toys)


@KINDS
def test_errors_keep_their_kind(cls, toys):
    async def work(pool):
        seat = pool.take()
        await seat.open(toy_task(), False)
        with pytest.raises(EnvironmentFailed, match=r"play: KeyError: 'abacus' \(at toy_environments.py:\d+"):
            await seat.play("Act: raise")
        with pytest.raises(InfrastructureError, match="the world is broken") as caught:
            await seat.play("Act: world")
        assert not isinstance(caught.value, EnvironmentLost)

    run(work, cls, toys)


@KINDS
def test_an_environment_that_cannot_be_built_says_why(cls, toys):
    async def work(pool):
        with pytest.raises(ConfigurationError, match="the abacus is missing"):
            await pool.take().open(toy_task(), False)

    run(work, cls, toys, broken=True)


def test_an_environment_that_does_not_import_says_why(toys, monkeypatch):
    monkeypatch.setattr(ToyProcess, "__module__", "no_such_module")

    async def work(pool):
        with pytest.raises(ConfigurationError, match=r"does not import.*no_such_module"):
            await pool.take().open(toy_task(), False)

    run(work, ToyProcess, toys)


def test_a_machine_without_room_for_another_process_is_a_failure_of_the_world(toys, monkeypatch):
    def full(*arguments, **settings):
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(subprocess, "Popen", full)

    async def work(pool):
        with pytest.raises(EnvironmentLost, match=r"no process can be forked for it \(.*temporarily unavailable"):
            await pool.take().open(toy_task(), False)

    run(work, ToyProcess, toys)


def test_an_instance_is_replaced_after_so_many_episodes(toys):
    async def work(pool):
        for number in range(6):
            seat = pool.take()
            await seat.open(toy_task(number=number), False)
            await seat.close()
            pool.give_back(seat)

    run(work, ToyProcess, toys, pool={"recycle_episodes": 2})
    assert len(set(pids(toys, "reset"))) == 3
    assert sorted(pids(toys, "shutdown")) == sorted(set(pids(toys, "reset")))


def test_a_leak_is_ended_between_episodes_and_harms_no_neighbour(toys, monkeypatch):
    monkeypatch.setattr(isolation, "MEMORY_SECONDS", 0.1)

    async def work(pool):
        for number in range(8):
            seat = pool.take()
            await seat.open(toy_task(number=number), False)
            await asyncio.sleep(0.3)
            assert (await seat.play("Act: add(2)")).step.observation == "The number is 2."
            await seat.close()
            pool.give_back(seat)

    run(work, ToyProcess, toys, pool={"memory_mib": 150}, leak_mib=60)
    assert 2 <= len(set(pids(toys, "reset"))) <= 5


def test_a_sudden_leak_is_killed_with_its_reason(toys, monkeypatch):
    monkeypatch.setattr(isolation, "MEMORY_SECONDS", 0.1)

    async def work(pool):
        greedy, other = pool.take(), pool.take()
        await asyncio.gather(greedy.open(toy_task(), False), other.open(toy_task(), False))
        with pytest.raises(EnvironmentLost, match=r"held \d+ MiB, more than twice rollout.environment_memory_mib=100"):
            await greedy.play("Act: leak(300)")
        assert (await other.play("Act: add(2)")).step.observation == "The number is 2."

    run(work, ToyProcess, toys, pool={"memory_mib": 100})


def test_children_die_with_a_killed_worker(toys):
    script = f"""
import asyncio, os, sys, time
sys.path[:0] = {sys.path!r}
from toy_environments import ToyProcess, toy_task
from agenttuning.rollout.isolation import SeatPool
async def main():
    pool = SeatPool(ToyProcess, {{"marks": {str(toys)!r}}}, None, 60.0)
    seats = [pool.take() for _ in range(2)]
    await asyncio.gather(*(s.open(toy_task(), False) for s in seats))
    print("ready", flush=True)
    await seats[0].play("Act: hang")
asyncio.run(main())
"""
    worker = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert worker.stdout.readline() == "ready\n"
    worker.send_signal(signal.SIGKILL)
    worker.wait()
    for pid in pids(toys, "reset"):
        _wait_gone(pid, seconds=isolation.SHUTDOWN_SECONDS + 5)


def _wait_gone(pid: int, seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while Path(f"/proc/{pid}").exists():
        assert time.monotonic() < deadline, f"process {pid} still lives"
        time.sleep(0.05)
