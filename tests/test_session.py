"""What a run's directory keeps where something goes wrong: the first driver's recipe, and the first error."""

from pathlib import Path

import pytest

from agenttuning.errors import ConfigurationError, StorageError
from agenttuning.recipe import Recipe, Run
from agenttuning.session import Session
from agenttuning.storage import Store, lease
from agenttuning.storage.lease import Fenced, Lease
from agenttuning.storage.manifest import finish_stage


def recipe(root: Path, seed: int = 0) -> Recipe:
    return Recipe(run=Run(root=str(root), name="one", seed=seed))


def test_a_second_driver_is_refused_and_leaves_the_recipe_of_the_first(tmp_path: Path) -> None:
    with Session(recipe(tmp_path), "train") as first:
        before = first.store.read("recipe.yaml")
        refused = pytest.raises(ConfigurationError, match=r"another driver is at work here: one: train, by .*, process")
        with refused, Session(recipe(tmp_path, seed=1)):
            pass
        assert first.store.read("recipe.yaml") == before
    with Session(recipe(tmp_path, seed=1)) as later:
        assert later.store.read("recipe.yaml") != before


def test_a_recipe_is_written_though_a_driver_elsewhere_died_while_it_played(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "BEAT_SECONDS", 0.1)
    monkeypatch.setattr(lease, "SILENCE_SECONDS", 0.5)
    with Session(recipe(tmp_path)) as first:
        held = [Lease(first.store.child("trajectories"), "playing"), first._lease]
    record = first.store.read_json("lease/held-000001.json")
    first.store.write_json("lease/held-000001.json", {**record, "state": "held"})
    for dying in held:
        assert dying is not None
        dying._over.set()
        dying._thread.join()
    monkeypatch.setattr(lease, "_machine", lambda: "another machine")
    with Session(recipe(tmp_path, seed=1)) as later:
        assert b"seed: 1" in later.store.read("recipe.yaml")


def test_who_only_reports_is_not_refused_and_leaves_recipe_and_times(tmp_path: Path) -> None:
    with Session(recipe(tmp_path)) as first:
        before = first.store.read("recipe.yaml")
        with Session(recipe(tmp_path, seed=1), None) as second, second.timed("report"):
            pass
        assert first.store.read("recipe.yaml") == before
        assert first.timings() == {}


def test_a_driver_that_was_taken_over_begins_no_other_stage(tmp_path: Path) -> None:
    with Session(recipe(tmp_path)) as session:
        assert session._lease is not None
        with session.alone("rescoring"):
            session._lease.check()
        with session.timed("curate"):
            pass
        session._lease._lost = Fenced("taken over")
        with pytest.raises(Fenced, match="taken over"), session.timed("mix"):
            raise AssertionError("it began")
    assert set(session.timings()["seconds"]) == {"curate"}


def test_what_went_wrong_first_is_what_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Session(recipe(tmp_path)) as session:

        def full(*_: object) -> None:
            raise StorageError("timings.json: no space left")

        with monkeypatch.context() as patch:
            patch.setattr(session.store, "write_json", full)
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
