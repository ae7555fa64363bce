"""One process's side of the budget: what it has leased, used and to give back. A pure state machine."""

from collections import defaultdict
from collections.abc import Sequence

from agenttuning.policies.budget import NOTHING, Account, Amount, Lease

HOLD_S = 1.0
"""How long a process may hold a lease before it is used."""
SHORTEST_S = 0.05
"""Use is measured over no shorter time."""


class Allowance:
    """The lease that a process holds, and its account.

    Args:
        limited: requests need a lease; otherwise there is only the account.
    """

    def __init__(self, limited: bool = True) -> None:
        self.limited = limited
        self._lease = 0
        self._left = NOTHING
        self._until = float("-inf")
        self._open, self._in_flight = 0, 0.0
        self._reported = Account()
        self._spent = self._unconfirmed = 0.0
        self._returned: defaultdict[int, list[int]] = defaultdict(lambda: [0, 0])
        self._taken, self._taken_since = NOTHING, 0.0

    def take(self, now: float, need: Amount) -> int | None:
        """Use up a part of the lease for one request; return the lease's number, or None where it does not cover it."""
        if self.limited:
            left = self._left
            if now >= self._until or any(n > h for n, h in zip(need, left, strict=True)):
                return None
            self._left = Amount(left.requests - need.requests, left.tokens - need.tokens, left.money - need.money)
            self._taken = self._taken.plus(need)
        self._open += 1
        self._in_flight += need.money
        return self._lease

    def settle(self, lease: int, need: Amount, *, tokens: int | None, money: float | None) -> None:
        """Book what a request really used.

        Args:
            lease: what `take` returned.
            need: what was taken.
            tokens: its tokens; None where nobody told.
            money: its cost; None where nobody told, which books the worst case.
        """
        self._open -= 1
        self._in_flight = self._in_flight - need.money if self._open else 0.0
        self._spent += need.money if money is None else money
        self._unconfirmed += need.money if money is None else 0.0
        if self.limited and tokens is not None and tokens != need.tokens:
            self._returned[lease][1] += need.tokens - tokens

    def foreseen(self, now: float, waiting: Sequence[Amount]) -> Amount:
        """Return what may be used within `HOLD_S`: by those that wait, and at the rate since the last call."""
        past = max(now - self._taken_since, SHORTEST_S)
        requests, tokens, money = (amount / past * HOLD_S for amount in self._taken)
        self._taken, self._taken_since = NOTHING, now
        most = Amount(int(requests), int(tokens), money)
        for need in waiting:
            most = most.plus(need)
        return most

    def report(self, now: float, *, renew: bool) -> tuple[Account, dict[int, tuple[int, int]]]:
        """Return the account and what is given back; a lease that is over, or to be renewed, is given back whole."""
        if renew or now >= self._until:
            if self._left.requests or self._left.tokens:
                back = self._returned[self._lease]
                back[0] += self._left.requests
                back[1] += self._left.tokens
            self._left, self._until = NOTHING, float("-inf")
        returned = {number: (r, t) for number, (r, t) in self._returned.items()}
        self._returned.clear()
        self._reported = self._account()
        return self._reported, returned

    def renew(self, now: float, lease: Lease, hold_s: float) -> None:
        """Take a lease."""
        if lease.number:
            self._lease, self._left, self._until = lease.number, lease.amount, now + hold_s

    @property
    def idle(self) -> bool:
        """Whether nothing is held and all is reported."""
        return self._left == NOTHING and not self._returned and self._account() == self._reported

    def _account(self) -> Account:
        return Account(self._in_flight + self._left.money, self._spent, self._unconfirmed)
