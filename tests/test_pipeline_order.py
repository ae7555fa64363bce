from pathlib import Path

import pytest

from agenttuning import stages
from agenttuning.errors import ConfigurationError, DataError
from agenttuning.pipeline import run
from agenttuning.recipe import validate_recipe
from agenttuning.session import Session


def test_a_whole_run_refuses_a_missing_model_before_it_plays(tmp_path: Path) -> None:
    recipe = validate_recipe(
        {
            "run": {"name": "r", "root": str(tmp_path / "runs")},
            "environments": {"db": {}},
            "model": {"path": str(tmp_path / "nowhere")},
        }
    )
    with pytest.raises(ConfigurationError, match=r"model\.path"):
        run(recipe)
    assert not (tmp_path / "runs/r/trajectories").exists()


def test_a_torn_file_is_refused_before_anything_is_begun_so_that_its_path_can_be_mended(tmp_path: Path) -> None:
    torn = tmp_path / "torn.jsonl"
    torn.write_text('{"id": "a", "conversations": [{"from": "human", "val')
    recipe = validate_recipe(
        {
            "run": {"name": "r", "root": str(tmp_path / "runs")},
            "environments": {"db": {}},
            "mixture": {"sources": {"general": {"kind": "sharegpt", "path": str(torn), "weight": 1.0}}},
        }
    )
    for begin in (lambda: run(recipe), lambda: run(recipe, only=("mix",))):
        with pytest.raises(DataError, match=r"torn\.jsonl"):
            begin()
    with Session(recipe) as session, pytest.raises(DataError, match=r"torn\.jsonl"):
        stages.check_mixture(session)
    assert not (tmp_path / "runs/r/trajectories").exists()
    assert not (tmp_path / "runs/r/mixture/manifest.json").exists()
