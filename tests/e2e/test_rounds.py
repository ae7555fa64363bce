"""Two rounds of rejection sampling with real training, and the first round's model served by vLLM in the second."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from agenttuning import pipeline
from agenttuning.recipe import load_recipe
from agenttuning.stages.rounds import model_key
from agenttuning.storage import Store
from agenttuning.storage.segments import read_trajectories, table_trajectories
from agenttuning.trajectory import Trajectory

pytestmark = [pytest.mark.e2e, pytest.mark.ray, pytest.mark.serve, pytest.mark.timeout(600)]
LEARN = ("generate", "curate", "mix", "train", "export")


def played(run: Store) -> list[Trajectory]:
    return list(read_trajectories(run.child("trajectories")))


def weights(run: Store) -> list[bytes]:
    return [run.read(name) for name in run.list(prefix="model/", suffix=".safetensors")]


def test_the_model_of_the_first_round_plays_in_the_second_beside_the_expert(
    small_recipe: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = small_recipe(
        str(tmp_path / "runs"),
        environments={"db": {"train_tasks": 4, "test_tasks": 1, "shifted_tasks": 0, "max_steps": 3}},
        policy={"kind": "expert", "max_tokens": 16},
        rollout={"rounds": 2, "actors": [1, 1], "actor_cpus": 0.25, "episodes_in_flight": 4, "max_malformed": 2},
        training={"steps": 2, "items_per_step": 4, "cpus_per_worker": 1, "learning_rate": 0.01},
    )
    recipe = load_recipe(path)
    told = pipeline.run(recipe, LEARN)
    second = Store(str(tmp_path / "runs/small"))
    first = second.child("rounds", "small-1")
    learner = f"small-1-{model_key(first)[:8]}"

    assert Counter(t.policy for t in played(first)) == {"expert": 4}
    assert Counter(t.policy for t in played(second)) == {"expert": 4, learner: 4}
    tasks = [{t.task.id for t in played(run)} for run in (first, second)]
    assert [len(found) for found in tasks] == [4, 4]
    assert not tasks[0] & tasks[1], "each round plays new tasks"
    by_model = [t for t in played(second) if t.policy == learner]
    assert all(call.completion_tokens for t in by_model for call in t.calls), "vLLM answered"
    assert told["generate"]["earlier_model"]["played"] == 4

    kept = [
        {t.id for t in table_trajectories(run.child("curated").read_table("kept.parquet"))} for run in (first, second)
    ]
    assert told["curate"]["collected"] == 4 + 8
    assert kept[0] < kept[1], "a round learns from what all rounds collected"
    assert weights(first)
    assert weights(second)
    assert weights(first) != weights(second)

    capsys.readouterr()
    pipeline.run(recipe, LEARN)
    said = capsys.readouterr().out
    for stage in LEARN:
        assert f"{stage}: all is done" in said
    assert "serving" not in said
