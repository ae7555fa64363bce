"""Stored episodes graded again, and played again."""

import asyncio

import pytest
from toy_environments import Toy, toy_task

from agenttuning.environments.base import Grade
from agenttuning.errors import ConfigurationError, DataError
from agenttuning.recipe import EnvironmentSpec, PolicySpec, Recipe, Rollout
from agenttuning.rollout.replay import replay
from agenttuning.rollout.rescore import rescore
from agenttuning.rollout.worker import EpisodeWorker, RolloutPlan
from agenttuning.storage import Store
from agenttuning.storage.index import read_index
from agenttuning.storage.lease import Lease
from agenttuning.storage.segments import commit_segment, read_trajectories, segment_names

THRESHOLDS = {"toy": 1.0, "toy-process": 1.0}


@pytest.fixture
def recipe(toys):
    environments = {name: EnvironmentSpec(settings={"marks": str(toys)}) for name in ("toy", "toy-process")}
    return Recipe(environments=environments, rollout=Rollout(commit_seconds=0.05))


@pytest.fixture
def store(tmp_path, recipe):
    """Twelve stored episodes in two segments."""
    store = Store(str(tmp_path / "trajectories"))

    async def play(tasks):
        worker = EpisodeWorker(RolloutPlan(recipe, PolicySpec(mistake_rate=0.3), store))
        await asyncio.gather(*(worker.play(task, 0) for task in tasks))
        await worker.aclose()

    for environment in ("toy", "toy-process"):
        asyncio.run(play([toy_task(3 + i % 4, i, environment=environment) for i in range(6)]))
    return store


def stricter(task, evidence):
    """A mended grader: even numbers only."""
    good = float(evidence["value"] == task.payload["target"] and evidence["value"] % 2 == 0)
    return Grade(reward=good, score=good / 2 if good else 0.0)


def test_a_mended_grader_costs_no_inference(store, monkeypatch):
    before = {t.id: t for t in read_trajectories(store)}
    files = {name: store.read(name) for name in segment_names(store)}
    assert rescore(store, THRESHOLDS).changes == []
    assert segment_names(store) == sorted(files)

    monkeypatch.setattr(Toy, "grade", staticmethod(stricter))
    monkeypatch.setattr(Toy, "version", "8")
    told = rescore(store, THRESHOLDS, write=False)
    assert {t.id: t for t in read_trajectories(store)} == before
    odd = [t for t in before.values() if t.evidence["value"] % 2]
    assert told.lost == {name: sum(t.task.environment == name for t in odd) for name in THRESHOLDS}
    assert (told.gained, told.graded) == ({}, {"toy": 6, "toy-process": 6})

    report = rescore(store, THRESHOLDS)
    assert report.changes == told.changes
    assert "toy: 6 graded again, 6 changed (0 now succeed, 3 no longer do)" in report.lines()
    after = {t.id: t for t in read_trajectories(store)}
    assert after.keys() == before.keys()
    for identifier, trajectory in after.items():
        assert trajectory.reward == float(trajectory.evidence["value"] % 2 == 0)
        assert trajectory.turns == before[identifier].turns
        assert trajectory.versions["grader"] == "8"
    assert dict(zip(*(read_index(store).column(c).to_pylist() for c in ("id", "reward")), strict=True)) == {
        i: t.reward for i, t in after.items()
    }
    assert all(store.read(name) == data for name, data in files.items())
    changes = store.read_table(store.list(prefix="rescored/", suffix=".parquet")[0]).to_pylist()
    assert {c["id"]: (c["old_reward"], c["old_version"], c["new_version"]) for c in changes} == {
        i: (1.0, "7", "8") for i in before
    }
    assert rescore(store, THRESHOLDS).changes == []


def test_an_interrupted_rescoring_changes_nothing(store, monkeypatch):
    before = {t.id: t.reward for t in read_trajectories(store)}
    monkeypatch.setattr(Toy, "grade", staticmethod(stricter))
    monkeypatch.setattr(Lease, "release_into", lambda self, begin: self.release())
    assert rescore(store, THRESHOLDS).changes
    assert {t.id: t.reward for t in read_trajectories(store)} == before


def test_clear_errors_of_rescoring(store, tmp_path, monkeypatch):
    with pytest.raises(DataError, match="no trajectories are stored here"):
        rescore(Store(str(tmp_path / "none")), THRESHOLDS)
    with (
        Lease(store, "playing"),
        pytest.raises(ConfigurationError, match="another driver is at work here: playing"),
    ):
        rescore(store, THRESHOLDS)
    monkeypatch.setattr(Toy, "grade", staticmethod(lambda task, evidence: evidence["gone"]))
    with pytest.raises(DataError, match=r"the grader of 'toy(-process)?' \(version 7\) cannot read its evidence"):
        rescore(store, THRESHOLDS)


def test_a_deterministic_environment_replays_as_stored(store, recipe):
    told = []
    replayed = replay(read_trajectories(store), recipe, on_done=told.append)
    assert [r.verdict for r in replayed] == ["same"] * 12
    assert len(told) == 12


def test_it_is_said_where_an_episode_goes_another_way(store, recipe, tmp_path):
    first, second, third, *_ = read_trajectories(store)
    turns = list(first.turns)
    turns[4] = turns[4].model_copy(update={"content": "The number is 77."})
    opening = list(second.turns)
    opening[2] = opening[2].model_copy(update={"content": "Reach the sky."})
    other = Store(str(tmp_path / "other"))
    changed = [
        first.model_copy(update={"turns": tuple(turns)}),
        second.model_copy(update={"turns": tuple(opening)}),
        third.model_copy(update={"reward": 0.0}),
    ]
    commit_segment(other, "w", 1, changed)
    one, two, three = replay(read_trajectories(other), recipe)
    assert (one.verdict, one.turn, one.stored) == ("diverged", 4, "The number is 77.")
    assert one.found != one.stored
    assert (two.verdict, two.turn) == ("diverged", 2)
    assert (three.verdict, three.stored, three.found) == (
        "graded otherwise", "reward 0, score 1", "reward 1, score 1",
    )  # fmt: skip


def test_an_environment_that_breaks_is_told_apart(store, recipe):
    first, *_ = read_trajectories(store)
    turns = list(first.turns)
    turns[3] = turns[3].model_copy(update={"content": "Act: raise"})
    (told,) = replay([first.model_copy(update={"turns": tuple(turns)})], recipe)
    assert told.verdict == "not played"
    assert "KeyError" in told.found


def test_an_environment_that_raised_is_not_used_again(store, recipe, toys):
    first, second, *_ = read_trajectories(store)
    turns = list(first.turns)
    turns[3] = turns[3].model_copy(update={"content": "Act: raise"})
    marks = {mark.name for mark in toys.iterdir()}
    told = replay([first.model_copy(update={"turns": tuple(turns)}), second], recipe, at_once=1)
    assert [r.verdict for r in told] == ["not played", "same"]
    new = [mark.name.partition("-")[0] for mark in toys.iterdir() if mark.name not in marks]
    assert sorted(new) == ["close", "close", "reset", "reset", "shutdown", "shutdown"]
