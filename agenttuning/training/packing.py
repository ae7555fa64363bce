"""Best-fit decreasing by counting: items to rows of a fixed capacity, in time linear in items and capacity.

Rows are kept by the space they have left, and one integer holds a bit for every amount of space that some row has, so
the best fit is one shift and one mask away. All items of a length are placed together. No item is split, lost or
doubled. Rows come out in a seeded order, and so do the items in a row: best-fit decreasing by itself sorts by length,
which would make neighbouring rows alike.
"""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from agenttuning.errors import DataError


def pack(lengths: Sequence[int] | npt.NDArray[np.integer], capacity: int, seed: int = 0) -> list[list[int]]:
    """Pack items into as few rows as best-fit decreasing needs.

    Args:
        lengths: tokens of each item.
        capacity: tokens of a row.
        seed: orders rows and the items in them.

    Returns:
        For each row the positions of its items in `lengths`.

    Raises:
        DataError: an item is longer than a row or has no tokens; the message names it.
    """
    sizes = np.asarray(lengths, np.int64)
    if not sizes.size:
        return []
    for wrong, rule in ((sizes.argmax(), sizes.max() > capacity), (sizes.argmin(), sizes.min() < 1)):
        if rule:
            raise DataError(
                f"item {wrong} has {sizes[wrong]} tokens where a row takes 1 to {capacity}; raise training.row_tokens "
                "or lower mixture.max_length"
            )
    rng = np.random.default_rng(seed)
    shuffled = rng.permutation(sizes.size)
    order = shuffled[np.argsort(-sizes[shuffled], kind="stable")]
    rows = _fill(order.tolist(), sizes[order], capacity)
    rank = np.empty(sizes.size, np.int64)
    rank[shuffled] = np.arange(sizes.size)
    ranks = rank.tolist()
    for row in rows:
        row.sort(key=ranks.__getitem__)
    return [rows[i] for i in rng.permutation(len(rows)).tolist()]


def efficiency(tokens: int, rows: int, capacity: int) -> float:
    """Return the share of the rows' capacity that holds tokens."""
    return tokens / (rows * capacity) if rows else 0.0


def _fill(items: list[int], sizes: npt.NDArray[np.int64], capacity: int) -> list[list[int]]:
    """Place items that come longest first."""
    rows: list[list[int]] = []
    by_space: defaultdict[int, list[list[int]]] = defaultdict(list)
    spaces = 0
    starts = np.flatnonzero(np.diff(sizes, prepend=-1)).tolist()
    for start, stop in zip(starts, [*starts[1:], len(items)], strict=True):
        length = int(sizes[start])
        while start < stop:
            fitting = spaces >> length
            if fitting:
                space = length + (fitting & -fitting).bit_length() - 1
                waiting = by_space[space]
            else:
                space = capacity
                per_row = capacity // length
                waiting = [[] for _ in range(-((start - stop) // per_row))]
                rows.extend(waiting)
                by_space[space] = waiting
            each = space // length
            left = space - each * length
            filled = by_space[left]
            while waiting and stop - start >= each:
                row = waiting.pop()
                row += items[start : start + each]
                filled.append(row)
                start += each
            if filled:
                spaces |= 1 << left
            if waiting and start < stop:
                row = waiting.pop()
                row += items[start:stop]
                left = space - (stop - start) * length
                by_space[left].append(row)
                spaces |= 1 << left
                start = stop
            spaces = spaces | 1 << space if waiting else spaces & ~(1 << space)
    return rows
