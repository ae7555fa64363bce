import sys

import pytest

from agenttuning.environments.alfworld.engine import Engine
from agenttuning.environments.alfworld.generator import generated_tasks
from agenttuning.environments.alfworld.rooms import TYPES
from agenttuning.environments.alfworld.scene import Goal, Scene, places, problem, solution
from agenttuning.environments.alfworld.wheel import NOTHING, rules


@pytest.fixture(scope="module")
def engine():
    engine = Engine()
    yield engine
    engine.close()


def games(split, count, seed=11):
    for task in generated_tasks(split, count, seed, "alfworld"):
        yield Scene.model_validate(task.payload["scene"]), Goal.model_validate(task.payload["goal"])


@pytest.mark.parametrize("split", ["train", "test", "shifted"])
@pytest.mark.parametrize("wording", ["put", "move"])
def test_every_type_is_won_by_the_generators_plan(engine, split, wording):
    won = []
    for scene, goal in games(split, 12):
        view = engine.start(problem(scene, goal), goal.text, wording)
        assert view.text.endswith(f"Your task is to: {goal.text}.")
        for command in solution(scene, goal, wording):
            assert not view.won
            assert command in view.admissible
            view = engine.act(command)
        won.append((goal.type, view.won))
    assert sorted(won) == sorted((kind, True) for kind in TYPES for _ in range(2))


def test_the_room_sentence_lists_the_places_in_the_order_that_the_scene_predicts(engine):
    for scene, goal in games("train", 6):
        text = engine.start(problem(scene, goal), goal.text, "put").text.split("\n")[0]
        positions = [text.index(f"a {name}") for name in places(scene)]
        assert positions == sorted(positions)


def test_texts_and_commands_equal_textworlds_own(engine):
    import textworld
    from alfworld.agents.environment.alfred_tw_env import AlfredDemangler
    from textworld.envs.pddl import PddlEnv

    scene, goal = list(games("train", 4))[3]
    domain, grammar = rules()
    reference = AlfredDemangler(PddlEnv(textworld.EnvInfos(admissible_commands=True)))
    text = problem(scene, goal)
    reference.load({"pddl_domain": domain, "grammar": grammar.replace("UNKNOWN GOAL", goal.text), "pddl_problem": text})
    theirs, ours = reference.reset(), engine.start(text, goal.text, "move")
    assert theirs.feedback.split("\n\n", 1)[1].replace("\n\n", "\n") == ours.text
    for command in ["look", "dance", "inventory", "help", *solution(scene, goal, "move")]:
        theirs, ours = reference.step(command)[0], engine.act(command)
        assert theirs.feedback.strip() == ours.text
        assert tuple(theirs["admissible_commands"]) == ours.admissible
        assert theirs["won"] == ours.won
    assert ours.won


def test_no_template_is_parsed_in_a_step(engine, monkeypatch):
    """TextWorld spends 70 % of a step on parsing templates that it has parsed before."""
    from textworld.envs.pddl import textgen

    parsed, parse = [], textgen._parse_and_convert
    (scene, goal), *_ = games("train", 1)
    engine.start(problem(scene, goal), goal.text, "put")
    monkeypatch.setattr(textgen, "_parse_and_convert", lambda *a, **k: parsed.append(a) or parse(*a, **k))
    view = [engine.act(command) for command in solution(scene, goal, "put")][-1]
    assert view.won
    assert parsed == []


def test_what_is_not_admissible_changes_nothing(engine):
    scene, goal = next(games("train", 1))
    start = engine.start(problem(scene, goal), goal.text, "put")
    facts = engine.facts()
    view = engine.act("take moon 1 from sky 1")
    assert (view.text, view.won, view.admissible) == (NOTHING, False, start.admissible)
    assert engine.facts() == facts


def test_a_game_starts_from_nothing_and_engines_do_not_disturb_each_other(engine):
    first, second = list(games("train", 2))
    fresh = engine.start(problem(*first), first[1].text, "put")
    begun = engine.facts()
    other = Engine()
    try:
        other.start(problem(*second), second[1].text, "put")
        for command in solution(*second, "put"):
            won = other.act(command).won
        assert won
        assert engine.facts() == begun
        for command in solution(*first, "put"):
            won = engine.act(command).won
        assert won
        assert engine.start(problem(*first), first[1].text, "put") == fresh
        assert engine.facts() == begun
    finally:
        other.close()
        other.close()


def test_the_interpreters_arguments_are_left_alone(engine):
    before = sys.argv
    scene, goal = next(games("train", 1))
    engine.start(problem(scene, goal), goal.text, "put")
    assert sys.argv is before
