"""Adaptive concurrency against simulated endpoints, in virtual time."""

import heapq
import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agenttuning.policies.concurrency import START, Concurrency

REFUSED_S = 0.1


@dataclass
class Endpoint:
    """Answers `capacity` requests at once in `seconds` each; more are refused at once, or wait in line."""

    capacity: Callable[[float], int]
    seconds: Callable[[int], float]
    queues: bool
    rng: random.Random
    refused: float = 0.0
    hangs: float = 0.0
    time_out: float = 5.0


def drive(limits: list[Concurrency], endpoint: Endpoint, until: float, share: bool = False) -> list[tuple[float, bool]]:
    """Keep each process as busy as its limit allows; return the time and success of every end."""
    order, ends, events = itertools.count(), [], []
    flying, serving, line = [0] * len(limits), 0, []

    def begin(now, i, sent):
        nonlocal serving
        serving += 1
        hang = endpoint.rng.random() < endpoint.hangs
        took = endpoint.time_out if hang else endpoint.seconds(serving) * endpoint.rng.uniform(0.8, 1.2)
        heapq.heappush(events, (now + took, next(order), "end", i, sent, hang))

    def fill(now):
        for i, limit in enumerate(limits):
            while flying[i] < limit.limit:
                flying[i] += 1
                if endpoint.rng.random() < endpoint.refused:
                    refuse(now, i)
                elif serving < endpoint.capacity(now):
                    begin(now, i, now)
                elif endpoint.queues:
                    line.append((i, now))
                else:
                    refuse(now, i)

    def refuse(now, i):
        ends.append((now, False))
        tell(now, i, now, True)
        heapq.heappush(events, (now + max(REFUSED_S, limits[i].usual), next(order), "slot", i, now, False))

    def tell(now, i, sent, strained):
        limits[i].record(now, sent, strained=strained, full=True)
        if share:
            for other in limits:
                if other is not limits[i]:
                    other.hear(1, strained)

    fill(0.0)
    while events and events[0][0] < until:
        now, _, what, i, sent, strained = heapq.heappop(events)
        flying[i] -= 1
        if what == "end":
            serving -= 1
            ends.append((now, not strained))
            tell(now, i, sent, strained)
            while line and serving < endpoint.capacity(now):
                begin(now, *line.pop(0))
        fill(now)
    return ends


def rate(ends, begin, end):
    return sum(ok for t, ok in ends if begin <= t < end) / (end - begin)


def refusals(ends, begin, end):
    inside = [ok for t, ok in ends if begin <= t < end]
    return 1 - sum(inside) / len(inside)


@pytest.mark.parametrize("capacity", [4, 64, 300])
@pytest.mark.parametrize("queues", [True, False])
def test_what_the_endpoint_bears_is_found_and_used(capacity, queues):
    limit = Concurrency()
    ends = drive([limit], Endpoint(lambda t: capacity, lambda n: 0.2, queues, random.Random(1)), 80)
    assert rate(ends, 40, 80) >= 0.93 * capacity / 0.2
    assert refusals(ends, 40, 80) < 0.2
    assert limit.limit <= max(3 * START, 4.5 * capacity)


@pytest.mark.parametrize("queues", [True, False])
def test_failures_at_random_are_no_sign_of_too_much(queues):
    rng = random.Random(2)
    endpoint = Endpoint(lambda t: 64, lambda n: 0.2, queues, rng, refused=0.03, hangs=0.005)
    ends = drive([Concurrency()], endpoint, 80)
    mean = 0.995 * 0.2 + 0.005 * 5
    assert rate(ends, 30, 80) >= 0.9 * 64 / mean


def test_a_batching_engine_is_filled():
    limit = Concurrency()
    endpoint = Endpoint(lambda t: 64, lambda n: 2.0 * (1 + n / 40), True, random.Random(3))
    ends = drive([limit], endpoint, 600)
    full = 64 / (2.0 * (1 + 64 / 40))
    assert rate(ends, 300, 600) >= 0.9 * full


def test_it_follows_an_endpoint_that_shrinks_and_grows():
    limit = Concurrency()
    endpoint = Endpoint(lambda t: 16 if 60 <= t < 120 else 128, lambda n: 0.2, False, random.Random(4))
    ends = drive([limit], endpoint, 240)
    assert rate(ends, 30, 60) >= 0.9 * 128 / 0.2
    assert rate(ends, 90, 120) >= 0.85 * 16 / 0.2
    assert refusals(ends, 90, 120) < 0.3
    assert rate(ends, 200, 240) >= 0.9 * 128 / 0.2


def test_an_outage_brings_it_down_and_its_end_up_again():
    limit = Concurrency()
    seen = []

    def capacity(now):
        seen.append((now, limit.limit))
        return 0 if 20 <= now < 60 else 64

    ends = drive([limit], Endpoint(capacity, lambda n: 0.2, False, random.Random(5)), 200)
    assert min(n for t, n in seen if 50 < t < 60) == 1
    assert rate(ends, 160, 200) >= 0.9 * 64 / 0.2


@pytest.mark.parametrize("share", [True, False])
def test_several_processes_share_an_endpoint(share):
    limits = [Concurrency() for _ in range(8)]
    ends = drive(limits, Endpoint(lambda t: 64, lambda n: 0.2, False, random.Random(6)), 120, share=share)
    assert rate(ends, 60, 120) >= 0.9 * 64 / 0.2
    assert refusals(ends, 60, 120) < 0.35
    if share:
        assert max(c.limit for c in limits) <= 6 * max(1, min(c.limit for c in limits))


@given(
    st.integers(1, 50),
    st.integers(0, 500),
    st.integers(1, 600),
    st.lists(st.tuples(st.floats(0, 5), st.booleans(), st.booleans(), st.integers(0, 30)), max_size=300),
)
def test_the_bounds_hold(least, more, start, results):
    limit, now = Concurrency(least, least + more, start), 0.0
    for seconds, strained, full, heard in results:
        now += seconds
        limit.hear(heard, heard // 2)
        limit.record(now, now - seconds, strained=strained, full=full)
        assert least <= limit.limit <= least + more


def test_a_limit_that_holds_nobody_back_stays():
    limit = Concurrency()
    for n in range(1000):
        limit.record(n * 0.01, n * 0.01 - 0.2, strained=False, full=False)
    assert limit.limit == START


def test_a_fixed_limit_is_fixed():
    limit = Concurrency(7, 7, 7)
    for n in range(1000):
        limit.record(n, n - 1, strained=n % 2 == 0, full=True)
    assert limit.limit == 7
    limit.fix(3)
    assert limit.limit == 3
