import pickle
import threading

import pytest

from agenttuning.environments.webshop import WebShop, WebShopSettings
from agenttuning.environments.webshop.demonstration import INSTRUCTION, PLAYED, PRODUCTS, goal
from agenttuning.environments.webshop.generator import generated_catalogue
from agenttuning.environments.webshop.grading import reward
from agenttuning.environments.webshop.records import Goal
from agenttuning.errors import ConfigurationError, InfrastructureError
from agenttuning.trajectory import Action


@pytest.fixture
def environment():
    with WebShop() as environment:
        yield environment


def first(environment, split="train", seed=0):
    return next(environment.tasks(split, 1, seed))


def act(environment, text):
    return environment.step(environment.parse(f"Action:\n{text}").action)


def buy(environment, task, choose=True):
    """Buy the goal's product by the state machine; return the last step."""
    wanted = Goal.model_validate(task.payload["goal"])
    act(environment, f"search[{generated_catalogue(task.split)[wanted.asin].name}]")
    act(environment, f"click[{wanted.asin.lower()}]")
    for value in wanted.options if choose else ():
        assert not act(environment, f"click[{value}]").error
    return act(environment, "click[Buy Now]")


def test_it_is_built_from_picklable_arguments():
    settings = pickle.loads(pickle.dumps(WebShopSettings(mistake_rate=0.0)))
    with WebShop(settings, None) as environment:
        task = pickle.loads(pickle.dumps(first(environment)))
        assert environment.reset(task).count(task.instruction) == 1
        assert environment.description(task).count("Action:") == 1


def test_the_right_purchase_has_the_full_reward_and_ends_the_episode(environment):
    for seed in range(10):
        task = first(environment, seed=seed)
        environment.reset(task)
        assert buy(environment, task).done
        evidence = environment.close()
        assert evidence == environment.close()
        assert WebShop.grade(task, evidence).reward == 1.0
        assert WebShop.grade(task, {**evidence, "bought": None}).reward == 0.0


def test_options_that_were_not_chosen_are_missing_from_the_reward(environment):
    task = next(task for task in environment.tasks("train", 20, 1) if len(task.payload["goal"]["options"]) == 2)
    environment.reset(task)
    buy(environment, task, choose=False)
    whole = len(task.payload["goal"]["attributes"]) + 3
    assert WebShop.grade(task, environment.close()).reward == pytest.approx((whole - 2) / whole)


def test_doing_nothing_and_not_buying_are_worth_nothing(environment):
    task = first(environment)
    environment.reset(task)
    assert environment.grade(task, environment.close()).reward == 0.0
    environment.reset(task)
    act(environment, "search[desk lamp]")
    evidence = environment.close()
    assert evidence == {"bought": None, "options": {}, "actions": 1}
    assert environment.grade(task, evidence).reward == 0.0


def test_what_the_page_does_not_offer_changes_nothing_and_says_why(environment):
    task = first(environment)
    environment.reset(task)
    for action, message in (
        ("click[buy now]", "nothing labelled 'buy now'"),
        ("click[search]", r"search[keywords]"),
    ):
        step = act(environment, action)
        assert step.error
        assert not step.done
        assert message in step.observation
    shown = act(environment, "search[desk lamp]").observation
    step = act(environment, "search[again]")
    assert step.error
    assert "no search box" in step.observation
    assert step.observation.endswith(shown.split("\n\n")[-1])
    step = act(environment, "click[next]")
    assert step.error
    assert "did you mean click[next >]?" in step.observation
    assert not act(environment, "click[Next >]").error
    assert environment.step(Action(name="fly")).error


def test_nothing_of_an_episode_is_seen_in_the_next(environment):
    tasks = list(environment.tasks("train", 2, 3))
    opening = environment.reset(tasks[1])
    environment.reset(tasks[0])
    buy(environment, tasks[0])
    assert environment.reset(tasks[1]) == opening
    assert environment.close() == {"bought": None, "options": {}, "actions": 0}


def test_instances_share_the_catalogue_and_not_the_episode():
    with WebShop() as one, WebShop() as two:
        task, other = one.tasks("train", 2, 0)
        one.reset(task)
        two.reset(other)
        assert generated_catalogue("train") is generated_catalogue("train")
        act(one, "search[tea]")
        assert buy(two, other).done
        assert two.close()["bought"] is not None
        assert one.close() == {"bought": None, "options": {}, "actions": 1}


def test_several_threads_play_at_once():
    rewards = []

    def play(seed):
        with WebShop() as environment:
            for task in environment.tasks("train", 10, seed):
                environment.reset(task)
                buy(environment, task)
                rewards.append(environment.grade(task, environment.close()).reward)

    threads = [threading.Thread(target=play, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert rewards == [1.0] * 60


def test_the_demonstration_is_a_real_purchase(environment):
    turns = environment.demonstration()
    assert [turn.role for turn in turns] == ["user", "assistant"] * len(PLAYED)
    assert all(turn.loss is False for turn in turns if turn.role == "assistant")
    assert INSTRUCTION in turns[0].content
    for turn in turns[1::2]:
        assert environment.parse(turn.content).action == turn.action
    for before, (thought, _) in zip(turns[::2], PLAYED, strict=True):
        assert all(f"B00000000{n}" not in thought or f"B00000000{n}" in before.content for n in (1, 2, 3))
    assert reward(goal(), PRODUCTS[1].evidence(), {"color": "plum"}) == 1.0
    sold = {product.asin for split in ("train", "test", "shifted") for product in generated_catalogue(split).products}
    assert not sold & {product.asin for product in PRODUCTS}


def test_a_malformed_reply_costs_what_the_settings_say():
    assert WebShop().on_malformed == WebShop.on_malformed == "end"
    assert WebShop(WebShopSettings(on_malformed="correct")).on_malformed == "correct"
    assert WebShop.on_malformed == "end"


def test_the_attributes_page_is_shown_where_the_settings_say_so():
    with WebShop(WebShopSettings(show_attributes=True)) as environment:
        environment.reset(first(environment))
        wanted = Goal.model_validate(first(environment).payload["goal"])
        act(environment, f"search[{generated_catalogue('train')[wanted.asin].name}]")
        act(environment, f"click[{wanted.asin}]")
        assert wanted.attributes[0] in act(environment, "click[attributes]").observation


def test_misuse_is_refused_with_the_cure(environment):
    with pytest.raises(InfrastructureError, match="before reset"):
        environment.step(Action(name="click", arguments={"label": "x"}))
    with pytest.raises(ConfigurationError, match=r"call reset before"):
        environment.expert(first(environment), None)
    with pytest.raises(ConfigurationError, match=r"needs data\.root"):
        list(WebShop(WebShopSettings(source="official")).tasks("train", 1, 0))
