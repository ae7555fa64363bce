import pytest
from fake_endpoint import completion, fake_endpoint
from test_job import cluster, endpoint, job_recipe, marks, site, solver, store  # noqa: F401
from toy_environments import toy_task

from agenttuning.errors import BudgetExceeded
from agenttuning.rollout.job import play_tasks
from agenttuning.storage.index import read_index
from agenttuning.storage.segments import read_trajectories

pytestmark = pytest.mark.ray
USAGE = {"prompt_tokens": 100, "completion_tokens": 10}
COST = 110 * 1000 / 1e6


def test_the_money_ends_a_run_what_is_done_is_kept_and_more_money_continues(cluster, marks, store):  # noqa: F811
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
