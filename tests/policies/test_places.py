"""A fixed number of requests in flight, shared by processes that come, go, and hear of each other late."""

import random
from dataclasses import dataclass, field

import pytest

from agenttuning.policies.budget import ACTIVE_S, Account, Limits
from agenttuning.policies.sharing import Ask, Share, Sharing

STEP_S = 0.1
BEAT_STEPS = 10


@dataclass
class Process:
    """Takes all the places it may, asks once a second, and gets its answer late or never."""

    name: str
    limit: int = 0
    until: float = 0.0
    in_flight: int = 0
    served: int = 0
    busy: bool = True
    mail: list[tuple[float, float, Share]] = field(default_factory=list)

    def turn(self, now, rng):
        for arrives, asked, share in [m for m in self.mail if m[0] <= now]:
            self.mail.remove((arrives, asked, share))
            self.limit, self.until = share.places, asked + ACTIVE_S
        ended = sum(rng.random() < 0.05 for _ in range(self.in_flight))
        self.in_flight -= ended
        self.served += ended
        if self.busy and now < self.until:
            self.in_flight = max(self.in_flight, self.limit)

    def ask(self, sharing, now, places, rng):
        limit = self.limit if now < self.until else 0
        ask = Ask(self.name, Account(), {}, limit=limit, in_flight=self.in_flight, places=places)
        share = sharing.exchange(now, ask)
        if rng.random() > 0.05:
            self.mail.append((now + rng.uniform(0, 0.9), now, share))


def simulate(places, count, seed, seconds=300.0):
    """Yield the time and the processes at every step."""
    rng, sharing = random.Random(seed), Sharing(Limits())
    processes = [Process(f"p{rng.random()}") for _ in range(count)]
    joins = {p.name: rng.uniform(0, 40) if rng.random() < 0.5 else 0.0 for p in processes}
    for step in range(int(seconds / STEP_S)):
        now = step * STEP_S
        here = [p for p in processes if joins[p.name] <= now]
        for number, process in enumerate(here):
            process.turn(now, rng)
            if (step + number) % BEAT_STEPS == 0 and (process.busy or process.in_flight):
                process.ask(sharing, now, places, rng)
        yield now, here


@pytest.mark.parametrize(("places", "count"), [(64, 4), (6, 2), (10, 3), (3, 7), (1, 2), (5, 5)])
def test_never_more_than_the_number_and_none_starves(places, count):
    for seed in range(5):
        full = 0
        for now, processes in simulate(places, count, seed):
            total = sum(p.in_flight for p in processes)
            assert total <= places, f"{total} of {places} at {now:.1f} s"
            full += total > 0.8 * places or total == places
        assert all(p.served for p in processes), "each had its turn"
        if places % count == 0:
            assert {p.limit for p in processes} == {places // count}
            assert full * STEP_S > 240, "and the places are used"


def test_the_places_of_one_that_falls_silent_go_to_the_others():
    seen = []
    for now, processes in simulate(12, 3, 1):
        if now > 100:
            processes[0].busy = False
        seen.append([p.limit for p in processes][1:])
        assert sum(p.in_flight for p in processes) <= 12
    assert seen[950] == [4, 4]
    assert seen[-1] == [6, 6]
