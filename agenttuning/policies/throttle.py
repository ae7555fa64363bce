"""The gate in front of an endpoint: few enough requests at once, within the budget, episodes in progress first.

One `Throttle` stands in each process. A request is let through when a slot is free (`Concurrency`), the endpoint has
not asked all to wait, and the process's lease covers it (`Allowance`). Those that wait are ordered by how far their
episode has come: so episodes are finished before new ones begin, few prefixes are in use at a time, and the server's
prefix cache keeps them. Where more is refused than bad luck explains, a refused request keeps its slot for as long as
an answer takes, or refusals would be asked for at the speed of the network.

Leases, and what the run's other processes see, come through a `Link`: a task exchanges reports over it while there is
anything to report, about once a second and sooner when the lease is used up.
"""

import asyncio
import contextlib
import heapq
import itertools
import random
import time
import uuid
from dataclasses import dataclass
from enum import Enum, auto

from agenttuning.errors import AgentTuningError, BudgetExceeded, InfrastructureError
from agenttuning.policies.allowance import HOLD_S, Allowance
from agenttuning.policies.budget import ACTIVE_S, Amount, Lease, Limits
from agenttuning.policies.concurrency import TOLERATED_SHARE, Concurrency
from agenttuning.policies.sharing import Ask, Link, Seen, Share

BEAT_S = 1.0
"""A process that has requests in flight reports this often."""
GAP_S = 0.05
"""It never reports more often."""
PATIENCE_S = 60.0
"""A shared state that cannot be reached is asked again for so long. Requests wait where they need its leave."""
REFUSED_S = 0.1
"""A refused request keeps its slot at least so long."""
STRAINED = 0.5
"""From this share of refusals on, a Retry-After holds all requests back, not only the one that got it."""
SPREAD_S = 0.5
"""Processes that all had to wait come back within so long of each other."""


class End(Enum):
    """How a request that was sent came to an end."""

    ANSWERED = auto()
    STRAINED = auto()
    """It was refused as too many, or timed out."""
    FAILED = auto()


@dataclass(slots=True)
class Ticket:
    """A request that was let through; to be given to `done` exactly once."""

    need: Amount
    lease: int
    sent_at: float


class Throttle:
    """The gate of one process.

    Args:
        concurrency: the limit of requests in flight.
        limits: the run's budget; any needs a link.
        link: reaches the shared state; unset, there is nothing to keep account of.
        fixed: requests in flight over all processes, where the recipe gives a number.
    """

    def __init__(
        self, concurrency: Concurrency, limits: Limits, link: Link | None = None, fixed: int | None = None
    ) -> None:
        self.concurrency = concurrency
        self.limits = limits
        self.in_flight = 0
        self.resume_at = float("-inf")
        """All requests wait until then."""
        self.answered_at = time.monotonic()
        """When this process, or another of the run, last had an answer."""
        self._link, self._fixed = link, fixed
        self._client = uuid.uuid4().hex
        self._allowance = Allowance(limited=bool(limits))
        self._waiting: list[tuple[int, int, Amount, asyncio.Future[Ticket]]] = []
        self._order = itertools.count()
        self._kept: list[float] = []
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = float("inf")
        self._broken: AgentTuningError | None = None
        self._joined = link is None
        self._places_until = float("inf") if link is None or fixed is None else float("-inf")
        self._talk: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()
        self._ask_at = float("-inf")
        self._told_until = float("-inf")
        self._seen = Seen()

    @property
    def waiting(self) -> int:
        """Requests that wait to be let through."""
        return len(self._waiting)

    async def admit(self, progress: int, need: Amount) -> Ticket:
        """Wait until a request may be sent.

        Args:
            progress: how far its episode has come; more goes first, equals in the order of their coming.
            need: the most that the request can use.

        Raises:
            BudgetExceeded: the money is spent.
            InfrastructureError: the state that the run's processes share is gone.
        """
        need = self.limits.clamp(need)
        if not self._waiting and (ticket := self._try(need)) is not None:
            return ticket
        future: asyncio.Future[Ticket] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (-progress, next(self._order), need, future))
        self._pump()
        try:
            return await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled() and future.exception() is None:
                self.done(future.result(), None, tokens=0, money=0.0)
            raise

    def done(self, ticket: Ticket, end: End | None, *, tokens: int | None, money: float | None) -> None:
        """Give a request's slot back.

        Args:
            ticket: what `admit` returned.
            end: how it ended; None where it was given up here and says nothing about the endpoint.
            tokens: tokens that it used; None where nobody told.
            money: what it cost; None where nobody told.
        """
        now = time.monotonic()
        full = not self._slot_is_free(now)
        self._allowance.settle(ticket.lease, ticket.need, tokens=tokens, money=money)
        self.in_flight -= 1
        if end is not None:
            strained, answered = end is End.STRAINED, end is End.ANSWERED
            self.concurrency.record(now, ticket.sent_at, strained=strained, full=full)
            seen = self._seen
            self._seen = Seen(seen.ended + 1, seen.strained + strained, seen.answered + answered)
            if answered:
                self.answered_at = now
            if strained and (self.concurrency.strain or 0.0) > TOLERATED_SHARE:
                heapq.heappush(self._kept, ticket.sent_at + max(REFUSED_S, self.concurrency.usual))
        self._pump()

    def hold(self, seconds: float) -> None:
        """Take in that the endpoint asked to wait: all do, where it is refusing most requests."""
        strain, until = self.concurrency.strain, time.monotonic() + seconds
        if strain is not None and strain >= STRAINED and until > self._told_until:
            self._told_until = until
            self._pause_until(until)
            self._wake.set()

    async def aclose(self) -> None:
        """Stop reporting, after a last report. A request that comes later, on whatever loop, starts it again."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._talk is not None:
            self._talk.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._talk
        if self._link is not None and self._joined:
            with contextlib.suppress(Exception):
                await self._link(self._ask(time.monotonic(), None, renew=True))

    def _try(self, need: Amount) -> Ticket | None:
        """Let one request through, if it may go now."""
        now = time.monotonic()
        self._keep_talking()
        if now >= self._places_until:
            self._wake.set()
            return None
        if self._broken is not None or not self._joined or now < self.resume_at or not self._slot_is_free(now):
            return None
        lease = self._allowance.take(now, need)
        if lease is None:
            self._wake.set()
            return None
        self.in_flight += 1
        return Ticket(need, lease, now)

    def _slot_is_free(self, now: float) -> bool:
        while self._kept and self._kept[0] <= now:
            heapq.heappop(self._kept)
        return self.in_flight + len(self._kept) < self.concurrency.limit

    def _pump(self) -> None:
        """Let through all who may go."""
        while (need := self._head()) is not None:
            ticket = self._try(need)
            if self._broken is not None:
                self._fail(self._broken)
                return
            if ticket is None:
                self._pump_later()
                return
            heapq.heappop(self._waiting)[3].set_result(ticket)

    def _head(self) -> Amount | None:
        """Return the need of the first that waits, after those that were cancelled are dropped."""
        while self._waiting and self._waiting[0][3].done():
            heapq.heappop(self._waiting)
        return self._waiting[0][2] if self._waiting else None

    def _pump_later(self) -> None:
        """Try again when a pause is over or a kept slot is free, which nobody else announces."""
        now = time.monotonic()
        at = min((t for t in (self.resume_at, *self._kept[:1]) if t > now), default=None)
        if at is not None and (self._timer is None or self._timer_at <= now or at < self._timer_at):
            if self._timer is not None:
                self._timer.cancel()
            # Kept here too: a handle of uvloop, which Ray's workers run, need not know when it is due.
            self._timer_at = now + min(at - now, BEAT_S)
            self._timer = asyncio.get_running_loop().call_later(self._timer_at - now, self._pump)

    def _fail(self, error: AgentTuningError) -> None:
        waiting, self._waiting = self._waiting, []
        for _, _, _, future in waiting:
            if not future.done():
                future.set_exception(error)

    def _pause_until(self, until: float) -> None:
        if until > self.resume_at:
            self.resume_at = until + random.uniform(0, SPREAD_S)

    def _keep_talking(self) -> None:
        if self._link is not None and (self._talk is None or self._talk.done()):
            self._wake = asyncio.Event()
            self._talk = asyncio.get_running_loop().create_task(self._exchange_reports(self._link, self._wake))

    async def _exchange_reports(self, link: Link, wake: asyncio.Event) -> None:
        """Report and take leases until there is nothing to report."""
        heard_at = time.monotonic()
        while True:
            wake.clear()
            now = time.monotonic()
            need = self._unmet(now)
            try:
                share = await link(self._ask(now, need, renew=need is not None))
                heard_at = now
            except Exception as error:
                # What a lost report gave back counts as used, and the next one has the whole account again.
                if isinstance(error, InfrastructureError) and now - heard_at < PATIENCE_S:
                    await asyncio.sleep(BEAT_S)
                    continue
                said = (str(error).strip().splitlines() or [""])[-1]
                self._broken = InfrastructureError(
                    f"what keeps this run's limits is gone or fails ({type(error).__name__}: {said}); "
                    "run the same command again"
                )
                self._fail(self._broken)
                return
            self._take_in(time.monotonic(), share, need)
            if share.places is not None:
                # They are taken for given up so long after the question was heard, which was after it was asked.
                self.concurrency.fix(share.places)
                self._places_until = now + ACTIVE_S
            self._pump()
            if not (self.in_flight or self._waiting or self._holds_places) and self._allowance.idle:
                return
            await asyncio.sleep(max(GAP_S, self._ask_at - time.monotonic()))
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(wake.wait(), BEAT_S - GAP_S)

    @property
    def _holds_places(self) -> bool:
        return self._fixed is not None and self._places_until > float("-inf")

    def _unmet(self, now: float) -> Amount | None:
        """Return the need of the first that waits, where only the lease holds it back."""
        ready = self._allowance.limited and now >= self.resume_at and self._slot_is_free(now)
        return self._head() if ready else None

    def _ask(self, now: float, need: Amount | None, *, renew: bool) -> Ask:
        """Write a report that asks for a lease for `need`, or none; where it is renewed, the last is given back."""
        places = self._fixed
        if places is not None and not (self.in_flight or self._waiting):
            self._places_until, places = float("-inf"), None
        account, returned = self._allowance.report(now, renew=renew)
        most = None if need is None else self._allowance.foreseen(now, self._next())
        pause, limit = max(0.0, self._told_until - now), self.concurrency.limit if now < self._places_until else 0
        ask = Ask(self._client, account, returned, need, most, self._seen, pause, limit, self.in_flight, places)
        self._seen = Seen()
        return ask

    def _next(self) -> list[Amount]:
        """Return the needs of those that wait and would find a free slot, the first at least."""
        free = max(1, self.concurrency.limit - self.in_flight)
        return [need for _, _, need, future in heapq.nsmallest(free, self._waiting) if not future.done()]

    def _take_in(self, now: float, share: Share, need: Amount | None) -> None:
        """Take the lease that was asked for, and what the others saw."""
        lease = share.lease
        self._allowance.renew(now, lease, HOLD_S)
        self._ask_at = float("-inf")
        if need is not None and lease.exhausted:
            self._broken = self._exhausted(lease, need)
        elif need is not None and not lease.number:
            self._ask_at = now + min(lease.wait_s, BEAT_S)
        self._joined = True
        self.concurrency.hear(share.seen.ended, share.seen.strained)
        if share.seen.answered:
            self.answered_at = now
        if share.pause_s > 0:
            self._pause_until(now + share.pause_s)

    def _exhausted(self, lease: Lease, need: Amount) -> BudgetExceeded:
        return BudgetExceeded(
            f"policy.budget.money={self.limits.money:g} is used up: {lease.spent:.6g} is spent, and the next request "
            f"could cost {need.money:.6g}; raise policy.budget.money, and the same command continues"
        )
