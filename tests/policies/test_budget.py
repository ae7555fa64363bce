"""The budget under a virtual clock: what several processes do with their leases is checked second by second."""

import heapq
import itertools
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agenttuning.policies.allowance import HOLD_S, Allowance
from agenttuning.policies.budget import GONE_S, NOTHING, Account, Amount, Budget, Limits, Window
from agenttuning.policies.sharing import Ask, Sharing

TRAVEL_S = 0.05


@dataclass
class Request:
    need: Amount
    tokens: int | None
    money: float | None
    seconds: float


@dataclass
class Run:
    """What a simulated run did."""

    sent: list[tuple[float, int]] = field(default_factory=list)
    """Time and real tokens of each request."""
    spent: float = 0.0
    most_committed: float = 0.0
    finished: int = 0
    exhausted: bool = False
    seconds: float = 0.0
    exchanges: int = 0
    unspent_need: float = 0.0


def play(limits: Limits, clients: list[list[Request]], width: int, ahead: int, longest: float = 86400.0) -> Run:
    """Let each client send its requests, `width` at once, taking leases for `ahead` requests at a time."""
    sharing, run, order = Sharing(limits, hold_s=HOLD_S), Run(), itertools.count()
    allowances = [Allowance() for _ in clients]
    queues = [list(reversed(requests)) for requests in clients]
    busy = [0] * len(clients)
    events = [(0.0, next(order), "ask", i, None) for i in range(len(clients))]
    heapq.heapify(events)

    def push(now, what, client, item=None):
        heapq.heappush(events, (now, next(order), what, client, item))

    def send(now, i):
        while queues[i] and busy[i] < width:
            need = limits.clamp(queues[i][-1].need)
            lease = allowances[i].take(now, need)
            if lease is None:
                return
            request = queues[i].pop()
            busy[i] += 1
            run.sent.append((now, request.need.tokens if request.tokens is None else request.tokens))
            push(now + request.seconds, "end", i, (request, lease, need))

    while events and events[0][0] < longest:
        now, _, what, i, item = heapq.heappop(events)
        run.seconds = now
        if what == "end":
            request, lease, need = item
            busy[i] -= 1
            run.finished += 1
            run.spent += need.money if request.money is None else request.money
            allowances[i].settle(lease, need, tokens=request.tokens, money=request.money)
            send(now, i)
        elif what == "lease":
            share, least = item
            allowances[i].renew(now, share.lease, HOLD_S)
            if share.lease.exhausted:
                run.exhausted, run.unspent_need = True, least.money
                return run
            send(now, i)
            if queues[i] or busy[i] or not allowances[i].idle:
                push(now + min(max(share.lease.wait_s if least else 0.0, 0.05), 1.0), "ask", i)
        else:
            dry = bool(queues[i]) and busy[i] < width
            account, returned = allowances[i].report(now, renew=dry)
            least = most = None
            if dry:
                coming = [limits.clamp(r.need) for r in queues[i][::-1][:ahead]]
                least = most = coming[0]
                for need in coming[1:]:
                    most = most.plus(need)
            share = sharing.exchange(now, Ask(str(i), account, returned, least, most))
            run.exchanges += 1
            state = sharing.read(now)
            run.most_committed = max(run.most_committed, state.spent + state.held)
            push(now + TRAVEL_S, "lease", i, (share, least))
    return run


def most_in_a_minute(times: list[tuple[float, int]]) -> int:
    ordered, first, total, most = sorted(times), 0, 0, 0
    for time, amount in ordered:
        total += amount
        while ordered[first][0] <= time - 60:
            total -= ordered[first][1]
            first += 1
        most = max(most, total)
    return most


requests = st.builds(
    lambda prompt, limit, used, seconds, told: Request(
        Amount(1, prompt + limit, (prompt + 4 * limit) / 1000),
        int(prompt / 2 + used * limit) if told else None,
        (prompt / 2 + 4 * used * limit) / 1000 if told else None,
        seconds,
    ),
    st.integers(1, 3000),
    st.integers(1, 500),
    st.floats(0, 1),
    st.floats(0.01, 90),
    st.booleans() | st.just(True),
)
crowds = st.lists(st.lists(requests, max_size=30), min_size=1, max_size=4)
limits = st.builds(
    Limits,
    st.none() | st.integers(1, 200),
    st.none() | st.integers(600, 50_000),
    st.none() | st.floats(0.5, 200),
)


@settings(max_examples=60, deadline=None)
@given(limits, crowds, st.integers(1, 20), st.integers(1, 10))
def test_no_minute_and_no_money_is_exceeded_and_all_are_served(limits, clients, width, ahead):
    run = play(limits, clients, width, ahead)
    if limits.requests_per_minute is not None:
        assert most_in_a_minute([(t, 1) for t, _ in run.sent]) <= limits.requests_per_minute
    if limits.tokens_per_minute is not None:
        sent = [(t, min(tokens, limits.tokens_per_minute)) for t, tokens in run.sent]
        assert most_in_a_minute(sent) <= limits.tokens_per_minute
    if limits.money is not None:
        assert run.most_committed <= limits.money + 1e-6
        assert run.spent <= limits.money + 1e-6
    if run.exhausted:
        assert limits.money is not None
        assert run.spent + run.unspent_need > limits.money - 1e-6
    else:
        assert run.finished == sum(map(len, clients))


def steady(count: int, tokens: int = 100, seconds: float = 2.0) -> list[Request]:
    return [Request(Amount(1, tokens, 0.0), tokens, 0.0, seconds) for _ in range(count)]


@pytest.mark.parametrize("processes", [1, 4])
def test_a_limit_is_used_and_spread(processes):
    run = play(Limits(requests_per_minute=600), [steady(3000 // processes) for _ in range(processes)], 200, 20)
    assert len(run.sent) == 3000
    assert 3000 / run.seconds * 60 > 0.93 * 600
    starts = sorted(t for t, _ in run.sent)
    assert max(b - a for a, b in itertools.pairwise(starts)) < 3


def test_leases_keep_exchanges_few():
    run = play(Limits(requests_per_minute=60_000), [steady(20_000)], 2000, 1000)
    assert run.finished == 20_000
    assert run.exchanges < 20_000 / 50


def test_settled_tokens_are_used_again():
    generous = [Request(Amount(1, 1000, 0.0), 100, 0.0, 1.0) for _ in range(600)]
    run = play(Limits(tokens_per_minute=10_000), [generous], 50, 5)
    assert run.finished / run.seconds * 60 > 60, "ten a minute if the worst case counted"


def test_money_stops_before_it_is_exceeded_and_is_used():
    dear = [Request(Amount(1, 0, 1.0), 0, 0.25, 5.0) for _ in range(1000)]
    run = play(Limits(money=100.0), [dear[:500], dear[500:]], 40, 4)
    assert run.exhausted
    assert 99 <= run.spent <= 100


def test_money_spent_before_counts():
    budget = Budget(Limits(money=10.0), spent=9.5)
    assert budget.exchange(0.0, "a", Account(), {}, Amount(1, 10, 0.4)).number
    assert not budget.exchange(0.1, "b", Account(), {}, Amount(1, 10, 0.4)).number
    assert budget.read(0.1).spent == 9.5
    assert budget.read(0.1).held == pytest.approx(0.4)
    over = budget.exchange(1.0, "a", Account(0.0, 0.4, 0.0), {}, Amount(1, 10, 0.2))
    assert over.exhausted
    assert over.spent == pytest.approx(9.9)


def test_what_a_dead_process_had_reserved_counts_as_spent():
    budget = Budget(Limits(money=10.0))
    assert budget.exchange(0.0, "dead", Account(), {}, Amount(1, 10, 6.0)).number
    waiting = budget.exchange(1.0, "alive", Account(), {}, Amount(1, 10, 5.0))
    assert (waiting.number, waiting.exhausted) == (0, False)
    later = budget.exchange(GONE_S + 1, "alive", Account(), {}, Amount(1, 10, 5.0))
    assert later.exhausted
    assert budget.read(GONE_S + 1) == (6.0, 0.0, 6.0, True)
    assert budget.exchange(GONE_S + 2, "dead", Account(0.0, 1.0), {}).number == 0
    assert budget.read(GONE_S + 2).spent == 1.0


def test_a_repeated_report_changes_nothing():
    budget = Budget(Limits(money=10.0))
    for _ in range(3):
        budget.exchange(0.0, "a", Account(2.0, 3.0, 1.0), {})
    assert budget.read(0.0) == (3.0, 2.0, 1.0, False)


def test_one_process_does_not_take_all():
    budget = Budget(Limits(requests_per_minute=1200))
    for name in ("a", "b", "c"):
        budget.exchange(0.0, name, Account(), {})
    lease = budget.exchange(0.0, "a", Account(), {}, Amount(1, 0, 0.0), Amount(1000, 0, 0.0))
    assert lease.amount.requests <= 100 / 3 + 1
    assert budget.exchange(0.0, "b", Account(), {}, Amount(1, 0, 0.0)).number


@given(st.integers(1, 10_000), st.lists(st.tuples(st.floats(0, 100), st.integers(1, 5000)), max_size=60))
def test_a_wait_is_long_enough_and_no_longer(limit, asked):
    window, now = Window(limit), 0.0
    for number, (pause, amount) in enumerate(asked):
        now, amount = now + pause, min(amount, limit)
        wait = window.wait(now, amount)
        assert wait <= 60 + 1e-6
        if wait > 1e-3:
            assert not window.room(now, amount)
            assert not window.room(now + 0.99 * wait - 1e-3, amount)
        now += wait + 1e-6
        assert window.room(now, amount) >= amount
        window.grant(now, number, amount)


def test_an_expired_lease_is_given_back():
    allowance, sharing = Allowance(), Sharing(Limits(requests_per_minute=12), hold_s=HOLD_S)
    need = Amount(1, 0, 0.0)
    share = sharing.exchange(0.0, Ask("a", Account(), {}, need, need))
    allowance.renew(0.0, share.lease, HOLD_S)
    assert allowance.take(HOLD_S + 0.1, need) is None
    account, returned = allowance.report(HOLD_S + 0.1, renew=False)
    assert returned == {share.lease.number: (1, 0)}
    assert allowance.idle
    assert allowance.take(0.0, NOTHING) is None
    sharing.exchange(HOLD_S + 0.1, Ask("a", account, returned))
    assert sharing.exchange(HOLD_S + 0.2, Ask("a", account, {}, need)).lease.number
