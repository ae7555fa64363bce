"""What two splits share is found, whatever it is; what one split holds twice is not its business."""

import pytest

from agenttuning.environments.base import make_environment
from agenttuning.instructions.splits import overlaps
from agenttuning.trajectory import Task


def task(split: str, instruction: str, **payload: object) -> Task:
    return Task(environment="e", split=split, instruction=instruction, payload=payload)


def test_nothing_shared_is_nothing_found() -> None:
    assert (
        overlaps([task("train", "a", scene="x"), task("train", "a b", scene="x"), task("test", "c", scene="y")]) == []
    )


@pytest.mark.parametrize("key", ["scene", "problem", "setup", "tables", "split_source", "reference"])
def test_a_shared_source_is_found(key: str) -> None:
    tasks = [task("train", "a", **{key: "same"}, n=1), task("test", "b", **{key: "same"}, n=2)]
    (overlap,) = overlaps(tasks)
    assert overlap.splits == ("test", "train")
    assert overlap.tasks == (tasks[1].id, tasks[0].id)
    assert overlap.count == 1


def test_the_same_task_in_other_words_is_found() -> None:
    found = overlaps([task("train", "Do it", goal=1), task("shifted", "Have it done", goal=1)])
    assert [overlap.kind for overlap in found] == ["task"]


def test_comments_are_no_scene() -> None:
    assert overlaps([task("train", "a", setup="# nothing", n=1), task("test", "b", setup="# nothing", n=2)]) == []


def test_things_are_counted_by_kind() -> None:
    tasks = [task(split, f"{split}{n}", scene=n, n=f"{split}{n}") for split in ("train", "test") for n in range(5)]
    (overlap,) = overlaps(tasks)
    assert (overlap.kind, overlap.count) == ("scene", 5)


@pytest.mark.parametrize("name", ["os", "db"])
def test_the_environments_share_nothing(name: str) -> None:
    with make_environment(name) as env:
        tasks = [t for split in ("train", "test", "shifted") for seed in (0, 1) for t in env.tasks(split, 60, seed)]
    assert overlaps(tasks) == []
