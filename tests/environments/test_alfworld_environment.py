import pickle

import pytest

from agenttuning.environments.alfworld import ALFWorld, ALFWorldSettings
from agenttuning.environments.alfworld.demonstration import GOAL, PLAYED, SCENE
from agenttuning.environments.alfworld.generator import FEWEST
from agenttuning.environments.alfworld.scene import Goal, Scene, solution
from agenttuning.environments.base import make_environment
from agenttuning.errors import ConfigurationError, InfrastructureError
from agenttuning.trajectory import Action, Task


@pytest.fixture
def environment():
    with ALFWorld(ALFWorldSettings()) as environment:
        yield environment


def first(environment, split="train"):
    return next(environment.tasks(split, 1, 0))


def act(environment, command):
    return environment.step(environment.parse(f"ACTION: {command}").action)


def plan(task, wording="put"):
    return solution(Scene.model_validate(task.payload["scene"]), Goal.model_validate(task.payload["goal"]), wording)


def test_it_is_registered_and_builds_from_picklable_arguments():
    arguments = pickle.loads(pickle.dumps(("alfworld", {"wording": "move", "mistake_rate": 0.0}, None)))
    with make_environment(*arguments) as environment:
        assert isinstance(environment, ALFWorld)
        task = pickle.loads(pickle.dumps(first(environment)))
        assert environment.reset(task).count("Your task is to:") == 1


def test_doing_nothing_wins_nothing(environment):
    task = first(environment)
    environment.reset(task)
    for _ in range(3):
        assert not act(environment, "look").done
    evidence = environment.close()
    assert not evidence["won"]
    assert environment.grade(task, evidence).reward == 0.0


def test_the_plan_wins_and_the_grade_follows_from_the_evidence_alone(environment):
    task = first(environment)
    environment.reset(task)
    steps = [act(environment, command) for command in plan(task)]
    assert [step.done for step in steps] == [False] * (len(steps) - 1) + [True]
    evidence = environment.close()
    assert evidence == environment.close()
    assert evidence["commands"] == len(steps)
    assert ALFWorld.grade(task, evidence).score == 1.0
    assert ALFWorld.grade(task, {}).score == 0.0
    assert ALFWorld.grade(task, {"won": "true"}).reward == 0.0


def test_nothing_of_an_episode_is_seen_in_the_next(environment):
    task = first(environment)
    shown = environment.reset(task)
    for command in plan(task):
        act(environment, command)
    environment.close()
    assert environment.reset(task) == shown
    assert environment.close() | {"conditions": {}} == {"won": False, "commands": 0, "conditions": {}}


def test_an_inadmissible_command_is_replaced_by_the_nearest(environment):
    task = first(environment)
    environment.reset(task)
    place = plan(task)[0].removeprefix("go to ")
    step = act(environment, f"walk to {place}")
    assert step.error
    assert step.note == {"replaced_by": f"go to {place}"}
    assert step.observation.startswith(f"You arrive at {place}.")
    assert act(environment, "xyzzy").observation == "Nothing happens."


def test_an_inadmissible_command_does_nothing_where_the_settings_say_so():
    with ALFWorld(ALFWorldSettings(on_inadmissible="nothing", available_actions=True)) as environment:
        task = first(environment)
        offered = environment.reset(task).split("\n")[-1]
        assert offered.startswith("AVAILABLE ACTIONS: go to ")
        step = act(environment, "walk to the moon")
        assert step.error
        assert not step.note
        assert step.observation == f"Nothing happens.\n{offered}"


def test_wording_reaches_commands_replies_and_description():
    with ALFWorld(ALFWorldSettings(wording="move")) as environment:
        task = next(task for task in environment.tasks("train", 6, 0) if task.family == "pick_and_place_simple")
        assert "move O to R" in environment.description(task)
        environment.reset(task)
        steps = [act(environment, command) for command in plan(task, "move")]
        assert steps[-1].done
        assert steps[-1].observation.startswith("You move the ")


def test_the_opening_text_is_short_and_without_banner(environment):
    for task in environment.tasks("train", 12, 4):
        assert len(environment.description(task).split()) < 110
        text = environment.reset(task)
        assert text.startswith("You are in the middle of a room.")
        assert text.endswith(f"Your task is to: {task.instruction}.")
        assert text.count("\n") == 1


def test_the_demonstration_is_a_real_game_in_a_room_of_no_split(environment):
    assert sum(SCENE.receptacles.values()) < FEWEST
    payload = {"source": "generated", "scene": SCENE.model_dump(mode="json"), "goal": GOAL.model_dump()}
    shown = environment.reset(Task(environment="alfworld", split="train", instruction=GOAL.text, payload=payload))
    for observation, _, command in PLAYED:
        assert shown == observation
        step = act(environment, command)
        shown = step.observation
    assert step.done
    turns = environment.demonstration()
    assert [turn.role for turn in turns] == ["user", "assistant"] * len(PLAYED)
    assert all(turn.loss is False for turn in turns if turn.role == "assistant")
    assert environment.parse(turns[-1].content).action == turns[-1].action


def test_the_demonstration_speaks_the_wording_of_the_settings():
    with ALFWorld(ALFWorldSettings(wording="move")) as environment:
        assert environment.demonstration()[-1].content.endswith("ACTION: move candle 1 to shelf 1")


def test_misuse_is_refused_with_the_cure(environment):
    with pytest.raises(ConfigurationError, match="mistake_rat"):
        make_environment("alfworld", {"mistake_rat": 0.1})
    with pytest.raises(ConfigurationError, match=r"needs data\.root"):
        list(make_environment("alfworld", {"source": "official"}).tasks("train", 1, 0))
    with pytest.raises(ConfigurationError, match="'dev'"):
        list(environment.tasks("dev", 1, 0))
    with pytest.raises(InfrastructureError, match="before reset"):
        environment.step(Action(name="look"))


def test_it_can_be_shut_down_twice_and_used_again():
    environment = ALFWorld(ALFWorldSettings())
    task = first(environment)
    shown = environment.reset(task)
    environment.shutdown()
    environment.shutdown()
    assert environment.reset(task) == shown
    environment.shutdown()
