"""Training on several Ray nodes of this machine: nodes that are drained, killed, or stop answering."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from small_runs import exported_weights, save_small_model, write_items
from test_ray_train import small_recipe

from agenttuning.recipe import Recipe
from agenttuning.storage import Store
from agenttuning.training.checkpoint import latest_checkpoint
from agenttuning.training.ray_train import run_training

pytestmark = pytest.mark.ray
HERE = Path(__file__).parent


class Nodes:
    """A head without CPUs and worker nodes of one CPU."""

    def __init__(self, count: int) -> None:
        import ray
        from ray.cluster_utils import Cluster

        self.cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "object_store_memory": 100 << 20})
        self.nodes = [self.add() for _ in range(count)]
        ray.init(address=self.cluster.address, log_to_driver=False, runtime_env={"env_vars": {"PYTHONPATH": str(HERE)}})

    def add(self) -> Any:
        return self.cluster.add_node(num_cpus=1, object_store_memory=100 << 20)

    def actors(self) -> list[Any]:
        """The actors that train."""
        from ray.util.state import list_actors

        return [a for a in list_actors(filters=[("state", "=", "ALIVE")]) if "RayTrainWorker" in a.class_name]

    def workers(self) -> list[psutil.Process]:
        """Their processes."""
        return [psutil.Process(actor.pid) for actor in self.actors()]

    def of_a_worker(self) -> Any:
        """The node that trains."""
        (actor,) = self.actors()
        return next(n for n in self.nodes if n.node_id == actor.node_id)

    def drain(self, node: Any, seconds: float) -> None:
        from ray._raylet import GcsClient
        from ray.core.generated.autoscaler_pb2 import DrainNodeReason

        deadline = int((time.time() + seconds) * 1000)
        reason = DrainNodeReason.DRAIN_NODE_REASON_PREEMPTION
        accepted, why = GcsClient(address=self.cluster.address).drain_node(node.node_id, reason, "test", deadline)
        assert accepted, why

    def kill(self, node: Any) -> None:
        self.cluster.remove_node(node, allow_graceful=False)

    def close(self) -> None:
        import ray

        ray.shutdown()
        self.cluster.shutdown()


@pytest.fixture
def nodes() -> Iterator[Nodes]:
    cluster = Nodes(2)
    yield cluster
    cluster.close()


def recipe_and_data(tmp_path: Path, **training: Any) -> tuple[Recipe, Path, Store]:
    recipe = small_recipe(zero_stage=3, **training)
    return recipe, save_small_model(tmp_path / "model"), write_items(tmp_path / "items")


def test_a_node_that_will_be_taken_away_costs_no_step(nodes: Nodes, tmp_path: Path) -> None:
    recipe, model, items = recipe_and_data(tmp_path, steps=400, checkpoint_every=1000, max_failures=0)
    steps: list[int] = []
    notes: list[str] = []
    gone: list[Any] = []

    def watch(metrics: dict[str, Any]) -> None:
        steps.append(metrics["step"])
        if metrics["step"] == 3:
            gone.append(nodes.of_a_worker())
            nodes.drain(gone[0], 60.0)

    def note(text: str) -> None:
        notes.append(text)
        if "will be taken away" in text:
            time.sleep(1.0)
            nodes.kill(gone[0])

    summary = run_training(recipe, model, items, Store(str(tmp_path / "training")), watch, note)
    assert summary.steps == 400
    (saved,) = [int(n.rpartition("step ")[2].split()[0]) for n in notes if "will be taken away" in n]
    assert any(f"continued from step {saved}" in n for n in notes)
    assert summary.bad_steps == 0


def test_a_killed_node_is_replaced_and_the_run_goes_on(nodes: Nodes, tmp_path: Path) -> None:
    recipe, model, items = recipe_and_data(tmp_path, steps=60, checkpoint_every=5, max_failures=1)
    killed: list[int] = []
    notes: list[str] = []

    def watch(metrics: dict[str, Any]) -> None:
        if metrics["step"] >= 12 and not killed:
            killed.append(metrics["step"])
            nodes.kill(nodes.of_a_worker())

    summary = run_training(recipe, model, items, Store(str(tmp_path / "training")), watch, notes.append)
    assert killed
    assert summary.steps == 60
    assert any("continued from step" in n for n in notes)


def test_a_worker_that_hangs_is_found_by_the_time_limit(
    nodes: Nodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S", "5")
    recipe, model, items = recipe_and_data(
        tmp_path, workers=2, steps=30, checkpoint_every=5, max_failures=1, collective_timeout_s=5.0
    )
    stopped: list[psutil.Process] = []
    notes: list[str] = []

    def watch(metrics: dict[str, Any]) -> None:
        if metrics["step"] >= 7 and not stopped:
            stopped.extend(nodes.workers())
            stopped[0].suspend()

    summary = run_training(recipe, model, items, Store(str(tmp_path / "training")), watch, notes.append)
    assert len(stopped) == 2
    assert not stopped[0].is_running() or stopped[0].status() == psutil.STATUS_ZOMBIE
    assert summary.steps == 30
    assert any("continued from step" in n for n in notes)


DRIVER = """
import sys
from pathlib import Path
import ray
from test_ray_train import small_recipe
from agenttuning.storage import Store
from agenttuning.training.ray_train import run_training
root = Path(sys.argv[1])
ray.init(address="local", num_cpus=1, include_dashboard=False, object_store_memory=200 << 20, log_to_driver=False)
recipe = small_recipe(zero_stage=3, steps=40, checkpoint_every=5)
run_training(recipe, root / "model", Store(str(root / "items")), Store(str(root / sys.argv[2])))
"""


def test_a_killed_driver_is_followed_by_one_that_gives_the_same_weights(tmp_path: Path) -> None:
    save_small_model(tmp_path / "model")
    write_items(tmp_path / "items")
    environment = {**os.environ, "PYTHONPATH": str(HERE)}

    def start(name: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-c", DRIVER, str(tmp_path), name], env=environment)

    first = start("cut")
    output = Store(str(tmp_path / "cut"))
    until = time.monotonic() + 120
    while latest_checkpoint(output) is None and time.monotonic() < until and first.poll() is None:
        time.sleep(0.05)
    first.send_signal(signal.SIGKILL)
    first.wait()
    assert latest_checkpoint(output) is not None
    assert not output.exists("trained.json")
    assert [driver.wait(300) for driver in (start("cut"), start("whole"))] == [0, 0]
    mine, other = (exported_weights(Store(str(tmp_path / n))) for n in ("cut", "whole"))
    assert all(torch.equal(mine[n], other[n]) for n in other)
    assert any("continued from step" in note for note in output.read_json("trained.json")["notes"])
