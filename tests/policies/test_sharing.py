"""The shared state in a Ray actor, and policies in other processes that use it."""

import asyncio
import time
from types import SimpleNamespace

import pytest
from fake_endpoint import completion, fake_endpoint

from agenttuning.errors import DataError, InfrastructureError
from agenttuning.policies.budget import Account
from agenttuning.policies.sharing import Ask, actor_link, limits_of, shared_limits
from agenttuning.policies.spending import NOTE, Spending
from agenttuning.recipe import PolicySpec
from agenttuning.storage import Store

pytestmark = pytest.mark.ray

USAGE = {"prompt_tokens": 20, "completion_tokens": 80}


@pytest.fixture(scope="module")
def ray_here():
    import ray

    ray.init(address="local", num_cpus=2, include_dashboard=False, object_store_memory=100 * 2**20, log_to_driver=False)
    yield ray
    ray.shutdown()


def player(ray):
    @ray.remote(num_cpus=0)
    class Player:
        """A process with a policy of its own."""

        def play(self, spec, shared, count):
            import asyncio

            from agenttuning.errors import AgentTuningError
            from agenttuning.policies.endpoint import EndpointPolicy
            from agenttuning.trajectory import Turn

            turns = (Turn(role="user", content="What is 6 times 7?"),)

            async def run():
                policy = EndpointPolicy.from_spec(spec, shared=shared)
                answers = await asyncio.gather(*(policy.act(turns, i) for i in range(count)), return_exceptions=True)
                await policy.aclose()
                failed = [a for a in answers if isinstance(a, AgentTuningError)]
                return {
                    "cost": sum(a.cost or 0.0 for a in answers if not isinstance(a, BaseException)),
                    "answered": len(answers) - len(failed),
                    "failures": sorted({f"{type(a).__name__}: {a}" for a in failed}),
                    "silent": policy.silent,
                }

            return asyncio.run(run())

    return Player


def spec_of(fake, **more):
    budget = more.pop("budget", {})
    return PolicySpec(
        kind="endpoint",
        base_url=fake.base_url,
        model="toy-model",
        max_tokens=80,
        prices={"prompt": 1000.0, "completion": 1000.0},
        budget=budget,
        **more,
    )


def test_processes_share_the_money_and_the_account_is_exact(ray_here, tmp_path):
    spending = Spending(Store(str(tmp_path)))
    spending.settle(1.0)
    with fake_endpoint(lambda body, n: completion("42") | {"usage": USAGE}) as fake:
        spec = spec_of(fake, budget={"money": 5.0})
        with shared_limits(spec, "money", spending) as actor:
            players = [player(ray_here).remote() for _ in range(2)]
            results = ray_here.get([p.play.remote(spec, actor, 40) for p in players], timeout=60)
            reading = ray_here.get(actor.read.remote())
    cost = sum(r["cost"] for r in results)
    assert cost == pytest.approx(0.1 * len(fake.requests))
    assert 3.5 <= cost <= 4.0
    assert reading.spent == pytest.approx(1.0 + cost)
    assert Spending(Store(str(tmp_path))).read() == pytest.approx(1.0 + cost), "noted exactly, once all is done"
    assert (reading.held, reading.exhausted) == (pytest.approx(0.0), True)
    assert all(any("BudgetExceeded" in f and "money=5 is used up" in f for f in r["failures"]) for r in results)


def test_processes_share_requests_per_minute_and_concurrency(ray_here):
    times = []

    async def slow(n):
        import asyncio

        times.append(time.monotonic())
        await asyncio.sleep(0.05)
        return completion("42") | {"usage": USAGE}

    with fake_endpoint(lambda body, n: slow(n)) as fake:
        spec = spec_of(fake, budget={"requests_per_minute": 1200}, concurrency=6)
        with shared_limits(spec, "rate") as actor:
            players = [player(ray_here).remote() for _ in range(2)]
            results = ray_here.get([p.play.remote(spec, actor, 30) for p in players], timeout=60)
        assert fake.most_in_flight <= 6
    assert [r["answered"] for r in results] == [30, 30]
    assert 1.0 < times[-1] - times[0] < 10.0, "60 requests at 20 per second, after a burst"


def test_the_actor_is_named_by_the_run_and_gone_after_it(ray_here):
    spec = PolicySpec(budget={"requests_per_minute": 7})
    assert limits_of(spec).requests_per_minute == 7
    with shared_limits(spec, "my-run"):
        named = ray_here.get_actor("agenttuning-limits-my-run")
        assert ray_here.get(named.read.remote()).spent == 0.0
        assert ray_here.get(named.concurrency.remote()) == 0
    with shared_limits(spec, "my-run"):
        pass


def test_an_actor_that_ray_cannot_reach_just_now_is_told_from_a_dead_one(ray_here):
    def link(error):
        async def remote(ask):
            raise error

        return actor_link(SimpleNamespace(exchange=SimpleNamespace(remote=remote)))

    ask = Ask("a", Account(), {})
    with pytest.raises(InfrastructureError, match="unavailable"):
        asyncio.run(link(ray_here.exceptions.ActorUnavailableError("for a moment", b"1" * 16))(ask))
    with pytest.raises(ray_here.exceptions.ActorDiedError):
        asyncio.run(link(ray_here.exceptions.ActorDiedError())(ask))


def test_a_dead_actor_is_told_and_ends_the_policy(ray_here):
    with fake_endpoint(lambda body, n: "42") as fake:
        spec = spec_of(fake, budget={"money": 5.0})
        with shared_limits(spec, "dead") as actor:
            ray_here.kill(actor)
            result = ray_here.get(player(ray_here).remote().play.remote(spec, actor, 3), timeout=60)
    assert (result["answered"], result["silent"]) == (0, True)
    assert "limits is gone" in result["failures"][0]


def test_a_note_that_is_no_sum_of_money_is_refused_before_anything_begins(ray_here, tmp_path):
    (tmp_path / NOTE).write_text('{"money": null}')
    refused = pytest.raises(DataError, match=r"spending\.json: must be")
    with refused, shared_limits(PolicySpec(), "note", Spending(Store(str(tmp_path)))):
        pass
