"""Patience with an object store that stumbles: one refused request is no reason to end hours of work.

A local disk that cannot be written is full or gone, and waiting helps against neither: it fails at once.
"""

import time
from collections.abc import Callable
from typing import TypeVar

from agenttuning.errors import StorageError
from agenttuning.storage.store import Store

REMOTE_PATIENCE_S = 60.0
"""For how long an object store is asked again."""
PAUSE_S = 1.0
"""Time between two tries."""

Value = TypeVar("Value")


def patience_of(store: Store) -> float:
    """Return for how many seconds what fails in a store is tried again."""
    return REMOTE_PATIENCE_S if store.local_path() is None else 0.0


def patiently(store: Store, work: Callable[[], Value]) -> Value:
    """Return what `work` returns, tried again where an object store stumbles; done twice it must change nothing more.

    Raises:
        StorageError: it still fails after the patience, or waiting cannot help.
    """
    deadline = time.monotonic() + patience_of(store)
    while True:
        try:
            return work()
        except StorageError as error:
            if not error.may_pass or time.monotonic() >= deadline:
                raise
            time.sleep(PAUSE_S)
