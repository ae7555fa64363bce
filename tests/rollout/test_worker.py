import asyncio
import re
import time
from collections import Counter

import pytest
from fake_endpoint import HANG, Fault, fake_endpoint
from toy_environments import ToySettings, toy_task

from agenttuning.errors import ConfigurationError
from agenttuning.recipe import EnvironmentSpec, PolicySpec, Recipe, Rollout
from agenttuning.rollout.expert import environment_settings, identity
from agenttuning.rollout.worker import TRIES_HERE, EpisodeWorker, RolloutPlan, check_environments, episode_seed
from agenttuning.storage import Store
from agenttuning.storage.lease import Lease
from agenttuning.storage.segments import read_trajectories, stored_ids
from agenttuning.trajectory import trajectory_id

NAMES = ("toy", "toy-process", "toy-strict")


def toy_recipe(marks, **rollout):
    settings = {"marks": str(marks)}
    limits = {"commit_seconds": 0.05, "step_timeout_s": 20.0, "episodes_in_flight": 8, **rollout}
    environments = {name: EnvironmentSpec(settings=settings) for name in NAMES}
    return Recipe(environments=environments, rollout=Rollout(**limits))


def endpoint_spec(fake, **more):
    settings = {"temperature": 0.0, "patience_s": 10.0, **more}
    return PolicySpec(kind="endpoint", base_url=fake.base_url, model="toy-model", **settings)


def work(tasks, recipe, policy, store, stored=frozenset(), failures=None, full=frozenset(), attempts=(0,), **plan):
    told = []

    async def main():
        worker = EpisodeWorker(RolloutPlan(recipe, policy, store, **plan), stored, told.append)
        worker.full = full
        try:
            return await asyncio.gather(*(worker.play(task, number) for task in tasks for number in attempts))
        finally:
            if failures is not None:
                failures.update(worker.failures)
            await worker.aclose()

    reports = asyncio.run(main())
    assert sorted(r.id for r in told) == sorted(r.id for r in reports)
    return reports


def solve(body, number):
    """Add what is missing, then finish: a policy that reads the transcript."""
    said = [m["content"] for m in body["messages"]]
    target = int(said[2].split()[1])
    now = int(re.findall(r"The number is (-?\d+)", " ".join(said))[-1])
    return "Think: done\nAct: finish" if now == target else f"Think: go\nAct: add({target - now})"


@pytest.fixture
def store(tmp_path):
    return Store(str(tmp_path / "trajectories"))


@pytest.mark.parametrize("name", ["toy", "toy-process"])
def test_experts_fill_the_store(name, toys, store):
    tasks = [toy_task(3 + i % 4, i, environment=name) for i in range(20)]
    reports = work(tasks, toy_recipe(toys), PolicySpec(mistake_rate=0.5), store)
    stored = list(read_trajectories(store))
    assert {t.id for t in stored} == {r.id for r in reports} == stored_ids(store)
    assert all((r.outcome, r.reward, r.failure) == ("completed", 1.0, "") for r in reports)
    assert {t.policy for t in stored} == {"expert"}
    assert stored[0].settings == {"mistake_rate": 0.5}
    assert 2 < sum(bool(t.diagnostics["error_steps"]) for t in stored) < 18
    assert all(t.seed == episode_seed(0, t.task, 0) for t in stored)


def test_an_endpoint_plays_many_episodes_at_once(toys, store):
    async def slowly(body, number):
        await asyncio.sleep(0.1)
        return solve(body, number)

    tasks = [toy_task(3 + i % 4, i) for i in range(16)]
    with fake_endpoint(slowly) as fake:
        reports = work(tasks, toy_recipe(toys), endpoint_spec(fake), store)
        assert 5 <= fake.most_in_flight <= 8
    assert [r.reward for r in reports] == [1.0] * 16
    assert all((r.prompt_tokens, r.completion_tokens, r.steps) == (22, 14, 2) for r in reports)
    assert {t.policy for t in read_trajectories(store)} == {"toy-model"}


def test_what_is_stored_is_not_played(toys, store):
    tasks = [toy_task(5, i) for i in range(3)]
    known = trajectory_id(tasks[0], *identity(PolicySpec()), 0)
    reports = work(tasks, toy_recipe(toys), PolicySpec(), store, stored=frozenset({known}))
    assert [r.outcome for r in reports] == ["", "completed", "completed"]
    assert stored_ids(store) == {r.id for r in reports[1:]}


def test_episodes_are_committed_together_and_soon(toys, store):
    recipe = toy_recipe(toys, commit_seconds=0.4)
    started = time.monotonic()
    work([toy_task(5, i) for i in range(8)], recipe, PolicySpec(), store)
    assert time.monotonic() - started < 3
    assert len(store.list(prefix="segments/")) == 1


def test_a_lost_environment_is_played_again_elsewhere(toys, store):
    recipe = toy_recipe(toys, step_timeout_s=1.0)
    with fake_endpoint(lambda body, n: "Act: hang_once" if len(body["messages"]) == 3 else solve(body, n)) as fake:
        (report,) = work([toy_task(5, environment="toy-process")], recipe, endpoint_spec(fake), store)
    assert (report.outcome, report.failure) == ("completed", "")
    (trajectory,) = read_trajectories(store)
    assert "lost" not in trajectory.diagnostics


def test_a_world_that_breaks_once_is_played_again(toys, store):
    with fake_endpoint(lambda body, n: "Act: world_once" if len(body["messages"]) == 3 else "Act: finish") as fake:
        (report,) = work([toy_task(5)], toy_recipe(toys), endpoint_spec(fake), store)
    assert report.outcome == "completed"


def test_a_process_that_always_dies_is_never_data_and_harms_no_other(toys, store):
    def script(body, n):
        return "Act: die" if "Reach 9" in body["messages"][2]["content"] else solve(body, n)

    tasks = [toy_task(9, 0, environment="toy-process"), *(toy_task(4, i, environment="toy-process") for i in range(6))]
    with fake_endpoint(script) as fake:
        failures = Counter()
        lost, *others = work(tasks, toy_recipe(toys), endpoint_spec(fake), store, failures=failures)
    assert [r.outcome for r in others] == ["completed"] * 6
    assert ("its process died" in lost.failure, lost.outcome, lost.fatal) == (True, "", "")
    assert stored_ids(store) == {r.id for r in others}
    assert failures == {("toy-process", "environment lost"): TRIES_HERE}


def test_an_episode_that_the_world_fails_is_given_back_and_not_stored(toys, store):
    tasks = [toy_task(9), toy_task(4)]

    def script(body, n):
        return "Act: world" if "Reach 9" in body["messages"][2]["content"] else solve(body, n)

    with fake_endpoint(script) as fake:
        bad, good = work(tasks, toy_recipe(toys), endpoint_spec(fake), store)
    assert ("the world is broken" in bad.failure, bad.fatal, bad.outcome) == (True, "", "")
    assert stored_ids(store) == {good.id}


def test_an_episode_has_a_time_limit(toys, store):
    with fake_endpoint(lambda body, n: HANG) as fake:
        recipe = toy_recipe(toys, episode_timeout_s=0.4)
        (report,) = work([toy_task()], recipe, endpoint_spec(fake), store)
    assert "rollout.episode_timeout_s=0.4" in report.failure
    assert not stored_ids(store)


def test_failures_are_told_apart_where_they_are_seen(toys, store):
    failures = Counter()
    with fake_endpoint(lambda body, n: "Act: world") as fake:
        work([toy_task()], toy_recipe(toys), endpoint_spec(fake), store, failures=failures)
    with fake_endpoint(lambda body, n: Fault(503, "down")) as fake:
        work([toy_task()], toy_recipe(toys), endpoint_spec(fake, patience_s=0.1), store, failures=failures)
    with fake_endpoint(lambda body, n: "Act: hang") as fake:
        recipe = toy_recipe(toys, episode_timeout_s=0.3)
        work([toy_task(environment="toy-process")], recipe, endpoint_spec(fake), store, failures=failures)
    assert failures == {
        ("toy", "environment's world"): 2,
        ("toy", "endpoint"): 1,
        ("toy-process", "episode time"): 2,
    }


def test_attempts_have_their_own_temperature_seed_and_identity(toys, store):
    with fake_endpoint(solve) as fake:
        policy = endpoint_spec(fake, temperature=0.5, send_seed=True)
        temperatures = (0.2, 0.9)
        reports = work([toy_task(4)], toy_recipe(toys), policy, store, attempts=(0, 1, 2), temperatures=temperatures)
        sent = [(r["temperature"], r["seed"]) for r in fake.requests if len(r["messages"]) == 3]
    assert len({r.id for r in reports}) == 3
    assert sorted(t for t, _ in sent) == [0.2, 0.2, 0.9]
    assert len({seed for _, seed in sent}) == 3
    kept = {t.attempt: t.settings["temperature"] for t in read_trajectories(store)}
    assert kept == {0: 0.2, 1: 0.9, 2: 0.2}


def test_what_a_quota_makes_unneeded_is_not_played(toys, store):
    tasks = [toy_task(4, 0), toy_task(4, 1, environment="toy-strict")]
    full, other = work(tasks, toy_recipe(toys), PolicySpec(), store, full=frozenset({"toy"}))
    assert (full.full, full.outcome, full.failure) == (True, "", "")
    assert other.outcome == "completed"
    assert stored_ids(store) == {other.id}


def test_a_fenced_worker_writes_nothing_and_stops(toys, store):
    old = Lease(store, "first")
    old.release()
    with Lease(store, "second") as lease:
        assert lease.epoch > old.epoch
        reports = work([toy_task(3, i) for i in range(4)], toy_recipe(toys), PolicySpec(), store, epoch=old.epoch)
        assert {r.fatal for r in reports} == {"Fenced"}
        assert store.list(prefix="segments/") == []
        work([toy_task(3, 9)], toy_recipe(toys), PolicySpec(), store, epoch=lease.epoch)
    assert len(stored_ids(store)) == 1


def test_a_refused_key_stops_all_and_keeps_what_is_stored(toys, store):
    def script(body, n):
        return Fault(401, "bad key") if n > 20 else solve(body, n)

    tasks = [toy_task(3, i) for i in range(60)]
    with fake_endpoint(script) as fake:
        reports = work(tasks, toy_recipe(toys, commit_seconds=0.02), endpoint_spec(fake), store)
        assert len(fake.requests) < 60
    fatal = [r for r in reports if r.fatal]
    assert {r.fatal for r in fatal} == {"ConfigurationError"}
    assert all("OPENAI_API_KEY" in r.failure for r in fatal)
    good = {r.id for r in reports if r.outcome}
    assert good
    assert stored_ids(store) == good


def test_a_silent_endpoint_stops_all(toys, store):
    recipe = toy_recipe(toys, episodes_in_flight=2)
    with fake_endpoint(lambda body, n: Fault(503, "down")) as fake:
        reports = work([toy_task(3, i) for i in range(12)], recipe, endpoint_spec(fake, patience_s=0.3), store)
        assert len(fake.requests) < 12
    assert {r.fatal for r in reports} == {"PolicyLost"}
    assert all("patience_s=0.3" in r.failure for r in reports)


def test_a_store_that_cannot_be_written_stops_all(toys, tmp_path):
    (tmp_path / "file").write_text("in the way")
    reports = work([toy_task(3, i) for i in range(4)], toy_recipe(toys), PolicySpec(), Store(str(tmp_path / "file")))
    assert {r.fatal for r in reports} == {"StorageError"}


def test_an_environment_that_cannot_start_stops_all(toys, store):
    recipe = toy_recipe(toys)
    broken = recipe.model_copy(update={"environments": {"toy": EnvironmentSpec(settings={"broken": True})}})
    reports = work([toy_task(3, i) for i in range(3)], broken, PolicySpec(), store)
    assert {r.fatal for r in reports} == {"ConfigurationError"}
    with pytest.raises(ConfigurationError, match="the abacus is missing"):
        check_environments(broken, {"toy"}, PolicySpec())


def test_environments_are_checked_before_anything_is_played(toys):
    recipe = toy_recipe(toys)
    check_environments(recipe, {"toy"}, PolicySpec())
    with pytest.raises(ConfigurationError, match=r"add environments\.mars"):
        check_environments(recipe, {"mars"}, PolicySpec())
    wrong = recipe.model_copy(update={"environments": {"toy": EnvironmentSpec(settings={"mistakes": 1})}})
    with pytest.raises(ConfigurationError, match=r"environments\.toy\.settings\.mistakes"):
        check_environments(wrong, {"toy"}, PolicySpec())


def test_the_mistake_rate_reaches_environments_that_have_one():
    class Without:
        Settings = type("Bare", (), {"model_fields": {}})

    class With:
        Settings = ToySettings

    spec = PolicySpec(mistake_rate=0.3)
    assert environment_settings(With, {}, spec) == {"mistake_rate": 0.3}
    assert environment_settings(With, {"mistake_rate": 0.9}, spec) == {"mistake_rate": 0.9}
    assert environment_settings(Without, {"a": 1}, spec) == {"a": 1}
    endpoint = PolicySpec(kind="endpoint", base_url="http://x/v1", model="m")
    assert environment_settings(With, {}, endpoint) == {}


def test_the_identity_of_a_policy_has_no_url_and_no_key():
    spec = PolicySpec(kind="endpoint", base_url="http://127.0.0.1:1234/v1", model="m", temperature=0.1)
    assert identity(spec) == ("m", {"model": "m", "temperature": 0.1, "top_p": 1.0, "max_tokens": 512})
    assert identity(PolicySpec(mistake_rate=0.2)) == ("expert", {"mistake_rate": 0.2})


def test_seeds_differ_by_run_task_and_attempt():
    task, other = toy_task(1, 0), toy_task(1, 1)
    seeds = {episode_seed(0, task, 0), episode_seed(1, task, 0), episode_seed(0, other, 0), episode_seed(0, task, 1)}
    assert len(seeds) == 4
    assert all(0 <= s < 2**31 for s in seeds)
