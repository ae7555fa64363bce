import asyncio
import contextlib
import threading

import pytest
from aiohttp import web

from agenttuning.environments import base
from agenttuning.errors import InfrastructureError
from agenttuning.evaluation import held_in
from agenttuning.recipe import validate_recipe
from agenttuning.rollout import job
from agenttuning.storage import Store
from agenttuning.storage.segments import commit_segment
from agenttuning.trajectory import Outcome


@pytest.fixture
def episodes(make_task, make_trajectory):
    """8 test tasks of os (5 solved), 4 of db (none), 2 shifted of os (1)."""
    made = []
    for number in range(8):
        task = make_task("os", "test", f"family {number % 2}", number)
        made.append(make_trajectory([("a", "b"), ("c", None)], task=task, reward=float(number < 5)))
    for number in range(4):
        task = make_task("db", "test", "select", number)
        made.append(make_trajectory([("?", "no")], task=task, outcome=Outcome.INVALID_ACTION))
    for number in range(2):
        task = make_task("os", "shifted", "other words", number)
        made.append(make_trajectory([("a", None)], task=task, reward=float(number)))
    return made


def test_scores_by_split_and_environment(episodes):
    result = held_in.score_held_in(episodes, "m", len(episodes))
    assert (result.test.overall.successes, result.test.overall.episodes) == (5, 12)
    assert (result.shifted.overall.successes, result.shifted.overall.episodes) == (1, 2)
    assert list(result.test.by_environment) == ["db", "os"]
    os_result = result.test.by_environment["os"]
    assert {name: (r.successes, r.episodes) for name, r in os_result.families.items()} == {
        "family 0": (3, 4),
        "family 1": (2, 4),
    }
    assert os_result.mean_turns == 2
    assert os_result.failures == {"wrong_result": 3}
    assert result.test.by_environment["db"].failures == {"invalid_action": 4}
    assert result.test.by_environment["db"].mean_score == 0
    assert sum(result.test.by_environment["os"].failures.values()) + os_result.rate.successes == 8


def test_scores_do_not_depend_on_the_order(episodes):
    assert held_in.score_held_in(episodes, "m", 14) == held_in.score_held_in(episodes[::-1], "m", 14)


def test_a_partial_reward_is_no_success(make_task, make_trajectory):
    t = make_trajectory([("a", None)], task=make_task(), reward=0.9)
    result = held_in.score_held_in([t], "m", 1)
    assert result.headline()["success"] == 0
    assert result.test.by_environment["os"].mean_score == pytest.approx(0.9)


def test_a_task_counts_once(make_task, make_trajectory):
    again = [make_trajectory([("a", None)], task=make_task(), reward=float(n), attempt=n) for n in (1, 0)]
    result = held_in.score_held_in(again, "m", 1)
    assert (result.test.overall.successes, result.test.overall.episodes) == (0, 1)


def test_rows_and_headline(episodes):
    result = held_in.score_held_in(episodes, "m", 14)
    assert [row[0] for row in result.rows()] == ["db", "os", "all", "os (shifted)", "all (shifted)"]
    assert result.rows()[2][1:] == list(held_in.rate_of([True] * 5 + [False] * 7).model_dump().values())[:4]
    assert result.headline() == result.test.overall.model_dump()


class _World:
    """Just enough of an environment for `test_tasks`."""

    def __init__(self, make_task, name):
        self.make_task, self.name = make_task, name

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def tasks(self, split, count, seed):
        return (self.make_task(self.name, split, number=seed + n) for n in range(count))


def test_tasks_come_from_every_environment_and_both_splits(monkeypatch, make_task):
    monkeypatch.setattr(held_in, "make_environment", lambda name, settings, root: _World(make_task, name))
    recipe = validate_recipe(
        {
            "run": {"seed": 5},
            "environments": {"os": {"test_tasks": 3, "shifted_tasks": 1}, "db": {"test_tasks": 2, "shifted_tasks": 0}},
        }
    )
    tasks = held_in.test_tasks(recipe)
    assert [(t.environment, t.split, t.payload["n"]) for t in tasks] == [
        ("os", "test", 5),
        ("os", "test", 6),
        ("os", "test", 7),
        ("os", "shifted", 5),
        ("db", "test", 5),
        ("db", "test", 6),
    ]
    assert held_in.test_tasks(recipe) == tasks


def test_the_episodes_of_registered_environments_are_disjoint_by_split():
    if "db" not in {p.name for p in base.entry_points(group=base.ENTRY_POINTS)}:
        pytest.skip("the package is not installed with its entry points")
    recipe = validate_recipe({"environments": {"db": {"test_tasks": 4, "shifted_tasks": 2}}})
    tasks = held_in.test_tasks(recipe)
    assert [t.split for t in tasks] == ["test"] * 4 + ["shifted"] * 2
    assert len({t.id for t in tasks}) == 6
    assert [t.id for t in held_in.test_tasks(recipe)] == [t.id for t in tasks]


def play_with(store_episodes, seen):
    def play_tasks(tasks, recipe, policy, store, *, on_progress=None):
        seen.update(tasks=tasks, recipe=recipe, policy=policy)
        commit_segment(store, "writer", 0, store_episodes)
        on_progress(len(store_episodes), len(tasks), {})
        return job.RolloutSummary(total=len(tasks), skipped=0, failures=["no answer within 120 s"])

    return play_tasks


def test_evaluate_plays_under_the_evaluations_rules_and_scores_what_is_stored(tmp_path, monkeypatch, episodes):
    seen, told = {}, []
    monkeypatch.setattr(job, "play_tasks", play_with(episodes, seen))
    recipe = validate_recipe(
        {
            "evaluation": {"max_tokens": 77, "concurrency": 10},
            "rollout": {"attempts": 3, "actors": [1, 2]},
            "policy": {"temperature": 0.9},
        }
    )
    store = Store(str(tmp_path))
    tasks = [t.task for t in episodes]
    result = held_in.evaluate_held_in(
        "http://h/v1",
        "tuned",
        recipe,
        tasks,
        store,
        lambda done, total, by: told.append((done, total)),
        send_seed=False,
    )
    assert told == [(14, 14)]
    policy = seen["policy"]
    assert (policy.kind, policy.base_url, policy.model) == ("endpoint", "http://h/v1", "tuned")
    assert (policy.temperature, policy.max_tokens, policy.top_p, policy.send_seed) == (0.0, 77, 1.0, False)
    assert (seen["recipe"].rollout.attempts, seen["recipe"].rollout.episodes_in_flight) == (1, 5)
    assert held_in.HeldInResult.model_validate(store.read_json("held_in.json")) == result
    assert result == held_in.score_held_in(episodes, "tuned", 14)


def test_episodes_that_were_not_played_fail_the_stage_and_keep_the_others(tmp_path, monkeypatch, episodes):
    monkeypatch.setattr(job, "play_tasks", play_with(episodes[:-2], {}))
    store = Store(str(tmp_path))
    tasks = [t.task for t in episodes]
    with pytest.raises(InfrastructureError, match=r"2 of 14 episodes could not be played \(no answer within 120 s\)"):
        held_in.evaluate_held_in("http://h/v1", "m", validate_recipe({}), tasks, store, lambda *_: None)
    assert not store.exists("held_in.json")
    assert store.list("trajectories/")


@contextlib.contextmanager
def chatting(reply):
    """An OpenAI-compatible endpoint on loopback that always says the same; yields its URL."""

    async def complete(request):
        message = {"role": "assistant", "content": reply}
        return web.json_response({"choices": [{"message": message, "finish_reason": "stop"}], "usage": {}})

    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    async def start():
        app = web.Application()
        app.router.add_post("/v1/chat/completions", complete)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        return runner

    runner = asyncio.run_coroutine_threadsafe(start(), loop).result()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    finally:
        asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()


@pytest.mark.ray
def test_evaluate_on_ray_with_a_real_environment(tmp_path):
    import ray

    recipe = validate_recipe(
        {
            "environments": {"db": {"test_tasks": 3, "shifted_tasks": 2}},
            "rollout": {"actors": [1, 1], "actor_cpus": 0.5, "commit_seconds": 0.1},
        }
    )
    tasks = held_in.test_tasks(recipe)
    store = Store(str(tmp_path))
    told = []
    ray.init(address="local", num_cpus=2, include_dashboard=False, object_store_memory=300 * 2**20, log_to_driver=False)
    try:
        with chatting("I would look at the table first.") as url:
            result = held_in.evaluate_held_in(
                url, "talker", recipe, tasks, store, lambda done, total, by: told.append((done, total))
            )
    finally:
        ray.shutdown()
    assert (result.test.overall.episodes, result.shifted.overall.episodes) == (3, 2)
    assert result.test.overall.successes == 0
    assert sum(result.test.by_environment["db"].failures.values()) == 3
    assert "invalid_action" in result.test.by_environment["db"].signs
    assert told[-1] == (5, 5)
