import random
import re
from collections import Counter

import pytest

from agenttuning.environments.webshop import WebShop, WebShopSettings
from agenttuning.environments.webshop.generator import generated_catalogue
from agenttuning.environments.webshop.plan import make_plan
from agenttuning.environments.webshop.queries import candidates, read
from agenttuning.environments.webshop.records import NO_LIMIT, Goal


def played(environment, task, seed):
    """Play a task by its expert, whose thoughts must follow from what was shown; return moves, steps and reward."""
    goal = Goal.model_validate(task.payload["goal"])
    shown = environment.reset(task)
    expert = environment.expert(task, random.Random(seed))
    move, log = next(expert), []
    for _ in range(environment.max_steps):
        check_thought(move.thought, shown, goal)
        assert environment.parse(environment.format(move.thought, move.action)).action == move.action
        step = environment.step(move.action)
        log.append((move, step))
        shown += f"\n{move.action.arguments}\n{step.observation}"
        if step.done:
            break
        move = expert.send(step)
    return log, environment.grade(task, environment.close()).reward


def check_thought(thought, shown, goal):
    said, shown = thought.lower(), shown.lower()
    assert all(number in shown for number in re.findall(r"\bb[rehn0-9][0-9a-z]{8}\b", said)), thought
    assert all(price in shown for price in re.findall(r"\$\d+(?:\.\d+)?", said)), thought
    assert all(limit in shown for limit in re.findall(r"(\d+) dollars", said)), thought
    for phrase in (*goal.attributes, *goal.options, goal.query):
        assert phrase.lower() not in said or phrase.lower() in shown, thought


@pytest.mark.parametrize("split", ["train", "test", "shifted"])
def test_it_gets_the_full_reward(split):
    with WebShop() as environment:
        rewards = [played(environment, task, seed)[1] for seed, task in enumerate(environment.tasks(split, 60, 3))]
    assert sum(reward == 1.0 for reward in rewards) >= 0.95 * len(rewards)


def test_a_mistake_is_not_trained_and_is_mended():
    kinds = Counter()
    with WebShop(WebShopSettings(mistake_rate=1.0)) as environment:
        for seed, task in enumerate(environment.tasks("train", 40, 5)):
            log, reward = played(environment, task, seed)
            wrong = [number for number, (move, _) in enumerate(log) if not move.loss]
            assert len(wrong) <= 1
            assert reward == 1.0
            for number in wrong:
                (move, step), (after, _) = log[number], log[number + 1]
                assert after.loss
                assert after.action != move.action
                kinds["error" if step.error else after.action.arguments.get("label", "again")] += 1
            assert all(move.loss is False for move, step in log if step.error)
        plans = [plan_of(environment, task, seed) for seed, task in enumerate(environment.tasks("train", 80, 6))]
    assert {plan.mistake for plan in plans} >= {"vague", "product", "option", "click"}
    assert sum(kinds.values()) > 30
    assert kinds["error"] > 0
    assert kinds["back to search"] + kinds["< prev"] > 0


def plan_of(environment, task, seed, rate=1.0):
    catalogue = generated_catalogue(task.split)
    goal = Goal.model_validate(task.payload["goal"])
    return make_plan(catalogue, task.instruction, goal, random.Random(seed), rate, environment.max_steps)


def test_mistakes_come_in_the_share_asked_for():
    with WebShop() as environment:
        tasks = list(environment.tasks("train", 200, 1))
        some = sum(bool(plan_of(environment, task, seed, 0.25).mistake) for seed, task in enumerate(tasks))
        none = [plan_of(environment, task, seed, 0.0).mistake for seed, task in enumerate(tasks)]
    assert 30 <= some <= 70
    assert not any(none)


def test_it_pages_reads_sub_pages_and_chooses_options():
    with WebShop() as environment:
        labels, thoughts, openings = Counter(), set(), set()
        for seed, task in enumerate(environment.tasks("train", 120, 2)):
            log, _ = played(environment, task, seed)
            labels.update(move.action.arguments.get("label") for move, _ in log)
            thoughts.update(move.thought for move, _ in log)
            openings.add(log[0][0].thought)
            assert len(log) <= environment.max_steps
    assert labels["next >"] > 3
    assert labels["features"] > 10
    assert labels["description"] > 3
    assert len(openings) > 60
    assert len(thoughts) > 450


def test_the_same_seed_plays_the_same_way_and_another_differs():
    with WebShop() as environment:
        tasks = list(environment.tasks("train", 12, 4))
        first = [[move for move, _ in played(environment, task, 1)[0]] for task in tasks]
        assert first == [[move for move, _ in played(environment, task, 1)[0]] for task in tasks]
        assert first != [[move for move, _ in played(environment, task, 2)[0]] for task in tasks]


def test_queries_are_made_of_the_instructions_words():
    goal = Goal(
        asin="B1", name="x", query="hair mask", product_category="", attributes=("hair treatment",), price_upper=40.0
    )
    text = "i need a 120 ml hair treatment and the price lower than 40.00 dollars"
    wanted = read(text, goal)
    assert (wanted.kind, wanted.attributes, wanted.limit) == (None, ("hair treatment",), 40.0)
    assert wanted.words == ("120", "ml", "hair", "treatment")
    assert all(set(query.split()) <= set(text.split()) for query in candidates(wanted, random.Random(0)))
    assert read("buy it", goal.model_copy(update={"price_upper": NO_LIMIT})).words == ("buy", "it")
