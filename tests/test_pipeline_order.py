from pathlib import Path

import pytest

from agenttuning.errors import ConfigurationError
from agenttuning.pipeline import run
from agenttuning.recipe import validate_recipe


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
