"""What the processes of one run share about an endpoint: the budget, and signs that it is asked too much.

`Sharing` is the shared state; `shared_limits` keeps one in a Ray actor for the length of a run. Each process sends an
`Ask` about once a second, and sooner when its lease is used up, and gets a `Share`: a lease for many requests, what the
others saw, and for how long the endpoint asked all to wait. So the actor sees a few calls per second and process,
whatever the number of requests. A process that is alone keeps a `Sharing` of its own (`local_link`).

Where the recipe gives a number of requests in flight, each process gets its part of these places, but never more than
the others leave: one that is told to hold fewer keeps its old places until it has said that they are free. So there are
never more in flight than the recipe says, and a process that joins waits a second or two for its part.
"""

import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

from agenttuning.errors import InfrastructureError
from agenttuning.policies.allowance import HOLD_S
from agenttuning.policies.budget import ACTIVE_S, Account, Amount, Budget, Lease, Limits, Reading
from agenttuning.policies.spending import Spending
from agenttuning.recipe import PolicySpec

SETTLE_S = 30.0
"""How long the last note may take."""
TURN_S = 30.0
"""Places that do not divide among the processes go round after so long: with few, each process has its turn."""


class Seen(NamedTuple):
    """Requests that came to an end."""

    ended: int = 0
    strained: int = 0
    """Of them, those that were refused as too many, or timed out."""
    answered: int = 0
    """Of them, those that got a usable answer."""


class Ask(NamedTuple):
    """What a process reports and wants."""

    client: str
    account: Account
    returned: dict[int, tuple[int, int]]
    """By lease: requests and tokens that were not used."""
    least: Amount | None = None
    most: Amount | None = None
    seen: Seen = Seen()
    """Since the last report."""
    pause_s: float = 0.0
    """For how long the endpoint asked this process to wait still; what others told is not told again."""
    limit: int = 0
    """Requests that this process may have in flight."""
    in_flight: int = 0
    """Requests that it has in flight; more than `limit` after that has fallen."""
    places: int | None = None
    """Requests in flight over all processes, where the recipe gives a number; None from one that needs no place now."""


class Share(NamedTuple):
    """What a process gets."""

    lease: Lease
    seen: Seen
    """By the others, since this process's last report."""
    pause_s: float
    places: int | None = None
    """Requests that it may have in flight for the next `ACTIVE_S`, where the recipe gives a number."""


class _Held(NamedTuple):
    """What a process has told."""

    at: float
    limit: int
    places: int
    """The most that it may have in flight until it tells again."""


Link = Callable[[Ask], Awaitable[Share]]
"""How a process reaches the shared state; `InfrastructureError`: it does not just now, and may a little later."""


class Sharing:
    """The shared state of a run. Its clock is the caller's.

    Args:
        limits: what the run may use.
        hold_s: for how long a lease may be held before it is used.
        spending: where money is noted, before the lease that may spend it is given out.
    """

    def __init__(self, limits: Limits, hold_s: float = 0.0, spending: Spending | None = None) -> None:
        self._most, self._spending = limits.money, spending
        self._budget = Budget(limits, spending.read() if spending else 0.0, hold_s)
        self._seen = Seen()
        self._told: dict[str, Seen] = {}
        self._held: dict[str, _Held] = {}
        self._paused_until = float("-inf")

    def exchange(self, now: float, ask: Ask) -> Share:
        """Take one report in and answer it.

        Raises:
            StorageError: the money cannot be noted, and must not be spent.
        """
        told = self._told.get(ask.client, self._seen)
        others = Seen(*(total - before for total, before in zip(self._seen, told, strict=True)))
        self._seen = Seen(*(before + more for before, more in zip(self._seen, ask.seen, strict=True)))
        self._told[ask.client] = self._seen
        places = self._place(now, ask)
        self._paused_until = max(self._paused_until, now + ask.pause_s)
        lease = self._budget.exchange(now, ask.client, ask.account, ask.returned, ask.least, ask.most)
        if self._spending is not None:
            self._spending.cover(self._committed(now), self._most)
        pause = max(0.0, self._paused_until - now)
        return Share(lease, others, pause, places)

    def concurrency(self, now: float) -> int:
        """Return how many requests the processes that were heard of lately may have in flight together."""
        return sum(held.limit for held in self._held.values() if now - held.at <= ACTIVE_S)

    def read(self, now: float) -> Reading:
        """Return what is spent and reserved."""
        return self._budget.read(now)

    def settle(self, now: float) -> None:
        """Note what is spent without anything ahead, when nothing more is asked for.

        Raises:
            StorageError: the note cannot be written; the one before is not below.
        """
        if self._spending is not None:
            self._spending.settle(self._committed(now))

    def _place(self, now: float, ask: Ask) -> int | None:
        """Take in what a process may have in flight, and return its part of the places, if there are any to share."""
        active = sorted({ask.client, *(name for name, held in self._held.items() if now - held.at <= ACTIVE_S)})
        granted = None
        if ask.places is not None:
            each, rest = divmod(ask.places, len(active))
            part = each + ((active.index(ask.client) + int(now / TURN_S)) % len(active) < rest)
            left = ask.places - sum(self._held[name].places for name in active if name != ask.client)
            granted = max(0, min(part, left))
        self._held[ask.client] = _Held(now, ask.limit, max(ask.limit, ask.in_flight, granted or 0))
        return granted

    def _committed(self, now: float) -> float:
        reading = self.read(now)
        return reading.spent + reading.held


def limits_of(spec: PolicySpec) -> Limits:
    """Return the limits that a recipe sets."""
    return Limits(**spec.budget.model_dump())


def local_link(sharing: Sharing) -> Link:
    """Return the link of a process that is alone."""

    async def exchange(ask: Ask) -> Share:
        return sharing.exchange(time.monotonic(), ask)

    return exchange


def actor_link(actor: Any) -> Link:
    """Return the link to the actor of `shared_limits`.

    Where Ray cannot reach the actor just now, which may pass, it raises `InfrastructureError`.
    """
    from ray.exceptions import ActorUnavailableError

    async def exchange(ask: Ask) -> Share:
        try:
            share: Share = await actor.exchange.remote(ask)
        except ActorUnavailableError as error:
            raise InfrastructureError(str(error)) from error
        return share

    return exchange


class _SharingActor:
    """The Ray actor around a `Sharing`."""

    def __init__(self, limits: Limits, spending: Spending | None) -> None:
        self._sharing = Sharing(limits, HOLD_S, spending)

    def exchange(self, ask: Ask) -> Share:
        return self._sharing.exchange(time.monotonic(), ask)

    def concurrency(self) -> int:
        return self._sharing.concurrency(time.monotonic())

    def read(self) -> Reading:
        return self._sharing.read(time.monotonic())

    def settle(self) -> None:
        self._sharing.settle(time.monotonic())


@contextmanager
def shared_limits(spec: PolicySpec, run: str, spending: Spending | None = None) -> Iterator[Any]:
    """Keep a run's shared state in a Ray actor, for `EndpointPolicy.from_spec(..., shared=...)` in any process.

    It lives on the node of the caller, which is the one that outlives the others, and ends with the block or with its
    driver. `ray.get(actor.read.remote())` is a `Reading`; `actor.concurrency` tells how many requests may be in flight,
    such as `auto` has found.

    Args:
        spec: the policy whose budget it keeps.
        run: the run's id; part of the actor's name.
        spending: where money is noted before it is spent, and what earlier starts have noted.

    Raises:
        DataError: the note of earlier starts is no sum of money.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    if spending is not None:
        spending.read()  # What is wrong with it is said here; an actor that fails to begin says little.
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    kind = ray.remote(num_cpus=0, max_restarts=0, scheduling_strategy=here)(_SharingActor)
    actor = kind.options(name=f"agenttuning-limits-{run}").remote(limits_of(spec), spending)
    try:
        yield actor
    finally:
        # Where the actor is gone or the store is, the note stays as it is, which is never too low.
        with suppress(ray.exceptions.RayError):
            ray.get(actor.settle.remote(), timeout=SETTLE_S)
        ray.kill(actor)
