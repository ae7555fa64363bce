"""When a request that nobody answers is asked again. A pure state machine.

Endpoints lose requests: a worker dies behind a load balancer, a connection is forgotten. Such a request would keep its
slot for the whole time-out. One that has waited `FACTOR` times as long as the slowest of the last `RECENT` answers is
dropped and asked again, once: the second time it has the whole time-out, so that no answer is lost for being long. An
endpoint that has become slow is not asked for everything twice: at most `SHARE` of the requests are.
"""

from collections import deque

FACTOR = 4.0
RECENT = 200
LEAST_ANSWERS = 50
"""Before so many answers nothing is known of how long they take."""
LEAST_S = 1.0
"""No request is dropped sooner."""
SHARE = 0.02
MOST_AT_ONCE = 4.0
"""Requests that may be dropped in a row after a long time without any."""


class Slowness:
    """What one process knows of an endpoint's answers."""

    def __init__(self) -> None:
        self._seconds: deque[float] = deque(maxlen=RECENT)
        self._credit = 0.0

    def answered(self, seconds: float) -> None:
        """Take in how long an answer took."""
        self._seconds.append(seconds)
        self._credit = min(MOST_AT_ONCE, self._credit + SHARE)

    def limit(self) -> float | None:
        """Return the seconds after which a request is to be dropped, if `drop` lets it; None: too little is known."""
        return max(LEAST_S, FACTOR * max(self._seconds)) if len(self._seconds) >= LEAST_ANSWERS else None

    def drop(self) -> bool:
        """Return whether a request that has come to its limit may be dropped, and count it if so."""
        if self._credit < 1:
            return False
        self._credit -= 1
        return True
