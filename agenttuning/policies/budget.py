"""What the whole run may ask of an endpoint: requests and tokens per minute, and money. A pure state machine.

A client (one process) takes *leases*: amounts that it may use within `hold_s` seconds. For every span of a minute, what
was leased and not given back stays within the limits. Money is leased at the worst case of each request and settled
with the real cost, so that spent and reserved money together never pass the limit: the budget stops before it is
exceeded. A request that is refused while others are in flight waits for what they give back; when nothing is in flight
any more, the money is exhausted for good.

A client reports its account in absolute numbers, so that a report that arrives twice changes nothing. What a client
that is gone had reserved counts as spent: its requests may have been charged.
"""

import math
from collections import deque
from dataclasses import dataclass
from typing import NamedTuple

MINUTE = 60.0
BURST_S = 5.0
"""So many seconds' worth of a limit may be used at once,"""
BURST_REQUESTS = 4
"""or what so many requests need, where that is more."""
GONE_S = 60.0
"""A client that was not heard of for so long is gone."""
ACTIVE_S = 10.0
"""Clients that were heard of within this time share what is scarce."""
MONEY_WAIT_S = 0.25
"""How long a client waits for what requests in flight may give back."""
DUST = 1e-9
"""Less money than this is rounding."""


class Amount(NamedTuple):
    """What a request, or a lease for many, may use."""

    requests: int
    tokens: int
    money: float

    def plus(self, other: "Amount") -> "Amount":
        """Return the sum."""
        return Amount(self.requests + other.requests, self.tokens + other.tokens, self.money + other.money)


NOTHING = Amount(0, 0, 0.0)


@dataclass(frozen=True)
class Limits:
    """The limits of a run; None is no limit."""

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    money: float | None = None

    def __bool__(self) -> bool:
        """Whether there is any."""
        return self != Limits()

    def clamp(self, need: Amount) -> Amount:
        """Return a request's need, cut to what a minute allows: more than the whole of it is never asked for."""
        tokens = need.tokens if self.tokens_per_minute is None else min(need.tokens, self.tokens_per_minute)
        return need if tokens == need.tokens else need._replace(tokens=tokens)


class Account(NamedTuple):
    """A client's money, in absolute numbers since it began."""

    held: float = 0.0
    """Reserved: the worst case of its requests in flight, and what it has leased and not used."""
    spent: float = 0.0
    unconfirmed: float = 0.0
    """Of the spent: the worst case of requests whose real cost nobody told."""


class Lease(NamedTuple):
    """What a client got."""

    number: int = 0
    amount: Amount = NOTHING
    wait_s: float = 0.0
    """Where nothing was granted: when to ask again."""
    exhausted: bool = False
    """The money will never allow what was asked."""
    spent: float = 0.0
    """Where it is exhausted: what is spent."""


class Reading(NamedTuple):
    """The state of a budget."""

    spent: float
    """Money spent, with what was spent before this run was continued."""
    held: float
    """Money reserved for requests in flight. Store `spent + held`: after a kill that is the most that can be gone."""
    unconfirmed: float
    exhausted: bool


class Window:
    """One limit per minute: no span of `length` seconds gets more than `limit`, and use is spread over it.

    Args:
        limit: amount per minute.
        length: seconds of a span: a minute, and the time for which a lease may be held before it is used.
    """

    def __init__(self, limit: int, length: float = MINUTE) -> None:
        self.limit = limit
        self._length = length
        self._rate = limit / length
        self._capacity = max(1.0, self._rate * BURST_S)
        self._level = max(1.0, self._rate)
        self._now = float("-inf")
        self._sum = 0
        self._grants: deque[int] = deque()
        self._entries: dict[int, tuple[float, int]] = {}

    def room(self, now: float, least: int) -> int:
        """Return how much may be granted now: 0, or at least `least`."""
        self._advance(now)
        self._widen(least)
        left = self.limit - self._sum
        if left < least or self._level < least:
            return 0
        return max(least, min(left, math.floor(self._level)))

    def wait(self, now: float, amount: int) -> float:
        """Return the seconds until `amount` may be granted, if nothing is given back."""
        self._advance(now)
        self._widen(amount)
        pause = (amount - self._level) / self._rate
        excess = self._sum + amount - self.limit
        for number in self._grants:
            if excess <= 0:
                break
            at, granted = self._entries[number]
            excess -= granted
            pause = max(pause, at + self._length - now)
        return max(0.0, pause)

    def grant(self, now: float, number: int, amount: int) -> None:
        """Book a grant under a lease's number."""
        self._advance(now)
        self._entries[number] = (self._now, amount)
        self._grants.append(number)
        self._sum += amount
        self._level -= amount

    def give_back(self, number: int, amount: int) -> None:
        """Take back what a lease did not use; a negative amount books what it used beyond."""
        if number in self._entries:
            at, granted = self._entries[number]
            self._entries[number] = (at, granted - amount)
            self._sum -= amount
            self._level = min(self._capacity, self._level + amount)

    def _widen(self, amount: int) -> None:
        more = min(BURST_REQUESTS * amount, self.limit) - self._capacity
        if more > 0:
            self._capacity += more
            self._level += more

    def _advance(self, now: float) -> None:
        if now <= self._now:
            return
        if self._now > float("-inf"):
            self._level = min(self._capacity, self._level + (now - self._now) * self._rate)
        self._now = now
        while self._grants and self._entries[self._grants[0]][0] + self._length <= now:
            self._sum -= self._entries.pop(self._grants.popleft())[1]


@dataclass
class _Client:
    account: Account
    heard_at: float


class Budget:
    """The budget of a run.

    Args:
        limits: what the run may use.
        spent: money that earlier starts of this run have spent.
        hold_s: for how long clients may hold a lease before they use it.
    """

    def __init__(self, limits: Limits, spent: float = 0.0, hold_s: float = 0.0) -> None:
        length = MINUTE + hold_s
        rates = {"requests": limits.requests_per_minute, "tokens": limits.tokens_per_minute}
        self._windows = {name: Window(limit, length) for name, limit in rates.items() if limit is not None}
        self._money = limits.money
        self._before = spent
        self._clients: dict[str, _Client] = {}
        self._number = 0
        self._exhausted = False

    def exchange(
        self,
        now: float,
        client: str,
        account: Account,
        returned: dict[int, tuple[int, int]],
        least: Amount | None = None,
        most: Amount | None = None,
    ) -> Lease:
        """Take a client's report, and give it a lease if it wants one.

        Args:
            now: this moment, in seconds of a monotonic clock.
            client: its name.
            account: its money, before this lease.
            returned: by lease: requests and tokens that were leased and not used (negative: used beyond).
            least: what its next request needs, within the limits per minute; None for a report only.
            most: what it could use within `hold_s`; unset, `least`.
        """
        for number, amounts in returned.items():
            for name, amount in zip(("requests", "tokens"), amounts, strict=True):
                if name in self._windows:
                    self._windows[name].give_back(number, amount)
        self._clients[client] = _Client(account, now)
        if least is None:
            return Lease()
        lease = self._lease(now, least, most or least)
        if lease.number:
            held = account._replace(held=account.held + lease.amount.money)
            self._clients[client] = _Client(held, now)
        return lease

    def active(self, now: float) -> int:
        """Return how many clients were heard of lately."""
        return sum(now - c.heard_at <= ACTIVE_S for c in self._clients.values())

    def read(self, now: float) -> Reading:
        """Return what is spent and reserved."""
        gone = self._gone(now)
        held = sum(c.account.held for c in self._clients.values()) - gone
        spent = self._before + gone + sum(c.account.spent for c in self._clients.values())
        unconfirmed = gone + sum(c.account.unconfirmed for c in self._clients.values())
        return Reading(spent, held, unconfirmed, self._exhausted)

    def _lease(self, now: float, least: Amount, most: Amount) -> Lease:
        money = self._room_for_money(now, least.money)
        if self._exhausted:
            return Lease(exhausted=True, spent=self.read(now).spent)
        if money is None:
            return Lease(wait_s=MONEY_WAIT_S)
        waits = [window.wait(now, getattr(least, name)) for name, window in self._windows.items()]
        room = {name: window.room(now, getattr(least, name)) for name, window in self._windows.items()}
        if any(room[name] < getattr(least, name) for name in room):
            return Lease(wait_s=max(waits))
        clients = max(1, self.active(now))
        amount = Amount(
            _part(least.requests, most.requests, room.get("requests"), clients),
            _part(least.tokens, most.tokens, room.get("tokens"), clients),
            max(least.money, min(most.money, money / clients)),
        )
        self._number += 1
        for name, window in self._windows.items():
            window.grant(now, self._number, getattr(amount, name))
        return Lease(self._number, amount)

    def _room_for_money(self, now: float, least: float) -> float | None:
        """Return the money that may be reserved, or None where the client has to wait."""
        if self._money is None:
            return math.inf
        state = self.read(now)
        left = self._money - state.spent - state.held
        if least <= left + DUST:
            return left
        self._exhausted = self._exhausted or state.held <= DUST
        return None

    def _gone(self, now: float) -> float:
        return sum(c.account.held for c in self._clients.values() if now - c.heard_at > GONE_S)


def _part(least: int, most: int, room: int | None, clients: int) -> int:
    """Return a client's part: what it wants, within its share of the room, and never less than it needs."""
    return most if room is None else max(least, min(most, room // clients))
