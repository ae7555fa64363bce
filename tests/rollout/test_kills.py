"""Thirty SIGKILLs of actors, drivers and whole nodes, and then every attempt is in the table exactly once."""

import os
import random
import re
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from pyarrow.fs import FileSelector
from ray_nodes import Node, kill, nodes, object_store
from toy_environments import install_toys, toy_task

from agenttuning.recipe import PolicySpec
from agenttuning.rollout.worker import RolloutPlan
from agenttuning.storage import Store
from agenttuning.storage.index import read_index
from agenttuning.storage.segments import read_trajectories

HERE = Path(__file__).parent
TASKS, ATTEMPTS, IN_FLIGHT = 500, 2, 8
KILLS = ["actor"] * 16 + ["driver"] * 5 + ["node"] * 9
PAUSE_S = 0.2
WORK_S = 8.0
"""How long after a kill the next one waits for work at most, so that some fall while all is being started."""
STAMP_S = 2.0
"""How far the store's time stamps, in whole seconds, may be off."""

DRIVER = """
import sys
sys.path[:0] = {path!r}
import ray
from test_kills import *
from agenttuning.recipe import EnvironmentSpec, Recipe, Rollout
from agenttuning.rollout.job import play_tasks
ray.init(address={address!r}, log_to_driver=False, logging_level="ERROR")
settings = {{"marks": {marks!r}, "pause_s": {pause_s!r}}}
recipe = Recipe(
    environments={{"toy": EnvironmentSpec(settings=settings)}},
    rollout=Rollout(actors=(2, 2), actor_cpus=1, episodes_in_flight=IN_FLIGHT, attempts=ATTEMPTS, commit_seconds=0.4),
)
store = Store({uri!r}).child("run", "trajectories")
told = lambda done, total, tallies: print(done, total, flush=True)
print("summary", play_tasks(tasks({count!r}), recipe, PolicySpec(), store, on_progress=told))
"""


def tasks(count=TASKS):
    return [toy_task(3 + i % 5, i) for i in range(count)]


class Drivers:
    """One driver after another on the same run directory."""

    def __init__(self, cluster, root, log, marks, count=TASKS):
        self._cluster = cluster
        self._script = {
            "path": [*sys.path, str(HERE)], "address": cluster.address, "uri": root, "marks": str(marks),
            "count": count,
        }  # fmt: skip
        self._log = log
        self.running = None
        self.exits = []

    def start(self, pause_s):
        if self.running is not None and self.running.poll() is not None:
            self.exits.append(self.running.returncode)
        script = DRIVER.format(**self._script, pause_s=pause_s)
        self.running = subprocess.Popen(
            [sys.executable, "-c", script], env=self._cluster.environment, stdout=self._log, stderr=self._log
        )

    def kill(self):
        self.running.kill()
        self.running.wait()


@pytest.mark.ray
@pytest.mark.timeout(400)
def test_nothing_is_lost_and_nothing_doubled_by_thirty_kills(tmp_path, monkeypatch):
    seed = int(os.environ.get("KILLS_SEED", "20261123"))
    rng = random.Random(seed)
    site = install_toys(tmp_path)
    monkeypatch.syspath_prepend(str(site))
    marks, log_path = tmp_path / "marks", tmp_path / "drivers.log"
    marks.mkdir()
    with object_store() as (root, keys), log_path.open("wb") as log:
        for name, value in keys.items():
            monkeypatch.setenv(name, value)
        paths = os.pathsep.join([str(site), str(HERE), os.environ.get("PYTHONPATH", "")])
        with nodes({**keys, "PYTHONPATH": paths}) as cluster:
            for _ in range(2):
                cluster.add()
            drivers = Drivers(cluster, root, log, marks)
            drivers.start(PAUSE_S)
            wait_for_episodes(marks, 20)
            victims = rng.sample(KILLS, len(KILLS))
            killed = Counter(disturb(cluster, drivers, rng, victim, marks) for victim in victims)
            if drivers.running.poll() is None:
                drivers.kill()
            before = len(read_index(Store(root).child("run", "trajectories")))
            drivers.start(pause_s=0.0)
            drivers.running.wait(timeout=120)
        told = log_path.read_text()
        print(f"seed {seed}: {dict(killed)}, stored by then {before}, driver exits {drivers.exits}")
        assert drivers.running.returncode == 0, told[-4000:]
        check(Store(root).child("run", "trajectories"), marks, killed, told)
    assert min(killed[kind] for kind in ("actor", "driver", "node")) >= 4
    assert 100 < before < TASKS * ATTEMPTS, "the kills fell on a run at work"


def check(store, marks, killed, told):
    plan = RolloutPlan(None, PolicySpec(), store)
    wanted = {plan.id_of(task, number) for task in tasks() for number in range(ATTEMPTS)}
    stored = list(read_trajectories(store))
    assert Counter(t.id for t in stored) == Counter(wanted)
    assert Counter(read_index(store).column("id").to_pylist()) == Counter(wanted)
    assert re.search(rf"summary RolloutSummary\(total={len(wanted)}, .*unfinished=0", told)
    resets = [(int(path.name.split("-")[2]) / 1e9, path.read_text()) for path in marks.glob("reset-*")]
    repeated = len(resets) - len(wanted)
    in_flight = IN_FLIGHT * (killed["actor"] + killed["node"] + 2 * killed["driver"])
    print(f"repeated {repeated} episodes; in flight at the kills at most {in_flight}")
    assert 2 * len(KILLS) < repeated <= in_flight
    done = stored_at(store)
    late = [(began - done[task], task) for began, task in resets if task and began > done[task] + STAMP_S]
    assert late == [], "played again after all attempts at it were stored"


def stored_at(store):
    """When the last attempt at each task became durable, on the clock of `time.monotonic`."""
    fs, base = store._connect()
    ahead = time.time() - time.monotonic()
    files = fs.get_file_info(FileSelector(f"{base}/segments"))
    written = {f"segments/{file.base_name}": file.mtime.timestamp() - ahead for file in files}
    entries = read_index(store)
    found = {}
    for task, segment in zip(entries.column("task").to_pylist(), entries.column("segment").to_pylist(), strict=True):
        found[task] = max(written[segment], found.get(task, 0.0))
    return found


def disturb(cluster, drivers, rng, victim, marks):
    """Wait until there is work again, and a random moment more; kill, and say what.

    A node or a driver that is gone is started again. Where no actor is there to be killed, the driver is.
    """
    begun, deadline = len(list(marks.glob("reset-*"))), time.monotonic() + WORK_S
    while len(list(marks.glob("reset-*"))) == begun and time.monotonic() < deadline:
        time.sleep(0.1)
    time.sleep(rng.uniform(0.0, 1.5))
    if drivers.running.poll() is not None:
        drivers.start(PAUSE_S)
    if victim == "actor":
        actors = sorted(pid for node in cluster.workers for pid in node.pids("MapWorker"))
        deadline = time.monotonic() + 15
        while not actors and time.monotonic() < deadline:
            time.sleep(0.1)
            actors = sorted(pid for node in cluster.workers for pid in node.pids("MapWorker"))
        if not actors:
            victim = "driver"
        else:
            kill(rng.choice(actors))
    if victim == "driver":
        drivers.kill()
        drivers.start(PAUSE_S)
    elif victim == "node":
        node: Node = cluster.workers.pop(rng.randrange(len(cluster.workers)))
        node.kill()
        cluster.add(settled=False)
    return victim


def wait_for_episodes(marks, count):
    deadline = time.monotonic() + 90
    while len(list(marks.glob("reset-*"))) < count:
        assert time.monotonic() < deadline, "no episode begins"
        time.sleep(0.2)
