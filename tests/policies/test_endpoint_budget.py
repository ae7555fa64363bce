"""What a policy spends: priced, kept within the money, and noted so that no kill forgets it."""

import asyncio

import pytest
from asking import ASK, Shared, ask, ask_many
from fake_endpoint import HANG, Fault, completion, fake_endpoint

from agenttuning.errors import BudgetExceeded
from agenttuning.policies.budget import Limits
from agenttuning.policies.endpoint import EndpointPolicy
from agenttuning.policies.spending import Spending
from agenttuning.recipe import PolicySpec, Prices
from agenttuning.storage import Store

pytestmark = pytest.mark.usefixtures("fast_retries")


@pytest.fixture
def store(tmp_path):
    return Store(str(tmp_path))


def test_tokens_and_cost_are_in_the_reply_and_in_the_note(store):
    usage = {"prompt_tokens": 1000, "completion_tokens": 10, "prompt_tokens_details": {"cached_tokens": 600}}
    with fake_endpoint(lambda body, n: completion("42") | {"usage": usage}) as fake:
        spec = PolicySpec(
            kind="endpoint",
            base_url=fake.base_url,
            model="toy-model",
            prices={"prompt": 2.0, "completion": 8.0, "cached": 1.0},
            budget={"money": 100.0, "requests_per_minute": 600},
        )
        spending = Spending(store)
        spending.settle(1.0)
        reply = ask(EndpointPolicy.from_spec(spec, spending=spending))
    assert (reply.prompt_tokens, reply.completion_tokens, reply.cached_tokens) == (1000, 10, 600)
    assert reply.cost == pytest.approx((400 * 2 + 600 * 1 + 10 * 8) / 1e6)
    assert Spending(store).read() == pytest.approx(1.0 + reply.cost), "noted exactly, once all is done"


def test_the_money_ends_the_run_and_is_never_exceeded(store):
    usage = {"prompt_tokens": 20, "completion_tokens": 100}
    cost = (20 * 1000 + 100 * 1000) / 1e6

    async def slow(n):
        await asyncio.sleep(0.02)
        return Fault(500) if n % 7 == 3 else completion("42") | {"usage": usage}

    with fake_endpoint(lambda body, n: slow(n)) as fake:
        spec = PolicySpec(
            kind="endpoint",
            base_url=fake.base_url,
            model="toy-model",
            max_tokens=100,
            prices={"prompt": 1000.0, "completion": 1000.0},
            budget={"money": 3.0},
        )
        policy = EndpointPolicy.from_spec(spec, spending=Spending(store))
        answers = ask_many(policy, 60)
    done = [a for a in answers if not isinstance(a, BaseException)]
    assert all(isinstance(a, BudgetExceeded) for a in answers if isinstance(a, BaseException))
    assert len(done) < 60
    assert 2.5 < len(done) * cost <= 3.0
    assert Spending(store).read() == pytest.approx(len(done) * cost)
    assert policy.counts["answers"] == len(done)


def test_a_request_that_is_cancelled_gives_its_slot_back_and_counts_at_its_worst_case():
    with fake_endpoint(lambda body, n: HANG if n == 0 else "fine") as fake:
        shared = Shared()
        prices = Prices(prompt=1000.0, completion=1000.0)
        policy = EndpointPolicy(fake.base_url, "toy-model", prices=prices, max_tokens=10, concurrency=1, shared=shared)

        async def run():
            hanging = asyncio.create_task(policy.act(ASK, 1))
            await asyncio.sleep(0.3)
            waiting = asyncio.create_task(policy.act(ASK, 2))
            await asyncio.sleep(0.05)
            assert policy.waiting == 1
            hanging.cancel()
            reply = await waiting
            await policy.aclose()
            return reply

        reply = asyncio.run(run())
    reading = shared.read()
    assert (reading.held, reading.exhausted) == (0.0, False)
    assert reading.unconfirmed > reply.cost
    assert reading.spent == pytest.approx(reading.unconfirmed + reply.cost)


def test_a_request_that_may_have_been_charged_counts_at_its_worst_case():
    with fake_endpoint(lambda body, n: HANG if n == 0 else "fine") as fake:
        prices = Prices(prompt=1000.0, completion=1000.0)
        shared = Shared(limits := Limits(money=50.0))
        policy = EndpointPolicy(
            fake.base_url,
            "toy-model",
            prices=prices,
            limits=limits,
            max_tokens=10,
            request_timeout_s=0.3,
            shared=shared,
        )
        reply = ask(policy)
    reading = shared.read()
    assert reading.unconfirmed > 0.05
    assert reading.spent == pytest.approx(reading.unconfirmed + reply.cost)
