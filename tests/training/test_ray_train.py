import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import exported_weights, save_small_model, small_training, write_items

from agenttuning.errors import ConfigurationError, DataError
from agenttuning.machine import allocator
from agenttuning.recipe import Recipe
from agenttuning.storage import Store
from agenttuning.training import ray_train
from agenttuning.training.loop import Wish
from agenttuning.training.ray_train import run_training, worker_environment


def small_recipe(**training: Any) -> Recipe:
    settings = small_training(cpus_per_worker=1.0, **training).model_dump(mode="json")
    sources = {"agent": {"kind": "trajectories", "weight": 1.0}, "general": {"kind": "self", "weight": 3.0}}
    return Recipe.model_validate({
        "run": {"name": "small"}, "training": settings,
        "mixture": {"max_length": 96, "sources": sources},
    })  # fmt: skip


def pids(name: str) -> list[int]:
    """Processes whose title holds a name."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except OSError:
                continue
            if name in line:
                found.append(int(entry.name))
    return found


def descendants() -> set[int]:
    import psutil

    return {p.pid for p in psutil.Process().children(recursive=True)}


@pytest.mark.ray
def test_a_killed_worker_is_restarted_and_the_weights_are_those_of_an_undisturbed_run(
    cluster: None, tmp_path: Path
) -> None:
    model, items = save_small_model(tmp_path / "model"), write_items(tmp_path / "items")
    recipe = small_recipe(zero_stage=3, steps=12, checkpoint_every=4, max_failures=2)
    whole = run_training(recipe, model, items, Store(str(tmp_path / "whole")))
    steps: list[int] = []
    killed: list[int] = []
    notes: list[str] = []

    def watch(metrics: dict[str, Any]) -> None:
        steps.append(metrics["step"])
        if metrics["step"] >= 6 and not killed:
            workers = [p for p in pids("ray::RayTrainWorker") if p in descendants()]
            assert len(workers) == 1
            killed.append(workers[0])
            os.kill(workers[0], signal.SIGKILL)

    slow = recipe
    cut = run_training(slow, model, items, Store(str(tmp_path / "cut")), watch, notes.append)
    assert killed
    assert any("continued from step" in note for note in notes)
    assert steps.count(12) == 1
    assert (cut.steps, cut.tokens, cut.items) == (whole.steps, whole.tokens, whole.items)
    mine, other = (exported_weights(Store(str(tmp_path / n))) for n in ("cut", "whole"))
    assert mine.keys() == other.keys()
    assert all(torch.equal(mine[n], other[n]) for n in other)
    losses = {}
    for name in ("cut", "whole"):
        told = Store(str(tmp_path / name)).read("metrics.jsonl").splitlines()
        losses[name] = [json.loads(line)["loss"] for line in told]
    assert losses["cut"] == losses["whole"]


@pytest.mark.ray
def test_an_error_of_a_worker_reaches_the_driver_as_it_was_raised(cluster: None, tmp_path: Path) -> None:
    model, items = save_small_model(tmp_path / "model"), write_items(tmp_path / "items")
    recipe = small_recipe(attention="flash_attention_2", max_failures=0)
    with pytest.raises(ConfigurationError, match="flash_attention_2"):
        run_training(recipe, model, items, Store(str(tmp_path / "training")))


@pytest.mark.ray
def test_more_than_the_cluster_has_is_refused_at_once(cluster: None, tmp_path: Path) -> None:
    items = write_items(tmp_path / "items")
    with pytest.raises(ConfigurationError, match="training: 9 workers need 9 CPUs of 2"):
        run_training(small_recipe(workers=9, zero_stage=3), tmp_path, items, Store(str(tmp_path / "training")))


def test_missing_items_are_found_before_any_worker_starts(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"agent\.parquet"):
        run_training(small_recipe(), tmp_path, Store(str(tmp_path)), Store(str(tmp_path / "training")))


def test_cpu_workers_get_threads_and_the_allocator() -> None:
    environment = worker_environment(small_training(cpus_per_worker=2.0))
    assert environment["OMP_NUM_THREADS"] == "2"
    assert environment["DS_ACCELERATOR"] == "cpu"
    library = allocator()
    if library is not None:
        assert environment["LD_PRELOAD"].startswith(library)


def test_workers_ask_for_the_gpu_that_the_recipe_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def placed(**training: Any) -> Any:
        return ray_train._trainer(lambda: None, small_recipe(**training), Store(str(tmp_path))).scaling_config

    assert placed(use_gpu=True, accelerator_type="A100-80G").accelerator_type == "A100"
    assert placed(use_gpu=True).accelerator_type is None
    assert placed(accelerator_type="A100-80G").accelerator_type is None, "workers on CPUs"
    monkeypatch.setattr(
        ray_train.ray, "cluster_resources", lambda: {"CPU": 9.0, "GPU": 9.0, "accelerator_type:L4": 1.0}
    )
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    notes: list[str] = []
    ray_train._check_cluster(small_recipe(use_gpu=True, accelerator_type="L4"), notes.append)
    recipe = small_recipe(use_gpu=True, accelerator_type="H100")
    with pytest.raises(ConfigurationError, match=r"no node .* has a H100 \(training\.accelerator_type\); set training"):
        ray_train._check_cluster(recipe, notes.append)
    assert notes == []
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    ray_train._check_cluster(recipe, notes.append)
    assert notes == [
        "training: no node of the cluster has a H100 (training.accelerator_type): waiting for nodes",
    ]


def test_a_validation_that_no_node_could_run_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_train.ray, "cluster_resources", lambda: {"CPU": 2.0})
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    notes: list[str] = []
    ray_train._check_cluster(small_recipe(validation={"cpus": 2.0}), notes.append)
    recipe = small_recipe(validation={"gpus": 1.0})
    with pytest.raises(ConfigurationError, match=r"validation needs 1 GPUs of 0 .*training\.validation\.gpus"):
        ray_train._check_cluster(recipe, notes.append)
    assert notes == []
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    ray_train._check_cluster(recipe, notes.append)
    assert "waiting for nodes" in notes[0]


def test_a_save_that_all_ranks_ask_for_goes_before_a_stop_that_one_asks_for() -> None:
    goings: list[set[str]] = [set(), set()]
    asked = [
        [ray_train._wish(rank == 0, leaving, going) for rank, going in enumerate(goings)]
        for leaving in (set(), {"a"}, {"a"}, {"a", "b"})
    ]
    assert asked == [[Wish.STOP, Wish.GO_ON], [Wish.SAVE] * 2, [Wish.STOP, Wish.GO_ON], [Wish.SAVE] * 2]
