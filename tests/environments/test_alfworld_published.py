import json
import lzma
import random
import re
from pathlib import Path

import pytest

from agenttuning.environments.alfworld import ALFWorld, ALFWorldSettings
from agenttuning.environments.alfworld.expert import direct
from agenttuning.environments.alfworld.generator import generated_tasks
from agenttuning.environments.alfworld.published import pack, read_games, unpack
from agenttuning.environments.alfworld.scene import Goal, Scene, problem, solution
from agenttuning.environments.alfworld.wheel import rules
from agenttuning.errors import ConfigurationError, DataError

PUBLISHED = Path(__file__).parents[3] / "shared" / "data"


def games(count):
    """Yield (name, goal sentence, walkthrough, problem) of generated games, under names of the published pattern."""
    for number, task in enumerate(generated_tasks("train", count, 0, "alfworld")):
        scene, goal = Scene.model_validate(task.payload["scene"]), Goal.model_validate(task.payload["goal"])
        name = f"{goal.type}-{goal.object}-None-{goal.receptacle or goal.lamp}-{number}/trial_T{number}"
        yield name, goal.text, solution(scene, goal, "move"), problem(scene, goal)


def write_table(root, split, count=6):
    folder = root / "alfworld"
    folder.mkdir(exist_ok=True)
    (folder / "game_domain.pddl").write_text(rules()[0])
    with lzma.open(folder / f"{split}.jsonl.xz", "wt") as file:
        for name, goal, walkthrough, text in games(count):
            line = {"game": name, "goal": goal, "walkthrough": walkthrough, "pddl_problem": text}
            file.write(json.dumps(line) + "\n")


def write_directory(root, split, count=6):
    domain, grammar = rules()
    for name, goal, walkthrough, text in games(count):
        folder = root / "json_2.1.1" / split / name
        folder.mkdir(parents=True)
        game = {
            "pddl_domain": domain,
            "grammar": grammar.replace("UNKNOWN GOAL", goal),
            "pddl_problem": text,
            "solvable": True,
            "walkthrough": walkthrough,
        }
        (folder / "game.tw-pddl").write_text(json.dumps(game))


def official(root, **settings):
    return ALFWorld(ALFWorldSettings(source="official", **settings), str(root))


def won_by_guide(environment, task, seed=0):
    shown = environment.reset(task)
    expert = environment.expert(task, random.Random(seed))
    move = next(expert)
    for _ in range(environment.max_steps):
        assert all(name in shown for name in re.findall(r"[a-z]+ \d+", move.thought.lower())), move.thought
        step = environment.step(move.action)
        assert not step.error, move.action
        if step.done:
            break
        shown += f"\n{environment.format(move.thought, move.action)}\n{step.observation}"
        move = expert.send(step)
    return environment.grade(task, environment.close()).reward == 1.0


@pytest.mark.parametrize("write", [write_table, write_directory])
@pytest.mark.parametrize("wording", ["put", "move"])
def test_both_layouts_are_read_and_won_by_their_walkthroughs(tmp_path, write, wording):
    write(tmp_path, "train")
    with official(tmp_path, wording=wording, test_split="valid_seen") as environment:
        tasks = list(environment.tasks("train", 100, 0))
        assert {task.origin for task in tasks} == {"dataset"}
        assert len(tasks) == 6
        assert all(won_by_guide(environment, task) for task in tasks)


def test_the_seed_decides_which_games_and_their_order(tmp_path):
    write_table(tmp_path, "train", 12)
    environment = official(tmp_path)
    assert list(environment.tasks("train", 4, 0)) == list(environment.tasks("train", 12, 0))[:4]
    assert list(environment.tasks("train", 4, 0)) != list(environment.tasks("train", 4, 1))


def test_shifted_is_the_unseen_split_where_it_is_there_and_not_the_test(tmp_path):
    write_table(tmp_path, "valid_seen", 2)
    assert not list(official(tmp_path, test_split="valid_seen").tasks("shifted", 5, 0))
    write_table(tmp_path, "valid_unseen", 3)
    assert len(list(official(tmp_path, test_split="valid_seen").tasks("shifted", 5, 0))) == 3
    assert not list(official(tmp_path, test_split="valid_unseen").tasks("shifted", 5, 0))
    assert len(list(official(tmp_path, test_split="valid_unseen").tasks("test", 5, 0))) == 3


def test_missing_torn_and_foreign_files_are_refused_with_the_reason(tmp_path):
    with pytest.raises(ConfigurationError, match="alfworld-download"):
        list(official(tmp_path).tasks("train", 1, 0))
    write_table(tmp_path, "train", 3)
    table = tmp_path / "alfworld" / "train.jsonl.xz"
    whole = table.read_bytes()
    table.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"train\.jsonl\.xz"):
        list(read_games(tmp_path, "train"))
    table.write_bytes(whole)
    domain = tmp_path / "alfworld" / "game_domain.pddl"
    domain.write_text(domain.read_text().replace("(:action help", "(:action cheat"))
    with pytest.raises(DataError, match="not that of ALFWorld"):
        list(read_games(tmp_path, "train"))
    domain.unlink()
    with pytest.raises(DataError, match="is missing"):
        list(read_games(tmp_path, "train"))


def test_a_torn_game_file_is_named(tmp_path):
    write_directory(tmp_path, "train", 1)
    path = next((tmp_path / "json_2.1.1").rglob("game.tw-pddl"))
    path.write_text("{")
    with pytest.raises(DataError, match=re.escape(str(path))):
        list(read_games(tmp_path, "train"))


def test_games_of_other_types_are_named(tmp_path):
    write_table(tmp_path, "train", 1)
    game = next(read_games(tmp_path, "train"))
    with pytest.raises(DataError, match="pick_and_dance"):
        _ = type(game)("pick_and_dance-Mug-None-Shelf-1/t", game.text, game.walkthrough, game.problem).goal


def test_problems_survive_packing():
    text = "(define (problem x) (:init (= (total-cost) 0)))\n" * 50
    assert unpack(pack(text)) == text
    assert len(pack(text)) < len(text) / 4


def test_a_walk_to_a_shared_location_names_the_place_that_is_used():
    walkthrough = [
        "go to coffeemachine 1",
        "take bread 1 from countertop 1",
        "go to shelf 1",
        "move bread 1 to shelf 1",
    ]
    assert direct(walkthrough) == ["go to countertop 1", *walkthrough[1:]]


@pytest.mark.data
def test_official_games_are_won_by_their_walkthroughs():
    if not (PUBLISHED / "alfworld").is_dir():
        pytest.skip(f"no published ALFWorld games in {PUBLISHED}/alfworld")
    with official(PUBLISHED) as environment:
        tasks = [*environment.tasks("train", 4, 7), *environment.tasks("test", 4, 7)]
        assert all(won_by_guide(environment, task, seed) for seed, task in enumerate(tasks))


@pytest.mark.parametrize("write", [write_table, write_directory])
def test_without_unseen_rooms_test_has_rooms_of_its_own(tmp_path, write):
    write(tmp_path, "train", 60)
    drawn = {split: list(official(tmp_path).tasks(split, 100, 0)) for split in ("train", "test", "shifted")}
    rooms = {
        split: {task.payload["game"].split("/")[0].split("-")[4] for task in found} for split, found in drawn.items()
    }
    assert len(rooms["train"]) > len(rooms["test"]) > 3
    assert not rooms["train"] & rooms["test"]
    assert len(drawn["train"]) + len(drawn["test"]) == 60
    assert not drawn["shifted"]
    write(tmp_path, "valid_unseen", 6)
    assert len(list(official(tmp_path).tasks("train", 100, 0))) == 60
    assert len(list(official(tmp_path).tasks("test", 100, 0))) == 6
    assert not list(official(tmp_path).tasks("shifted", 100, 0))
    by_room = official(tmp_path, test_split="room")
    assert [task.id for task in by_room.tasks("test", 100, 0)] == [task.id for task in drawn["test"]]
    assert len(list(by_room.tasks("shifted", 100, 0))) == 6
