from pathlib import Path

import pytest

from agenttuning.errors import ConfigurationError
from agenttuning.recipe import Recipe, dump_recipe, load_recipe, validate_recipe

CONFIGS = sorted((Path(__file__).parents[1] / "configs").glob("*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.name)
def test_shipped_recipes_load_and_round_trip(path: Path) -> None:
    import yaml

    recipe = load_recipe(path)
    assert validate_recipe(yaml.safe_load(dump_recipe(recipe))) == recipe


def test_overrides_reach_nested_keys_and_keep_the_rest() -> None:
    recipe = load_recipe(None, ["training.learning_rate=2e-5", "environments.os.train_tasks=5", "run.name=x"])
    assert recipe.training.learning_rate == 2e-5
    assert recipe.environments["os"].train_tasks == 5
    assert set(recipe.environments) == set(Recipe().environments)
    assert recipe.run.name == "x"


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("trainng.steps=3", "did you mean 'training'"),
        ("training.learnin_rate=1e-4", "did you mean 'learning_rate'"),
        ("environments.os.trian_tasks=3", "did you mean 'train_tasks'"),
        ("mixture.sources.agent.wieght=1", "did you mean 'weight'"),
        ("training.steps=0", "greater than or equal to 1 (got 0)"),
        ("policy.kind=endpoint", "policy.base_url"),
        ("training.row_tokens=100", "an item must fit one row"),
        ("run.name=../x", "run.name"),
        ("nonsense", "section.key=value"),
        ("run.name.x=1", "is a value, not a section"),
    ],
)
def test_bad_values_name_the_rule_and_the_cure(override: str, words: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load_recipe(None, [override])
    assert words in str(caught.value)


def test_missing_and_torn_files(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="no such file"):
        load_recipe(tmp_path / "none.yaml")
    (tmp_path / "torn.yaml").write_text("run: {name: [")
    with pytest.raises(ConfigurationError, match="not readable as YAML"):
        load_recipe(tmp_path / "torn.yaml")
    (tmp_path / "list.yaml").write_text("- a\n")
    with pytest.raises(ConfigurationError, match="mapping of sections"):
        load_recipe(tmp_path / "list.yaml")


def test_one_number_of_tasks_for_all_environments() -> None:
    raw = {"environments": {"os": {"train_tasks": 3}, "db": None}, "rollout": {"tasks_per_environment": 7}}
    recipe = validate_recipe(raw)
    assert {name: spec.train_tasks for name, spec in recipe.environments.items()} == {"os": 7, "db": 7}
    assert validate_recipe(recipe.model_dump(mode="json")) == recipe


def test_an_environment_has_the_papers_threshold_unless_told() -> None:
    recipe = validate_recipe({"environments": {"mind2web": None, "os": {"train_tasks": 1}}})
    assert recipe.environments["mind2web"].reward_threshold == 2 / 3
    assert recipe.environments["os"].reward_threshold == 1.0
    told = validate_recipe({"environments": {"mind2web": {"reward_threshold": 1.0}}})
    assert told.environments["mind2web"].reward_threshold == 1.0


def test_one_number_of_tasks_counts_where_no_environment_is_named() -> None:
    recipe = validate_recipe({"rollout": {"tasks_per_environment": 7}})
    assert {name: spec.train_tasks for name, spec in recipe.environments.items()} == {"os": 7, "db": 7, "alfworld": 7}
