"""What a directory's requests have cost, noted ahead of their being sent, so that no kill forgets any of it.

Under any limit of the budget, the note is never below what may be spent: it is written before a lease reaches the
process that asked for it, and a part of the budget ahead, so that few writes do. After a kill it may therefore be above
what was spent, by that part and by what was reserved for requests in flight; after a good end it is exact.

The directories of one run's rounds have one budget: each has a note of what was spent there, and what the others note
counts in every sum here.

With prices and no limit at all there are no leases: requests are sent unasked, and the note follows what the processes
report, about every second. A kill then forgets what was spent since.
"""

import math
import time

from agenttuning.errors import DataError
from agenttuning.storage import Store
from agenttuning.storage.lease import Fence
from agenttuning.storage.patience import patiently

NOTE = "spending.json"
AHEAD = 0.02
"""Of the budget, or of what is spent where there is none: so far is noted ahead."""
LOWER_S = 5.0
"""What was reserved and is free again is taken off the note no more often."""


class Spending:
    """The note in a directory. Picklable. One process writes it at a time.

    Args:
        store: the directory.
        fence: of the driver that writes; unset, the directory has no drivers.
        elsewhere: money of the same budget that was spent in other directories.
    """

    def __init__(self, store: Store, fence: Fence | None = None, elsewhere: float = 0.0) -> None:
        self._store = store
        self._fence = fence
        self._elsewhere = elsewhere
        self._noted: float | None = None
        self._written_at = float("-inf")

    def read(self) -> float:
        """Return the money that is noted, and spent elsewhere, in the currency of the recipe's prices.

        Raises:
            DataError: the note was changed by hand and is no sum of money.
            StorageError: the store does not answer.
        """
        if self._noted is None:
            self._noted = self._elsewhere + (self._stored() if self._store.exists(NOTE) else 0.0)
        return self._noted

    def cover(self, money: float, most: float | None) -> None:
        """Note at least `money`, and some ahead of it, within the budget `most`; durable when the call returns.

        Waits for an object store that stumbles: meanwhile nothing more may be spent.

        Raises:
            Fenced: another driver has taken the directory over.
            StorageError: the store cannot be written.
        """
        ahead = AHEAD * (money if most is None else most)
        above = self.read() - money
        if above < 0 or (above > 2 * ahead and time.monotonic() - self._written_at > LOWER_S):
            self.settle(money + ahead if most is None else max(money, min(money + ahead, most)))

    def settle(self, money: float) -> None:
        """Note exactly `money`.

        Raises:
            Fenced: another driver has taken the directory over; its note stays.
            StorageError: the store cannot be written.
        """
        if money != self.read():
            patiently(self._store, lambda: self._write(max(0.0, money - self._elsewhere)))
            self._noted, self._written_at = money, time.monotonic()

    def _write(self, money: float) -> None:
        if self._fence is not None:
            self._fence.check()
        self._store.write_json(NOTE, {"money": money})

    def _stored(self) -> float:
        try:
            told = self._store.read_json(NOTE)
        except DataError as error:
            raise self._refused("it is not JSON") from error
        money = told.get("money") if isinstance(told, dict) else None
        if isinstance(money, bool) or not isinstance(money, int | float) or not 0 <= money < math.inf:
            raise self._refused(f"got {told!r}")
        return float(money)

    def _refused(self, why: str) -> DataError:
        return DataError(
            f'{self._store.uri}/{NOTE}: must be {{"money": NUMBER}} with what was spent so far, 0 or more ({why}); '
            "write the number of your provider's account there. Without the file, nothing counts as spent"
        )
