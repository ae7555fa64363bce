"""An actor whose driver died unseen by it goes on playing; what it would write after a takeover is refused."""

import os
import time

import pytest
from ray_nodes import nodes, object_store, wait_until
from test_kills import HERE, Drivers, tasks
from toy_environments import install_toys

from agenttuning.recipe import PolicySpec
from agenttuning.rollout.worker import RolloutPlan
from agenttuning.storage import Store
from agenttuning.storage.index import epoch_of, read_index
from agenttuning.storage.segments import read_trajectories

COUNT, ATTEMPTS = 100, 2


def marked(marks, what):
    """Process ids and times (of `time.monotonic`) of the marks of one kind."""
    return [(int(path.name.split("-")[1]), int(path.name.split("-")[2]) / 1e9) for path in marks.glob(f"{what}-*")]


@pytest.mark.ray
@pytest.mark.timeout(400)
def test_the_orphan_of_a_dead_driver_writes_nothing_after_the_takeover(tmp_path, monkeypatch):
    """The raylet of its node is stopped, so that nobody ends the actor when its driver is killed."""
    site, marks, log_path = install_toys(tmp_path), tmp_path / "marks", tmp_path / "drivers.log"
    monkeypatch.syspath_prepend(str(site))
    marks.mkdir()
    with object_store() as (root, keys), log_path.open("wb") as log:
        for name, value in keys.items():
            monkeypatch.setenv(name, value)
        store = Store(root).child("run", "trajectories")
        paths = os.pathsep.join([str(site), str(HERE), os.environ.get("PYTHONPATH", "")])
        with nodes({**keys, "PYTHONPATH": paths}) as cluster:
            first, second = cluster.add(), cluster.add()
            drivers = Drivers(cluster, root, log, marks, COUNT)
            drivers.start(pause_s=2.0)

            def players():
                return {pid for pid, _ in marked(marks, "reset")}

            def work_everywhere():
                assert drivers.running.poll() is None, log_path.read_text()[-4000:]
                return all(players() & set(node.pids()) for node in (first, second))

            wait_until(work_everywhere, 150, "two nodes do not play")
            wait_until(lambda: store.list(prefix="segments/"), 60, "nothing is stored")
            (orphan,) = players() & set(first.pids())
            for pid in first.pids("raylet/raylet "):
                os.kill(pid, 19)
            drivers.kill()
            drivers.start(pause_s=0.0)
            wait_until(lambda: "index/e000002-000000.parquet" in store.list(prefix="index/"), 60, "no takeover")
            taken = time.monotonic()
            time.sleep(0.5)
            before = [name for name in store.list(prefix="segments/") if epoch_of(name) == 1]
            wait_until(
                lambda: any(pid == orphan and when > taken + 0.5 for pid, when in marked(marks, "close")),
                60, "the orphan ends no episode after the takeover",
            )  # fmt: skip
            assert drivers.running.wait(timeout=120) == 0, log_path.read_text()[-4000:]
            time.sleep(1.0)
            after = [name for name in store.list(prefix="segments/") if epoch_of(name) == 1]
        assert after == before
        plan = RolloutPlan(None, PolicySpec(), store)
        wanted = sorted(plan.id_of(task, number) for task in tasks(COUNT) for number in range(ATTEMPTS))
        assert sorted(t.id for t in read_trajectories(store)) == wanted
        assert sorted(read_index(store).column("id").to_pylist()) == wanted
