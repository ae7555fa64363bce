import asyncio
import time

import pytest

from agenttuning.errors import BudgetExceeded, InfrastructureError
from agenttuning.policies.allowance import HOLD_S
from agenttuning.policies.budget import NOTHING, Amount, Limits
from agenttuning.policies.concurrency import Concurrency
from agenttuning.policies.sharing import Sharing, local_link
from agenttuning.policies.throttle import End, Throttle

ONE = Amount(1, 10, 0.0)


def fixed(limit):
    return Concurrency(limit, limit, limit)


def alone(limit=2, limits=None, sharing=None):
    return Throttle(fixed(limit), limits or Limits(), local_link(sharing) if sharing else None)


class Together:
    """Several throttles of one run, in one process."""

    def __init__(self, limits, delay=0.0):
        self.sharing = Sharing(limits, hold_s=HOLD_S)
        self.limits = limits
        self.delay = delay
        self.asks = []

    async def link(self, ask):
        self.asks.append(ask)
        await asyncio.sleep(self.delay)
        return self.sharing.exchange(time.monotonic(), ask)

    def throttle(self, concurrency, fixed=None):
        return Throttle(concurrency, self.limits, self.link, fixed)


async def settled(*pending):
    await asyncio.sleep(0.02)
    return [task.done() for task in pending]


def finish(throttle, ticket, end=End.ANSWERED, money=0.0):
    throttle.done(ticket, end, tokens=10, money=money)


def test_no_more_than_allowed_at_once_and_episodes_in_progress_first():
    async def run():
        throttle = alone(2)
        first = [await throttle.admit(1, ONE) for _ in range(2)]
        order = []

        async def ask(name, progress):
            ticket = await throttle.admit(progress, ONE)
            order.append(name)
            await asyncio.sleep(0.01)
            finish(throttle, ticket)

        waiting = [asyncio.create_task(ask(n, p)) for n, p in (("new", 1), ("old", 9), ("newer", 1), ("middle", 5))]
        assert await settled(*waiting) == [False] * 4
        assert (throttle.waiting, throttle.in_flight) == (4, 2)
        finish(throttle, first[0])
        await asyncio.gather(*waiting)
        assert order == ["old", "middle", "new", "newer"]
        finish(throttle, first[1])
        assert throttle.in_flight == 0

    asyncio.run(run())


def test_a_cancelled_request_leaves_no_trace():
    async def run():
        throttle = alone(1)
        ticket = await throttle.admit(1, ONE)
        waiting = [asyncio.create_task(throttle.admit(1, ONE)) for _ in range(3)]
        await asyncio.sleep(0.01)
        waiting[0].cancel()
        finish(throttle, ticket)
        waiting[1].cancel()
        await asyncio.sleep(0.01)
        assert waiting[2].done()
        finish(throttle, waiting[2].result())
        assert (throttle.in_flight, throttle.waiting) == (0, 0)

    asyncio.run(run())


def test_a_refused_request_keeps_its_slot_for_a_while():
    async def run():
        throttle = alone(1)
        finish(throttle, await throttle.admit(1, ONE), End.STRAINED)
        started = time.monotonic()
        await throttle.admit(1, ONE)
        assert 0.05 < time.monotonic() - started < 0.5

    asyncio.run(run())


def test_a_single_refusal_gives_its_slot_back_at_once():
    async def run():
        throttle = alone(1)
        for _ in range(20):
            finish(throttle, await throttle.admit(1, ONE))
        finish(throttle, await throttle.admit(1, ONE), End.STRAINED)
        started = time.monotonic()
        finish(throttle, await throttle.admit(1, ONE), End.STRAINED)
        assert time.monotonic() - started < 0.04, "bad luck"
        await throttle.admit(1, ONE)
        assert 0.05 < time.monotonic() - started < 0.5, "two in so few are more than that"

    asyncio.run(run())


def test_retry_after_holds_all_back_only_where_most_is_refused():
    async def run():
        throttle = alone(8)
        for _ in range(20):
            finish(throttle, await throttle.admit(1, ONE))
        finish(throttle, await throttle.admit(1, ONE), End.STRAINED)
        throttle.hold(5.0)
        assert throttle.resume_at < time.monotonic()
        for _ in range(10):
            finish(throttle, await throttle.admit(1, ONE), End.STRAINED)
        throttle.hold(0.3)
        started = time.monotonic()
        await throttle.admit(1, ONE)
        assert 0.25 < time.monotonic() - started < 1.5

    asyncio.run(run())


def test_the_money_ends_with_an_error_when_nothing_is_in_flight():
    async def run():
        sharing = Sharing(Limits(money=1.0), hold_s=HOLD_S)
        throttle = alone(4, Limits(money=1.0), sharing)
        dear = Amount(1, 10, 0.4)
        tickets = [await throttle.admit(1, dear) for _ in range(2)]
        third = asyncio.create_task(throttle.admit(1, dear))
        assert await settled(third) == [False]
        finish(throttle, tickets[0], money=0.1)
        ticket = await third
        finish(throttle, tickets[1], money=0.4)
        finish(throttle, ticket, End.FAILED, money=None)
        with pytest.raises(
            BudgetExceeded, match=r"money=1 is used up: 0\.9 is spent.*could cost 0\.4; raise"
        ) as caught:
            await throttle.admit(1, dear)
        assert caught.value.exit_code == 6
        await throttle.aclose()
        reading = sharing.read(time.monotonic())
        assert (reading.spent, reading.held, reading.unconfirmed) == (pytest.approx(0.9), 0.0, pytest.approx(0.4))
        with pytest.raises(BudgetExceeded):
            await throttle.admit(1, dear)

    asyncio.run(run())


def test_requests_per_minute_hold_back_alone_and_together():
    async def count(throttles, seconds):
        sent = 0
        over = time.monotonic() + seconds

        async def caller(throttle):
            nonlocal sent
            while time.monotonic() < over:
                ticket = await throttle.admit(1, ONE)
                sent += 1
                await asyncio.sleep(0.01)
                finish(throttle, ticket)

        callers = [asyncio.create_task(caller(t)) for t in throttles for _ in range(20)]
        await asyncio.sleep(seconds)
        for task in callers:
            task.cancel()
        await asyncio.gather(*callers, return_exceptions=True)
        await asyncio.gather(*(t.aclose() for t in throttles))
        return sent

    limits = Limits(requests_per_minute=6000)
    assert 100 <= asyncio.run(count([alone(20, limits, Sharing(limits, hold_s=HOLD_S))], 1.5)) <= 270
    together = Together(limits)
    sent = asyncio.run(count([together.throttle(fixed(20)) for _ in range(3)], 1.5))
    assert 100 <= sent <= 370
    assert len(together.asks) < 3 * 1.5 / 0.05 + 10


def test_a_fixed_number_is_shared_among_processes(monkeypatch):
    monkeypatch.setattr("agenttuning.policies.throttle.BEAT_S", 0.2)

    async def run():
        together = Together(Limits())
        throttles = [together.throttle(fixed(12), fixed=12) for _ in range(3)]
        tickets = [await t.admit(1, ONE) for t in throttles]
        await asyncio.sleep(1.0)
        assert [t.concurrency.limit for t in throttles] == [4, 4, 4]
        assert together.sharing.concurrency(time.monotonic()) == 12
        for throttle, ticket in zip(throttles, tickets, strict=True):
            finish(throttle, ticket)
            await throttle.aclose()

    asyncio.run(run())


def test_a_pause_reaches_the_other_processes():
    async def run():
        together = Together(Limits())
        one, other = together.throttle(fixed(4)), together.throttle(fixed(4))
        tickets = [await one.admit(1, ONE), await other.admit(1, ONE)]
        finish(one, await one.admit(1, ONE), End.STRAINED)
        one.hold(30.0)
        await asyncio.sleep(1.3)
        assert other.resume_at > time.monotonic() + 20
        for throttle, ticket in zip((one, other), tickets, strict=True):
            finish(throttle, ticket)
            await throttle.aclose()

    asyncio.run(run())


def test_a_pause_is_not_prolonged_by_being_told_around(monkeypatch):
    monkeypatch.setattr("agenttuning.policies.throttle.BEAT_S", 0.1)
    monkeypatch.setattr("agenttuning.policies.throttle.SPREAD_S", 0.2)

    async def run():
        together = Together(Limits(), delay=0.01)
        throttles = [together.throttle(fixed(4)) for _ in range(8)]
        tickets = [await t.admit(1, ONE) for t in throttles]
        finish(throttles[0], await throttles[0].admit(1, ONE), End.STRAINED)
        throttles[0].hold(1.0)
        started = time.monotonic()
        await asyncio.sleep(0.3)
        tickets += await asyncio.gather(*(t.admit(1, ONE) for t in throttles))
        assert 1.0 <= time.monotonic() - started < 1.8
        for throttle, ticket in zip(throttles * 2, tickets, strict=True):
            finish(throttle, ticket)
        await asyncio.gather(*(t.aclose() for t in throttles))

    asyncio.run(run())


def test_waiting_for_the_budget_is_no_reason_for_more_at_once():
    async def play(throttle):
        async def caller():
            for _ in range(4):
                ticket = await throttle.admit(1, ONE)
                await asyncio.sleep(0.005)
                finish(throttle, ticket)

        await asyncio.gather(*(caller() for _ in range(50)))
        await throttle.aclose()
        return throttle.concurrency.limit

    limits = Limits(tokens_per_minute=60_000)
    sharing = Sharing(limits, hold_s=HOLD_S)
    assert asyncio.run(play(Throttle(Concurrency(start=1), Limits()))) > 8
    assert asyncio.run(play(Throttle(Concurrency(start=60), limits, local_link(sharing)))) == 60


def test_answers_of_the_others_are_heard_of(monkeypatch):
    monkeypatch.setattr("agenttuning.policies.throttle.BEAT_S", 0.1)

    async def run():
        together = Together(Limits())
        one, other = together.throttle(fixed(4)), together.throttle(fixed(4))
        ticket = await one.admit(1, ONE)
        started = time.monotonic()
        finish(other, await other.admit(1, ONE), End.FAILED)
        await asyncio.sleep(0.3)
        assert one.answered_at < started
        finish(other, await other.admit(1, ONE))
        await asyncio.sleep(0.3)
        assert one.answered_at > started
        finish(one, ticket, End.FAILED)
        await asyncio.gather(one.aclose(), other.aclose())

    asyncio.run(run())


def test_without_limits_there_is_an_account_and_no_waiting():
    async def run():
        sharing = Sharing(Limits())
        throttle = alone(100, sharing=sharing)
        tickets = [await throttle.admit(1, Amount(1, 10, 5.0)) for _ in range(100)]
        await throttle.aclose()
        assert sharing.read(time.monotonic()) == (0.0, 500.0, 0.0, False)
        for ticket in tickets:
            finish(throttle, ticket, money=2.0)
        await throttle.aclose()
        assert sharing.read(time.monotonic()) == (200.0, 0.0, 0.0, False)

    asyncio.run(run())


def test_reports_end_when_there_is_nothing_to_report_and_settle_the_account(monkeypatch):
    monkeypatch.setattr("agenttuning.policies.throttle.BEAT_S", 0.2)
    monkeypatch.setattr("agenttuning.policies.throttle.HOLD_S", 0.2)

    async def run():
        together = Together(Limits(money=10.0))
        throttle = together.throttle(fixed(4))
        ticket = await throttle.admit(1, Amount(1, 10, 0.5))
        finish(throttle, ticket, money=0.2)
        await asyncio.sleep(0.7)
        assert throttle._talk.done()
        assert together.sharing.read(time.monotonic()) == (0.2, 0.0, 0.0, False)
        before = len(together.asks)
        await asyncio.sleep(0.4)
        assert len(together.asks) == before

    asyncio.run(run())


def test_when_the_shared_state_is_gone_all_who_wait_are_told():
    async def run():
        async def broken(ask):
            raise ConnectionError("gone")

        throttle = Throttle(fixed(4), Limits(money=1.0), broken)
        results = await asyncio.gather(*(throttle.admit(1, NOTHING) for _ in range(3)), return_exceptions=True)
        assert all(isinstance(r, InfrastructureError) for r in results)
        assert "run the same command again" in str(results[0])

    asyncio.run(run())


def test_it_serves_one_loop_after_another():
    throttle = alone(1)

    async def once():
        finish(throttle, await throttle.admit(1, ONE), End.STRAINED)
        ticket = await throttle.admit(1, ONE)
        finish(throttle, ticket)
        await throttle.aclose()

    for _ in range(2):
        asyncio.run(asyncio.wait_for(once(), 5))


def test_processes_that_start_together_never_have_more_in_flight_than_the_number():
    most = in_flight = 0

    async def one(throttle):
        nonlocal most, in_flight
        ticket = await throttle.admit(1, ONE)
        in_flight += 1
        most = max(most, in_flight)
        await asyncio.sleep(0.1)
        in_flight -= 1
        finish(throttle, ticket)

    async def run():
        together = Together(Limits(), delay=0.01)
        throttles = [together.throttle(fixed(16), fixed=16) for _ in range(4)]
        started = time.monotonic()
        await asyncio.gather(*(one(t) for t in throttles for _ in range(150)))
        assert time.monotonic() - started < 9, "the first to ask gives back what it got"
        await asyncio.gather(*(t.aclose() for t in throttles))

    asyncio.run(run())
    assert most == 16


def test_places_are_given_back_when_idle_and_asked_for_again(monkeypatch):
    monkeypatch.setattr("agenttuning.policies.sharing.ACTIVE_S", 0.5)
    monkeypatch.setattr("agenttuning.policies.throttle.BEAT_S", 0.1)

    async def run():
        together = Together(Limits())
        one, other = (together.throttle(fixed(6), fixed=6) for _ in range(2))
        finish(one, await one.admit(1, ONE))
        await asyncio.sleep(0.8)
        tickets = [await asyncio.wait_for(other.admit(1, ONE), 2) for _ in range(6)]
        third = asyncio.create_task(one.admit(1, ONE))
        assert await settled(third) == [False], "all six are with the other now"
        for ticket in tickets:
            finish(other, ticket)
        finish(one, await asyncio.wait_for(third, 2))
        await asyncio.gather(one.aclose(), other.aclose())

    asyncio.run(run())


def test_a_shared_state_that_cannot_be_reached_for_a_while_is_asked_again(monkeypatch):
    monkeypatch.setattr("agenttuning.policies.throttle.BEAT_S", 0.05)
    monkeypatch.setattr("agenttuning.policies.throttle.PATIENCE_S", 0.5)

    async def run(lost):
        sharing = Sharing(Limits(money=1.0), hold_s=HOLD_S)
        calls = 0

        async def stumbling(ask):
            nonlocal calls
            calls += 1
            if calls <= lost:
                raise InfrastructureError("unavailable")
            return sharing.exchange(time.monotonic(), ask)

        throttle = Throttle(fixed(4), Limits(money=1.0), stumbling)
        finish(throttle, await throttle.admit(1, Amount(1, 10, 0.5)), money=0.2)
        await throttle.aclose()
        assert sharing.read(time.monotonic())[:2] == (pytest.approx(0.2), 0.0)

    asyncio.run(run(3))
    with pytest.raises(InfrastructureError, match="limits is gone or fails"):
        asyncio.run(run(1000))
