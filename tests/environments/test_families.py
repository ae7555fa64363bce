import pytest

from agenttuning.environments.base import make_environment
from agenttuning.environments.families import chosen_families
from agenttuning.errors import ConfigurationError

SOME = {
    "os": ("read_key", "run_script"),
    "db": ("lookup", "join"),
    "alfworld": ("pick_and_place_simple", "pick_heat_then_place_in_recep"),
    "webshop": ("home", "grocery"),
}


@pytest.mark.parametrize("name", SOME)
@pytest.mark.parametrize("split", ["train", "test"])
def test_tasks_come_from_the_named_families_in_equal_shares(name, split):
    with make_environment(name, {"families": SOME[name]}) as environment:
        drawn = [task.family for task in environment.tasks(split, 6, 1)]
    assert {family: drawn.count(family) for family in drawn} == dict.fromkeys(SOME[name], 3)


@pytest.mark.parametrize("name", SOME)
def test_unnamed_they_come_from_all(name):
    with make_environment(name) as environment:
        assert len({task.family for task in environment.tasks("train", 28, 1)}) > 4


@pytest.mark.parametrize("name", SOME)
def test_an_unknown_family_is_refused_with_the_nearest(name):
    right = SOME[name][0]
    message = f"environments.{name}.settings.families.*did you mean '{right}'"
    environment = make_environment(name, {"families": [f"{right}s"]})
    with environment, pytest.raises(ConfigurationError, match=message):
        next(iter(environment.tasks("train", 1, 1)))


def test_no_family_is_refused():
    with pytest.raises(ConfigurationError, match="no family is named"):
        chosen_families("os", ["a", "b"], [])
