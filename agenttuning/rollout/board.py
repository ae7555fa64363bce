"""`Board`: where actors and driver meet. What is stored so far, who is there, what is full, and whether it is over.

It becomes an asynchronous Ray actor on the driver's own node, so that it lives as long as the driver does. Actors tell
it of every segment that became durable, and say every few seconds that they live; the driver takes what is new.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from agenttuning.storage.index import Entry

BEAT_SECONDS = 2.0
"""Time between two signs of life of an actor."""
SILENT_SECONDS = 15.0
"""An actor that gave no sign for so long is gone: its process or node died, and it waits for a place to start again."""
IDLE_SECONDS = 5.0
"""Where all others have been idle for so long, the episodes of the gone are played by them."""
FREE_SECONDS = 10.0
"""How long actors may take to free their environments when the job is over."""


@dataclass
class _Present:
    """One actor, across its restarts."""

    handle: Any
    incarnation: str
    seen: float
    in_flight: int = 0
    failures: dict[tuple[str, str], int] = field(default_factory=dict)


@dataclass(frozen=True)
class News:
    """What the driver takes from the board."""

    entries: list[Entry]
    """Stored since the last time."""
    failures: dict[tuple[str, str], int]
    """Infrastructure failures of this job so far, by environment and kind."""
    joined: int
    """Actors that ever came, restarts included."""
    actors: int
    """Actors that live."""
    in_flight: int
    stranded: list[Any]
    """Handles of actors that are gone while all others have nothing to do."""


class Board:
    """See the module.

    Args:
        thresholds: reward from which on an episode counts as kept, by environment.
        quota: kept episodes that are enough, by environment; without an entry there is no bound.
        kept: kept episodes that were stored before.
    """

    def __init__(self, thresholds: Mapping[str, float], quota: Mapping[str, int], kept: Mapping[str, int]) -> None:
        self._thresholds = thresholds
        self._quota = quota
        self._kept = Counter(kept)
        self._fresh: list[Entry] = []
        self._segments: set[str] = set()
        self._past: Counter[tuple[str, str]] = Counter()
        self._actors: dict[str, _Present] = {}
        self._joined = 0
        self._idle_since: float | None = None
        self._over, self._empty = asyncio.Event(), asyncio.Event()

    async def begin(self) -> None:
        """Begin another pass: actors that join now stay until it is finished. A new board has begun its first."""
        for actor in list(self._actors):
            self._forget(actor)
        self._idle_since = None
        self._over, self._empty = asyncio.Event(), asyncio.Event()

    async def join(self, actor: str, handles: Sequence[Any], incarnation: str) -> None:
        """Enter an actor under its Ray id, with its own (weak) handle; returns when it shall free its environments.

        An incarnation whose call was lost on the way may call again.
        """
        present = self._actors.get(actor)
        if present is None or present.incarnation != incarnation:
            self._forget(actor)
            self._joined += 1
            self._actors[actor] = _Present(handles[0], incarnation, time.monotonic())
        await self._over.wait()

    async def tell(
        self, actor: str, in_flight: int, failures: dict[tuple[str, str], int], entries: Sequence[Entry] = ()
    ) -> list[str]:
        """Take an actor's sign of life and what became durable there; return the environments whose quota is met.

        Entries count once, however often they are told; those of one segment are told together.
        """
        if (present := self._actors.get(actor)) is not None:
            present.seen, present.in_flight, present.failures = time.monotonic(), in_flight, failures
        fresh = [entry for entry in entries if entry.segment not in self._segments]
        self._segments.update(entry.segment for entry in fresh)
        self._fresh += fresh
        for entry in fresh:
            self._kept[entry.environment] += entry.reward >= self._thresholds.get(entry.environment, 1.0)
        return [name for name, enough in self._quota.items() if self._kept[name] >= enough]

    async def note(self, environment: str, kind: str) -> None:
        """Count a failure that no actor lives to tell."""
        self._past[environment, kind] += 1

    async def take(self) -> News:
        """Return what is new and how things stand."""
        now = time.monotonic()
        live = [a for a in self._actors.values() if now - a.seen < SILENT_SECONDS]
        gone = [a for a in self._actors.values() if now - a.seen >= SILENT_SECONDS]
        in_flight = sum(a.in_flight for a in live)
        if in_flight or not live:
            self._idle_since = None
        elif self._idle_since is None:
            self._idle_since = now
        stranded = gone if self._idle_since is not None and now - self._idle_since > IDLE_SECONDS else []
        failures = self._past + sum((Counter(a.failures) for a in self._actors.values()), Counter())
        entries, self._fresh = self._fresh, []
        return News(entries, dict(failures), self._joined, len(live), in_flight, [a.handle for a in stranded])

    async def leave(self, actor: str) -> None:
        """Say that an actor has freed its environments."""
        self._forget(actor)

    async def wait_empty(self) -> None:
        """Return when the pass is over and all actors have left."""
        await self._empty.wait()

    async def finish(self) -> None:
        """Declare the pass over, wait a little until the actors have left, and let the last block return."""
        self._over.set()
        deadline = time.monotonic() + FREE_SECONDS
        while time.monotonic() < deadline and any(
            time.monotonic() - a.seen < SILENT_SECONDS for a in self._actors.values()
        ):
            await asyncio.sleep(0.02)
        self._empty.set()

    def _forget(self, actor: str) -> None:
        if (present := self._actors.pop(actor, None)) is not None:
            self._past.update(present.failures)
