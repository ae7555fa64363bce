"""A request that hangs is asked again long before the time-out; one that is only long is not lost."""

import asyncio
import time

from hypothesis import given
from hypothesis import strategies as st

from agenttuning.policies.endpoint import EndpointPolicy
from agenttuning.policies.failures import Kind
from agenttuning.policies.slowness import FACTOR, LEAST_ANSWERS, LEAST_S, MOST_AT_ONCE, SHARE, Slowness
from tests.policies.asking import ASK, ask, ask_many
from tests.policies.fake_endpoint import HANG, fake_endpoint


@given(st.lists(st.booleans(), max_size=2_000))
def test_few_are_dropped_whatever_comes(ends: list[bool]) -> None:
    slowness, dropped, answers = Slowness(), 0, 0
    for answered in ends:
        if answered:
            answers += 1
            slowness.answered(0.1)
        else:
            dropped += slowness.drop()
    assert dropped <= SHARE * answers + 1e-6
    assert sum(slowness.drop() for _ in range(10)) <= MOST_AT_ONCE


def test_the_limit_lies_far_above_every_recent_answer() -> None:
    slowness = Slowness()
    for number in range(LEAST_ANSWERS):
        assert slowness.limit() is None
        slowness.answered(number / LEAST_ANSWERS)
    assert slowness.limit() == FACTOR * (LEAST_ANSWERS - 1) / LEAST_ANSWERS
    quick = Slowness()
    for _ in range(LEAST_ANSWERS):
        quick.answered(0.01)
    assert quick.limit() == LEAST_S


def test_a_lost_request_is_asked_again_and_a_long_answer_is_waited_for() -> None:
    async def long(seconds: float) -> str:
        await asyncio.sleep(seconds)
        return "long"

    def script(body, n):
        if n < 60:
            return "fine"
        return HANG if n == 60 else long(1.5)

    with fake_endpoint(script) as fake:
        policy = EndpointPolicy(fake.base_url, "toy-model", request_timeout_s=20)
        ask_many(policy, 60)
        started = time.monotonic()
        assert ask(policy).content == "long"
        assert 2.4 < time.monotonic() - started < 6
    assert policy.counts[Kind.SLOW.value] == 1
    assert policy.counts["retries"] == 0


def test_it_can_be_turned_off() -> None:
    with fake_endpoint(lambda body, n: HANG if n == 60 else "fine") as fake:
        policy = EndpointPolicy(fake.base_url, "toy-model", request_timeout_s=1.5, drop_slow=False)
        ask_many(policy, 60)
        assert ask(policy, ASK).content == "fine"
    assert policy.counts[Kind.SLOW.value] == 0
    assert policy.counts[Kind.TIME_OUT.value] == 1
