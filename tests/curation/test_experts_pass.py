"""What the environments' experts say passes the rules about thoughts: a rule that objects to them costs every run."""

import asyncio

import pytest

from agenttuning.curation.thoughts import hindsight, misalignment
from agenttuning.environments.base import environment_class, make_environment
from agenttuning.recipe import validate_recipe
from agenttuning.rollout.episode import Attempt, Limits, play_episode
from agenttuning.rollout.expert import expert_act
from agenttuning.rollout.isolation import SeatPool

TASKS = 8


async def played(name: str):
    with make_environment(name) as environment:
        tasks = list(environment.tasks("train", TASKS, 3))
    pool = SeatPool(environment_class(name), {}, None, step_timeout_s=30.0)
    found = []
    for number, task in enumerate(tasks):
        seat = pool.take()
        try:
            attempt = Attempt("expert", {}, number=0, seed=number)
            limits = Limits(max_malformed=3, max_repeats=3)
            found.append(await play_episode(seat, task, expert_act(seat, number), limits, attempt, demonstration=False))
        finally:
            pool.give_back(seat)
    await asyncio.to_thread(pool.close)
    return found


@pytest.mark.parametrize("name", ["alfworld", "db", "kg", "mind2web", "os", "webshop"])
def test_no_rule_about_thoughts_objects_to_an_expert(name):
    recipe = validate_recipe({"environments": {name: {}}})
    found = asyncio.run(played(name))
    assert len(found) == TASKS
    objections = [o.reason for t in found for rule in (hindsight, misalignment) if (o := rule(t, recipe)) is not None]
    assert objections == []
