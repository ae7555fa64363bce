import asyncio
import importlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from fake_endpoint import Fault, completion, fake_endpoint
from toy_environments import install_toys, toy_task

from agenttuning.errors import BudgetExceeded, ConfigurationError, InfrastructureError
from agenttuning.recipe import EnvironmentSpec, PolicySpec, Recipe, Rollout
from agenttuning.rollout import job
from agenttuning.rollout.job import play_tasks
from agenttuning.storage import Store
from agenttuning.storage.index import read_index
from agenttuning.storage.lease import Fenced, Lease
from agenttuning.storage.segments import read_trajectories, stored_ids

HERE = Path(__file__).parent
USAGE = {"prompt_tokens": 100, "completion_tokens": 10}
COST = 110 * 1000 / 1e6


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The toy environments, installed for this process and for the workers that it starts."""
    path = install_toys(tmp_path_factory.mktemp("toys"))
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(path))
        patch.setenv("PYTHONPATH", os.pathsep.join([str(path), str(HERE), os.environ.get("PYTHONPATH", "")]))
        importlib.invalidate_caches()
        yield path


@pytest.fixture(scope="module")
def cluster(site):
    import ray

    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        object_store_memory=300 * 2**20,
        log_to_driver=False,
        logging_level="ERROR",
    )
    yield
    ray.shutdown()


@pytest.fixture
def marks(tmp_path):
    (tmp_path / "marks").mkdir()
    return tmp_path / "marks"


@pytest.fixture
def store(tmp_path):
    return Store(str(tmp_path / "trajectories"))


def job_recipe(marks, **rollout):
    settings = {"actors": (1, 1), "actor_cpus": 0.5, "commit_seconds": 0.2, "episodes_in_flight": 8, **rollout}
    environments = {n: EnvironmentSpec(settings={"marks": str(marks)}) for n in ("toy", "toy-process")}
    return Recipe(environments=environments, rollout=Rollout(**settings))


def endpoint(fake, **more):
    more = {"patience_s": 5.0, **more}
    return PolicySpec(kind="endpoint", base_url=fake.base_url, model="toy-model", temperature=0.0, **more)


def pids(marks, what="reset"):
    return {int(p.name.split("-")[1]) for p in marks.glob(f"{what}-*")}


def solver(seconds):
    async def slowly(body, number):
        await asyncio.sleep(seconds)
        said = " ".join(m["content"] for m in body["messages"])
        if "Reach" not in said:
            return "Hello."
        target, now = int(re.findall(r"Reach (\d+)", said)[-1]), int(re.findall(r"number is (-?\d+)", said)[-1])
        return "Act: finish" if now == target else f"Think: go\nAct: add({target - now})"

    return slowly


@pytest.mark.ray
def test_all_attempts_are_played_once_and_the_second_call_has_nothing_to_do(cluster, marks, store):
    tasks = [toy_task(3 + i % 4, i, environment=("toy", "toy-process")[i % 2]) for i in range(24)]
    recipe = job_recipe(marks, attempts=2)
    seen = []
    summary = play_tasks(tasks, recipe, PolicySpec(), store, on_progress=lambda *a: seen.append(a))
    assert (summary.total, summary.skipped, summary.played, summary.unfinished) == (48, 0, 48, 0)
    assert summary.outcomes == {"toy": {"completed": 24}, "toy-process": {"completed": 24}}
    assert summary.rewards == {"toy": 1.0, "toy-process": 1.0}
    assert summary.steps >= 96
    assert summary.as_dict()["total"] == 48
    assert seen[-1][:2] == (48, 48)
    assert all((t.total, t.done, t.played, t.reward, t.kept) == (24, 24, 24, 1.0, 24) for t in seen[-1][2].values())
    assert summary.pass_at == {n: {"1": 1.0, "2": 1.0} for n in ("toy", "toy-process")}
    assert store.read_json("progress.json")["environments"]["toy"]["success"] == 1.0
    stored = list(read_trajectories(store))
    assert len(stored) == 48
    assert {t.attempt for t in stored} == {0, 1}
    assert pids(marks).isdisjoint({os.getpid()})
    assert pids(marks, "shutdown") - {os.getpid()} == pids(marks)

    again = play_tasks(tasks, recipe, PolicySpec(), store, on_progress=lambda *a: seen.append(a))
    assert (again.skipped, again.played) == (48, 0)
    assert seen[-1][:2] == (48, 48)
    more = play_tasks([*tasks, toy_task(9, 99)], recipe, PolicySpec(), store)
    assert (more.skipped, more.played) == (48, 2)


@pytest.mark.ray
def test_episodes_wait_together_in_a_growing_pool(cluster, marks, store):
    tasks = [toy_task(3 + i % 4, i) for i in range(300)]
    slow, quick = solver(0.5), solver(0.02)
    with fake_endpoint(lambda body, n: (slow if len(pids(marks)) < 2 else quick)(body, n)) as fake:
        summary = play_tasks(tasks, job_recipe(marks, actors=(1, 2)), endpoint(fake), store)
        assert summary.played == 300
        assert 8 < fake.most_in_flight <= 16
    assert len(pids(marks)) == 2
    assert summary.prompt_tokens == 300 * 2 * 11


@pytest.mark.ray
def test_a_killed_actor_costs_only_what_was_in_flight(cluster, marks, store):
    tasks = [toy_task(3 + i % 4, i) for i in range(40)]
    killed = threading.Event()

    def kill_once(done, total, by_environment):
        if done >= 8 and not killed.is_set():
            killed.set()
            os.kill(max(pids(marks)), signal.SIGKILL)

    with fake_endpoint(solver(0.4)) as fake:
        summary = play_tasks(tasks, job_recipe(marks), endpoint(fake), store, on_progress=kill_once)
        assert len(fake.requests) < 2 * 40 + 2 * 8 + 10
    assert killed.is_set()
    assert len(pids(marks)) == 2
    assert len(stored_ids(store)) == 40
    assert summary.total == summary.skipped + summary.played == 40


@pytest.mark.ray
def test_a_refused_key_in_the_middle_stops_the_job_with_its_message(cluster, marks, store):
    answer = solver(0.05)
    tasks = [toy_task(4, i) for i in range(200)]
    with fake_endpoint(lambda body, n: Fault(401, "expired") if n > 60 else answer(body, n)) as fake:
        with pytest.raises(
            ConfigurationError, match=r"expired[\s\S]*OPENAI_API_KEY[\s\S]*Finished episodes are stored"
        ):
            play_tasks(tasks, job_recipe(marks), endpoint(fake), store)
        assert len(fake.requests) < 120
        time.sleep(1.0)
        still = len(fake.requests)
        time.sleep(1.0)
        assert len(fake.requests) == still
    kept = len(stored_ids(store))
    assert 5 < kept < 40
    with fake_endpoint(solver(0.0)) as fake:
        summary = play_tasks(tasks[:50], job_recipe(marks), endpoint(fake), store)
    assert (summary.skipped, summary.played) == (kept, 50 - kept)


@pytest.mark.ray
def test_a_busy_endpoint_is_waited_for_and_its_refusals_are_counted(cluster, marks, store):
    answer = solver(0.01)
    busy = Fault(429, "too many requests", {"Retry-After": "0.05"})
    tasks = [toy_task(4, i) for i in range(60)]
    with fake_endpoint(lambda body, n: busy if n % 5 == 4 else answer(body, n)) as fake:
        summary = play_tasks(tasks, job_recipe(marks), endpoint(fake, concurrency=4), store)
    assert (summary.played, summary.unfinished) == (60, 0)
    assert sum(summary.retried["all"].values()) >= 20


@pytest.mark.ray
def test_what_the_world_failed_is_counted_and_left_for_the_next_call(cluster, marks, store):
    answer = solver(0.0)

    def script(body, number):
        return "Act: world" if "Reach 9" in str(body["messages"]) else answer(body, number)

    tasks = [toy_task(9, 0), *(toy_task(4, i) for i in range(5))]
    with fake_endpoint(script) as fake:
        summary = play_tasks(tasks, job_recipe(marks, patience_s=0), endpoint(fake), store)
    assert (summary.played, summary.unfinished) == (5, 1)
    assert "the world is broken" in summary.failures[0]
    with fake_endpoint(solver(0.0)) as fake:
        assert play_tasks(tasks, job_recipe(marks), endpoint(fake), store).played == 1


@pytest.mark.ray
def test_an_endpoint_that_goes_away_stops_the_job(cluster, marks, store):
    tasks = [toy_task(4, i) for i in range(40)]
    over = pytest.raises(InfrastructureError, match=r"patience_s=1 is over[\s\S]*the same command continues")
    with fake_endpoint(lambda body, n: Fault(503, "down") if n > 1 else "Act: finish") as fake, over:
        play_tasks(tasks, job_recipe(marks), endpoint(fake, patience_s=1.0), store)


@pytest.mark.ray
def test_an_endpoint_that_dies_and_comes_back_costs_no_episode(cluster, marks, store):
    tasks = [toy_task(3 + i % 4, i) for i in range(60)]
    told = {}

    def play(policy):
        told["summary"] = play_tasks(tasks, job_recipe(marks), policy, store)

    with fake_endpoint(solver(0.2)) as fake:
        job = threading.Thread(target=play, args=(endpoint(fake, patience_s=60.0),))
        job.start()
        deadline = time.monotonic() + 60
        while len(stored_ids(store)) < 8 and time.monotonic() < deadline:
            time.sleep(0.1)
    time.sleep(5.0)
    kept = len(stored_ids(store))
    assert 8 <= kept <= 60 - 8, "it died too late to matter"
    port = int(fake.base_url.split(":")[-1].split("/")[0])
    with fake_endpoint(solver(0.0), port=port):
        job.join(timeout=90)
    summary = told["summary"]
    assert (summary.played, summary.unfinished) == (60, 0)
    assert sorted(t.id for t in read_trajectories(store)) == sorted(stored_ids(store))
    assert len(list(marks.glob("reset-*"))) == 60, "the episodes in flight waited, and none was played again"
    assert summary.retried["all"]["request: connection"] >= 8


@pytest.mark.ray
def test_the_money_ends_a_run_what_is_done_is_kept_and_more_money_continues(cluster, marks, store):
    answer = solver(0.02)

    async def told(body, number):
        return completion(await answer(body, number)) | {"usage": USAGE}

    tasks = [toy_task(3 + i % 4, i, environment="toy") for i in range(40)]
    recipe = job_recipe(marks)
    with fake_endpoint(lambda body, n: told(body, n)) as fake:
        prices = {"prompt": 1000.0, "completion": 1000.0}
        policy = endpoint(fake, max_tokens=10, prices=prices, budget={"money": 6.0})
        with pytest.raises(BudgetExceeded, match="money=6 is used up"):
            play_tasks(tasks, recipe, policy, store)
        first, done = len(fake.requests), read_index(store).num_rows
        progress = store.read_json("progress.json")
        spent = progress["spent"]
        assert progress["concurrency"] == 32, "what each actor begins with"
        assert 0 < done < 40
        assert 3.0 < spent <= 6.0
        assert spent == pytest.approx((first - 1) * COST), "all but the check are in the account"
        with pytest.raises(BudgetExceeded):
            play_tasks(tasks, recipe, policy, store)
        assert len(fake.requests) - first < 12, "what was spent before counts"
        more = policy.model_copy(update={"budget": policy.budget.model_copy(update={"money": 500.0})})
        summary = play_tasks(tasks, recipe, more, store)
        requests = len(fake.requests) - 3
    stored = list(read_trajectories(store))
    assert (summary.unfinished, len({t.id for t in stored}), len(stored)) == (0, 40, 40)
    for trajectory in stored:
        assert trajectory.diagnostics["cost"] == pytest.approx(len(trajectory.calls) * COST)
    assert summary.cost["toy"] == pytest.approx(sum(len(t.calls) for t in stored) * COST)
    assert summary.spent == pytest.approx(requests * COST), "episodes that were cut off have cost too"


@pytest.mark.ray
def test_the_note_of_the_money_is_this_drivers_alone(cluster, marks, store, monkeypatch):
    given, limits = [], job.shared_limits

    def shared_limits(spec, run, spending):
        given.append(spending)
        return limits(spec, run, spending)

    async def told(body, number):
        return completion(await solver(0.0)(body, number)) | {"usage": USAGE}

    monkeypatch.setattr(job, "shared_limits", shared_limits)
    with fake_endpoint(lambda body, n: told(body, n)) as fake:
        policy = endpoint(fake, max_tokens=10, prices={"prompt": 1000.0, "completion": 1000.0}, budget={"money": 50.0})
        summary = play_tasks([toy_task(4, i) for i in range(3)], job_recipe(marks), policy, store)
    assert summary.spent == pytest.approx(6 * COST), "it may write while it holds the directory"
    with pytest.raises(Fenced):
        given[0].settle(0.5)


def test_what_is_wrong_shows_before_anything_is_started(site, marks, store):
    down = PolicySpec(kind="endpoint", base_url="http://127.0.0.1:9/v1", model="m")
    with pytest.raises(ConfigurationError, match=r"http://127.0.0.1:9/v1.*start the server"):
        play_tasks([toy_task()], job_recipe(marks), down, store)
    with pytest.raises(ConfigurationError, match=r"add environments\.mars"):
        play_tasks([toy_task(environment="mars")], job_recipe(marks), PolicySpec(), store)
    working = pytest.raises(ConfigurationError, match=r"another driver is at work here: playing, by .*Two at once need")
    with Lease(store, "playing"), working:
        play_tasks([toy_task()], job_recipe(marks), PolicySpec(), store)
    assert store.list(prefix="segments/") == []


DRIVER = """
import sys
sys.path[:0] = {path!r}
import ray
from test_job import *
from agenttuning.storage import Store
ray.init(address="local", num_cpus=2, include_dashboard=False, object_store_memory=300 * 2**20, log_to_driver=False)
spec = PolicySpec(kind="endpoint", base_url={url!r}, model="toy-model", temperature=0.0)
tasks = [toy_task(4, i) for i in range(200)]
play_tasks(tasks, job_recipe({marks!r}), spec, Store({store!r}), on_progress=lambda *a: print(a[0], flush=True))
"""


@pytest.mark.ray
def test_ctrl_c_leaves_what_is_stored_intact_and_nothing_running(site, marks, store):
    with fake_endpoint(solver(0.2)) as fake:
        text = DRIVER.format(path=sys.path, url=fake.base_url, marks=str(marks), store=store.uri)
        driver = subprocess.Popen(
            [sys.executable, "-c", text],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        assert driver.stdout is not None
        for line in driver.stdout:
            if line.strip().isdigit() and int(line) >= 16:
                break
        os.killpg(driver.pid, signal.SIGINT)
        _, errors = driver.communicate(timeout=60)
        assert driver.returncode != 0, errors
        kept = stored_ids(store)
        assert 16 <= len(kept) < 200
        assert len(list(read_trajectories(store))) == len(kept)
        for pid in pids(marks):
            deadline = time.monotonic() + 10
            while Path(f"/proc/{pid}").exists():
                assert time.monotonic() < deadline, f"actor {pid} still lives"
                time.sleep(0.1)
