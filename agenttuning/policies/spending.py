"""What a directory's requests have cost, noted ahead of their being sent, so that no kill forgets any of it.

The note is never below what may be spent: it is written before a lease reaches the process that asked for it, and a
part of the budget ahead, so that few writes do. After a kill it may therefore be above what was spent, by that part and
by what was reserved for requests in flight; after a good end it is exact.
"""

import time

from agenttuning.storage import Store

NOTE = "spending.json"
AHEAD = 0.02
"""Of the budget, or of what is spent where there is none: so far is noted ahead."""
LOWER_S = 5.0
"""What was reserved and is free again is taken off the note no more often."""


class Spending:
    """The note in a directory. Picklable. One process writes it at a time.

    Args:
        store: the directory.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._noted: float | None = None
        self._written_at = float("-inf")

    def read(self) -> float:
        """Return the money that is noted, in the currency of the recipe's prices; 0 where nothing is.

        Raises:
            StorageError: the store does not answer.
        """
        if self._noted is None:
            told = self._store.read_json(NOTE) if self._store.exists(NOTE) else {}
            self._noted = float(told.get("money", 0.0))
        return self._noted

    def cover(self, money: float, most: float | None) -> None:
        """Note at least `money`, and some ahead of it, within the budget `most`; durable when the call returns.

        Raises:
            StorageError: the store cannot be written.
        """
        ahead = AHEAD * (money if most is None else most)
        above = self.read() - money
        if above < 0 or (above > 2 * ahead and time.monotonic() - self._written_at > LOWER_S):
            self.settle(money + ahead if most is None else max(money, min(money + ahead, most)))

    def settle(self, money: float) -> None:
        """Note exactly `money`.

        Raises:
            StorageError: the store cannot be written.
        """
        if money != self.read():
            self._store.write_json(NOTE, {"money": money})
            self._noted, self._written_at = money, time.monotonic()
