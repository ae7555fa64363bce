"""What a run's directory keeps where something goes wrong: the first driver's recipe, and the first error."""

from pathlib import Path

import pytest

from agenttuning.errors import StorageError
from agenttuning.recipe import Recipe, Run
from agenttuning.session import Session
from agenttuning.storage.lease import Lease


def recipe(root: Path, seed: int = 0) -> Recipe:
    return Recipe(run=Run(root=str(root), name="one", seed=seed))


def test_a_second_driver_leaves_the_recipe_of_the_first(tmp_path: Path) -> None:
    with Session(recipe(tmp_path)) as first, Lease(first.store.child("trajectories"), "playing"):
        before = first.store.read("recipe.yaml")
        with Session(recipe(tmp_path, seed=1)):
            assert first.store.read("recipe.yaml") == before
    with Session(recipe(tmp_path, seed=1)) as later:
        assert later.store.read("recipe.yaml") != before


def test_what_went_wrong_first_is_what_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Session(recipe(tmp_path)) as session:

        def full(*_: object) -> None:
            raise StorageError("timings.json: no space left")

        monkeypatch.setattr(session.store, "write_json", full)
        with pytest.raises(ValueError, match="the first"), session.timed("generate"):
            raise ValueError("the first")
        with pytest.raises(StorageError, match="no space left"), session.timed("generate"):
            pass


def test_the_time_of_a_stage_adds_up_over_calls(tmp_path: Path) -> None:
    with Session(recipe(tmp_path)) as session:
        for _ in range(2):
            with session.timed("curate"):
                pass
        assert set(session.timings()["seconds"]) == {"curate"}
