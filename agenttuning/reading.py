"""`reading`: what Ray Data yields, with an end that leaves nothing of it running in this process.

Ray ends a whole process, without a word, where one of its threads asks for a block after `ray.shutdown`. So whoever
leaves a dataset in its middle, for an error or Ctrl-C, leaves here: with its executor shut down and its reader gone.
"""

import contextlib
import threading
from collections.abc import Generator, Iterable
from typing import TypeVar, cast

T = TypeVar("T")

READER = "iter_threaded"
"""Name that Ray Data gives the thread that reads its results."""
LEAVE_SECONDS = 10.0
"""Time that its last read may take."""


@contextlib.contextmanager
def reading(results: Iterable[T]) -> Generator[Generator[T]]:
    """Yield the iterator of `Dataset.iter_batches` or `iter_rows`; leaving ends the dataset's execution."""
    before = set(threading.enumerate())
    try:
        # Ray Data's iterators are generators, which its types do not say.
        with contextlib.closing(cast(Generator[T], iter(results))) as iterator:
            yield iterator
    finally:
        for thread in set(threading.enumerate()) - before:
            if thread.name == READER:
                thread.join(timeout=LEAVE_SECONDS)
