"""In which order waiting requests should go: a simulation of the prefix cache behind an endpoint.

    python benchmarks/request_order.py

Episodes of four environments (prompts of 700 to 2,500 tokens, 3 to 20 turns that grow) share 16 slots; 200 are in
flight, so most of them wait. The server keeps a prefix cache of so many tokens and drops what was used longest ago.
For each order it is counted which share of all prompt tokens

- `previous`: are a prefix of the request sent just before, and
- `cached`: are in the cache,

as the mean of five seeds. The result, which `Throttle` is built on, is written to
benchmarks/results/request_order.json. Everything is computed: the machine's speed does not matter, nor does its load.
"""

import heapq
import itertools
import json
import random
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from bench import write_result

ENVIRONMENTS = {"os": 900, "db": 1200, "alfworld": 700, "web": 2500}
EPISODES, IN_FLIGHT, SLOTS, SEEDS = 400, 200, 16, 5
ENVIRONMENT_S, ANSWER_S = 0.05, (0.7, 1.3)
CACHES = (30_000, 100_000, 400_000)


@dataclass
class Episode:
    """One episode; lengths in tokens."""

    number: int
    environment: str
    length: int
    steps: int
    turn: int = 0
    reply: int = 0

    @property
    def prefix(self) -> int:
        """Length of what all episodes of the environment begin with."""
        return ENVIRONMENTS[self.environment]


class Cache:
    """The prefixes that a server keeps: one for each environment, and one more for each episode."""

    def __init__(self, tokens: int) -> None:
        self._tokens, self._size = tokens, 0
        self._kept: OrderedDict[str, int] = OrderedDict()

    def ask(self, episode: Episode) -> int:
        """Return how many of a request's tokens are kept, and keep the request."""
        shared, own = episode.environment, f"{episode.environment}/{episode.number}"
        found = episode.prefix + self._kept.get(own, 0) if shared in self._kept else 0
        self._keep(shared, episode.prefix)
        self._keep(own, episode.length - episode.prefix + episode.reply)
        return found

    def _keep(self, key: str, tokens: int) -> None:
        self._size += tokens - self._kept.pop(key, 0)
        self._kept[key] = tokens
        while self._size > self._tokens:
            self._size -= self._kept.popitem(last=False)[1]


ORDERS: dict[str, Callable[[Episode], Any]] = {
    "first come": lambda e: 0,
    "most turns first (chosen)": lambda e: -e.turn,
    "in progress before new": lambda e: e.turn == 0,
    "oldest episode first": lambda e: e.number,
    "by environment, then oldest": lambda e: (e.environment, e.number),
}


def simulate(order: Callable[[Episode], Any], cache_tokens: int, seed: int) -> tuple[float, float]:
    """Return the shares `previous` and `cached`."""
    rng, cache, ticks = random.Random(seed), Cache(cache_tokens), itertools.count()
    numbers = itertools.count()
    waiting: list[tuple[Any, int, Episode]] = []
    events: list[tuple[float, int, bool, Episode]] = []
    now, busy, total, repeated, cached = 0.0, 0, 0, 0, 0
    previous: tuple[Episode, int] | None = None

    def new() -> Episode:
        name = rng.choice(list(ENVIRONMENTS))
        return Episode(next(numbers), name, ENVIRONMENTS[name] + rng.randint(50, 200), rng.randint(3, 20))

    def wait(episode: Episode) -> None:
        heapq.heappush(waiting, (order(episode), next(ticks), episode))

    for _ in range(IN_FLIGHT):
        wait(new())
    left = EPISODES - IN_FLIGHT
    while waiting or events:
        while waiting and busy < SLOTS:
            episode = heapq.heappop(waiting)[2]
            busy += 1
            if previous is not None and previous[0] is episode:
                repeated += previous[1]
            elif previous is not None and previous[0].environment == episode.environment:
                repeated += episode.prefix
            episode.reply = rng.randint(20, 60)
            cached += cache.ask(episode)
            total += episode.length
            previous = (episode, episode.length)
            heapq.heappush(events, (now + rng.uniform(*ANSWER_S), next(ticks), True, episode))
        now, _, answered, episode = heapq.heappop(events)
        if not answered:
            wait(episode)
            continue
        busy -= 1
        episode.turn += 1
        episode.length += episode.reply + rng.randint(30, 150)
        if episode.turn == episode.steps:
            if not left:
                continue
            left, episode = left - 1, new()
        heapq.heappush(events, (now + ENVIRONMENT_S, next(ticks), False, episode))
    return repeated / total, cached / total


def main() -> None:
    """Simulate all orders and write the result."""
    table: dict[str, dict[str, dict[str, float]]] = {}
    for tokens in CACHES:
        rows = table[f"cache of {tokens} tokens"] = {}
        for name, order in ORDERS.items():
            shares = [simulate(order, tokens, seed) for seed in range(SEEDS)]
            previous, cached = (round(sum(s) / SEEDS, 3) for s in zip(*shares, strict=True))
            rows[name] = {"previous": previous, "cached": cached}
    write_result(table, "request_order")
    print(json.dumps(table, indent=2))


if __name__ == "__main__":
    main()
