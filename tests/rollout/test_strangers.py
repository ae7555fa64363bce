"""A stranger's environment that breaks its contract costs one episode: not its neighbours, not the run."""

import asyncio
import importlib

import pytest
from fake_endpoint import fake_endpoint
from strange_environments import STRANGE, Strange, install_strangers
from toy_environments import toy_task

from agenttuning.environments.base import Grade
from agenttuning.recipe import EnvironmentSpec, PolicySpec, Recipe, Rollout
from agenttuning.rollout.rescore import rescore
from agenttuning.rollout.worker import EpisodeWorker, RolloutPlan
from agenttuning.storage import Store
from agenttuning.storage.index import read_index
from agenttuning.storage.segments import read_trajectories
from agenttuning.trajectory import Trajectory

ISOLATIONS = pytest.mark.parametrize("name", ["strange", "strange-process"])
BY_EXPERT = ("expert", "format")


@pytest.fixture
def strangers(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(install_strangers(tmp_path)))
    importlib.invalidate_caches()


@pytest.fixture
def store(tmp_path):
    return Store(str(tmp_path / "trajectories"))


def work(tasks, store, policy=None):
    policy = policy or PolicySpec()
    environments = {task.environment: EnvironmentSpec(demonstration=True) for task in tasks}
    recipe = Recipe(environments=environments, rollout=Rollout(commit_seconds=0.05))

    async def main():
        worker = EpisodeWorker(RolloutPlan(recipe, policy, store))
        try:
            return await asyncio.wait_for(asyncio.gather(*(worker.play(task, 0) for task in tasks)), 60)
        finally:
            await worker.aclose()

    return asyncio.run(main())


def answered(tasks, store, replies=("Act: add(5)", "Act: finish")):
    def script(body, number):
        return replies[sum(m["role"] == "assistant" for m in body["messages"]) - 2]

    with fake_endpoint(script) as fake:
        return work(tasks, store, PolicySpec(kind="endpoint", base_url=fake.base_url, model="toy-model"))


def strange(*methods):
    return [f"{method}: {what}" for method in methods for what in STRANGE[method]]


@ISOLATIONS
def test_what_breaks_the_contract_is_the_outcome_of_its_own_episode(name, strangers, store):
    ways = strange(*(method for method in STRANGE if method not in BY_EXPERT))
    tasks = [toy_task(5, i, environment=name, strange=way) for i, way in enumerate(ways)]
    tasks += [toy_task(5, 100 + i, environment=name) for i in range(3)]
    reports = answered(tasks, store)
    assert [r.failure for r in reports] == [""] * len(tasks)
    assert [r.outcome for r in reports] == ["environment_failure"] * len(ways) + ["completed"] * 3
    assert read_index(store).column("reward").to_pylist().count(1.0) == 3
    stored = {t.task.payload.get("strange"): t for t in read_trajectories(store)}
    assert all(stored[way].diagnostics["last_error"] for way in ways)
    assert all("cache" not in t.task.payload and "cache" not in t.evidence for t in stored.values())
    said = {way: stored[way].diagnostics["last_error"].partition(" (at ")[0] for way in ways}
    assert said["step: tuple"] == (
        "play: `step` must return a Step (got tuple: ('the number is 5', False)); return Step(observation, done)"
    )
    assert said["reset: none"] == "open: the first observation must be a text (got NoneType: None); return a str"
    assert said["grade: nan"].startswith("grade: the reward of a Grade must lie within 0 and 1 (got float: nan)")
    assert said["step: exit"] == "play: SystemExit: 3"
    assert said["step: undecodable error"] == "play: ValueError: a\ufffd"
    assert said["step: unspeakable"] == "play: Unspeakable: its own text raised IndexError"


@ISOLATIONS
def test_an_expert_that_breaks_the_contract_is_the_policys_failure(name, strangers, store):
    ways = strange(*BY_EXPERT)
    tasks = [toy_task(5, i, environment=name, strange=way) for i, way in enumerate(ways)]
    reports = work([*tasks, toy_task(5, 100, environment=name)], store)
    assert [(r.outcome, r.failure) for r in reports] == [("policy_failure", "")] * len(ways) + [("completed", "")]


@ISOLATIONS
def test_undecodable_texts_are_replaced_and_rounding_is_forgiven(name, strangers, store):
    (report,) = answered([toy_task(5, environment=name)], store, ("?", "Act: bytes"))
    assert (report.outcome, report.reward) == ("completed", 1.0)
    (stored,) = read_trajectories(store)
    assert [t.content for t in stored.turns if t.role == "user"][-1] == "what is \ufffd?"
    assert stored.diagnostics["notes"][0]["seen"] == "\ufffd"
    assert (stored.evidence["seen"], stored.evidence["7"], stored.score) == ("\ufffd", "seven", 0.0)
    assert Trajectory.model_validate_json(stored.model_dump_json()) == stored


@ISOLATIONS
def test_an_error_of_the_vocabulary_keeps_its_meaning_whatever_its_class(name, strangers, store):
    (report,) = answered([toy_task(5, environment=name)], store, ("Act: world",))
    assert (report.failure, report.fatal, report.outcome) == ("host: the world is broken (7)", "", "")


def test_what_a_grader_could_not_grade_is_graded_by_a_mended_one(strangers, store, monkeypatch):
    answered([toy_task(5, i, environment="strange", strange="grade: raises") for i in range(2)], store)
    assert {t.outcome for t in read_trajectories(store)} == {"environment_failure"}
    monkeypatch.setattr(Strange, "grade", staticmethod(lambda task, evidence: Grade(1.0, 0.5)))
    rescore(store, {"strange": 1.0})
    for stored in read_trajectories(store):
        assert (stored.outcome, stored.reward, stored.score) == ("completed", 1.0, 0.5)
        assert "ungraded" not in stored.diagnostics
