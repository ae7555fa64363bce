"""What a run's directory keeps where something goes wrong: the first driver's recipe, and the first error."""

from pathlib import Path

import pytest

from agenttuning.errors import StorageError
from agenttuning.recipe import Recipe, Run
from agenttuning.session import Session
from agenttuning.storage import Store
from agenttuning.storage.lease import Lease
from agenttuning.storage.manifest import finish_stage


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


def test_a_second_driver_leaves_the_times_of_the_first(tmp_path: Path) -> None:
    with Session(recipe(tmp_path)) as first, Lease(first.store.child("trajectories"), "playing"):
        with Session(recipe(tmp_path)) as second, pytest.raises(ValueError, match="refused"), second.timed("generate"):
            raise ValueError("refused")
        assert first.timings() == {}


def test_what_is_fetched_of_two_stores_and_of_two_exports_lies_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agenttuning.session.cache_directory", lambda: tmp_path / "cache")

    def tuned(where: str, file: str, info: dict[str, int]) -> list[str]:
        run = Store(str(tmp_path / where / "one"))
        for old in run.list("model/"):
            run.delete(old)
        run.write(f"model/{file}", b"weights")
        finish_stage(run.child("export"), "export", {}, info)
        session = Session(Recipe(run=Run(root=f"file://{tmp_path}/{where}", name="one")))
        scratches.add(session.scratch("tracking"))
        return sorted(path.name for path in session.tuned_dir().iterdir())

    scratches: set[Path] = set()
    assert tuned("a", "model.safetensors.index.json", {"files": 2}) == ["model.safetensors.index.json"]
    assert tuned("b", "model.safetensors", {"files": 2}) == ["model.safetensors"]
    assert tuned("a", "model.safetensors", {"files": 1}) == ["model.safetensors"]
    assert len(scratches) == 2
