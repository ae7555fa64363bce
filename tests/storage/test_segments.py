from pathlib import Path

import datasets
import pytest

from agenttuning.errors import DataError
from agenttuning.storage import Store
from agenttuning.storage.segments import (
    commit_segment,
    read_trajectories,
    stored_ids,
    table_trajectories,
    trajectories_table,
)
from agenttuning.trajectory import Outcome, Task, Trajectory, Turn, trajectory_id


def episode(number: int) -> Trajectory:
    task = Task(environment="toy", split="train", instruction=f"task {number}")
    turns = (Turn(role="user", content='say "hi"\n'), Turn(role="assistant", content="hi", loss=True))
    return Trajectory(
        id=trajectory_id(task, "p", {}, 0), task=task, attempt=0, turns=turns, reward=1.0, score=1.0,
        outcome=Outcome.COMPLETED, policy="p",
    )  # fmt: skip


def test_each_id_is_read_once_and_a_repeated_commit_changes_nothing(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    a, b, c = episode(1), episode(2), episode(3)
    commit_segment(store, "w1", 0, [a, b])
    commit_segment(store, "w1", 0, [a, b])
    commit_segment(store, "w2", 0, [b, c])
    assert list(read_trajectories(store)) == [a, b, c]
    assert stored_ids(store) == {a.id, b.id, c.id}


def test_a_torn_last_line_is_passed_over_and_damage_elsewhere_is_named(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    a, b = episode(1), episode(2)
    name = commit_segment(store, "w", 0, [a, b])[0].segment
    whole = store.read(name)
    store.write(name, whole[:-20])
    assert list(read_trajectories(store)) == [a]
    assert stored_ids(store) == {a.id}
    store.write(name, b"x" + whole)
    with pytest.raises(DataError, match="line 1: not a trajectory"):
        list(read_trajectories(store))


def test_tables_are_lossless_and_load_with_datasets(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    episodes = [episode(i) for i in range(3)]
    store.write_table("kept.parquet", trajectories_table(episodes))
    assert list(table_trajectories(store.read_table("kept.parquet"))) == episodes
    rows = datasets.load_dataset("parquet", data_files=str(tmp_path / "kept.parquet"), cache_dir=str(tmp_path / "c"))
    assert rows["train"][0]["conversations"][1] == {"from": "gpt", "loss": True, "value": "hi"}
