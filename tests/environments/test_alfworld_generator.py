from collections import Counter

import pytest

from agenttuning.environments.alfworld.generator import SENTENCES, SHIFTED_SENTENCES, generated_tasks, scene_split
from agenttuning.environments.alfworld.rooms import ROOMS, SHIFTED, TREATMENTS, TYPES, holds
from agenttuning.environments.alfworld.scene import Goal, Scene, places, solution, things
from agenttuning.errors import ConfigurationError

APPLIANCES = {treatment.appliance for treatment in TREATMENTS.values()}


def drawn(split, count, seed):
    return list(generated_tasks(split, count, seed, "alfworld"))


def scene_of(task):
    return Scene.model_validate(task.payload["scene"])


def goal_of(task):
    return Goal.model_validate(task.payload["goal"])


def test_tasks_follow_from_the_seed_and_a_shorter_list_is_a_prefix():
    assert drawn("train", 12, 3) == drawn("train", 12, 3)
    assert drawn("train", 12, 3) == drawn("train", 30, 3)[:12]
    assert drawn("train", 12, 3) != drawn("train", 12, 4)


def test_train_and_test_share_no_scene_under_any_seeds():
    train = {scene_of(task).key for seed in range(6) for task in drawn("train", 60, seed)}
    test = {scene_of(task).key for seed in range(6) for task in drawn("test", 60, seed)}
    assert len(train) > 300
    assert len(test) > 300
    assert not train & test
    assert {task.id for task in drawn("train", 60, 0)}.isdisjoint(task.id for task in drawn("test", 60, 0))


def test_train_and_test_share_no_goal_and_the_types_stay_equal():
    tasks = {split: [task for seed in range(3) for task in drawn(split, 120, seed)] for split in ("train", "test")}
    said = {split: {task.instruction for task in found} for split, found in tasks.items()}
    assert not said["train"] & said["test"]
    asked = {
        split: {(goal.type, goal.object, goal.receptacle) for goal in map(goal_of, found)}
        for split, found in tasks.items()
    }
    assert not asked["train"] & asked["test"]
    for split, found in tasks.items():
        assert Counter(task.family for task in found) == dict.fromkeys(TYPES, 60)
        assert min(Counter(kind for kind, *_ in asked[split]).values()) >= 3


def test_the_split_is_a_property_of_the_scene_alone():
    task = drawn("test", 1, 0)[0]
    scene = scene_of(task)
    reordered = scene.model_copy(update={"objects": tuple(reversed(scene.objects)), "room": "other"})
    assert scene_split(scene) == scene_split(reordered) == "test"


def test_no_scene_comes_twice_in_a_list():
    keys = [scene_of(task).key for task in drawn("train", 120, 1)]
    assert len(set(keys)) == len(keys)


def test_shifted_rooms_and_sentences_are_seen_in_no_train_task():
    known = {thing for room in ROOMS for thing in room.objects} | {room.lamp for room in ROOMS}
    fresh = {thing for room in SHIFTED for thing in room.objects} | {room.lamp for room in SHIFTED if room.lamp}
    assert not known & fresh
    standing = {name for room in ROOMS for name in room.receptacles}
    assert {name for room in SHIFTED for name in room.receptacles} & standing <= APPLIANCES
    assert not {text for texts in SENTENCES.values() for text in texts} & {
        text for texts in SHIFTED_SENTENCES.values() for text in texts
    }
    for task in drawn("shifted", 24, 0):
        assert set(scene_of(task).receptacles) - standing, task.instruction


def test_the_six_types_come_in_turn():
    assert [task.family for task in drawn("train", 12, 0)] == list(TYPES) * 2


@pytest.mark.parametrize("split", ["train", "test", "shifted"])
def test_scenes_are_small_lawful_and_not_won_from_the_start(split):
    for task in drawn(split, 60, 2):
        scene, goal = scene_of(task), goal_of(task)
        standing = places(scene)
        assert 6 <= len(standing) <= 9
        for name, (kind, _, place) in things(scene).items():
            if kind != goal.lamp:
                assert holds(standing[place][0], kind), name
            if kind == goal.object:
                assert standing[place][0] != goal.receptacle
        assert sum(kind == goal.object for kind, _ in scene.objects) >= (2 if "two" in goal.type else 1)


def test_most_tasks_need_three_or_more_actions():
    lengths = [len(solution(scene_of(task), goal_of(task), "put")) for task in drawn("train", 90, 0)]
    assert sum(length >= 3 for length in lengths) >= len(lengths) * 2 / 3
    assert max(lengths) <= 12


def test_an_unknown_split_is_refused():
    with pytest.raises(ConfigurationError, match="'dev'"):
        drawn("dev", 1, 0)
