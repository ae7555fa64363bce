"""Which items begin alike: the order that puts them side by side, and the trees that packed rows share them in.

Trajectories of an environment open with the same instruction and demonstration. Sorted by their tokens, items that
share a beginning are neighbours, and the tokens that any two have in common are the least of what the neighbours
between them have. So two numbers for each item (its place in that order, and what it shares with the item before)
say all there is to know of any choice of items, and no token is read again.

A row holds such items as a tree. What all items of a branch share is a node of its own and passes through the network
once; each branch goes on from there. The last shared token stays in the branches: what follows it differs. Tokens count
as shared only where their loss masks agree. What is shared is cut down to a multiple of `GRAIN`, and items whose common
beginning is short against them (`LEAST_SHARE`) stay apart: there a tree costs more than it saves.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

Ints = npt.NDArray[np.int64]

GRAIN = 32
"""Tokens: shared beginnings end at multiples of this."""

LEAST_SHARE = 1 / 16
"""Two items share what is at least this part of the longer one. Every branch copies the keys and values of all its item
into one piece, in every layer, which was measured (SmolLM2's layers, bfloat16 on a CPU) to cost as much as computing 1
to 3 % of the item's tokens; two items that share a sixteenth are spared 3 %, more items more."""


@dataclass(frozen=True, slots=True)
class Node:
    """A stretch of one item's tokens that all items of a branch share.

    Attributes:
        item: one item of the branch, as a position in what was given.
        start: place of its first token in the item: the tokens of the nodes above.
        stop: place behind its last token.
        items: how many items share it; 1: it is the end of one item.
        parent: position of the node that it continues; None: it begins its items.
    """

    item: int
    start: int
    stop: int
    items: int
    parent: int | None


def sort_items(
    ids: Sequence[npt.NDArray[np.integer]], masks: Sequence[npt.NDArray[np.bool_]]
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """Sort items by their tokens and loss masks.

    Args:
        ids: token ids of each item.
        masks: loss mask of each item, as long as its ids.

    Returns:
        Each item's place in the order, int32 [n]; and the tokens that it shares with the item at the place before,
        int32 [n].
    """
    if not ids:
        return np.zeros(0, np.int32), np.zeros(0, np.int32)
    # Big-endian, so that the order of bytes is an order of tokens.
    keys = [(i.astype(np.int64) * 2 + m).astype(">u4") for i, m in zip(ids, masks, strict=True)]
    order = pc.array_sort_indices(pa.array([k.tobytes() for k in keys], pa.large_binary())).to_numpy()
    place = np.empty(len(keys), np.int32)
    place[order] = np.arange(len(keys))
    shared = np.zeros(len(keys), np.int32)
    for before, item in pairwise(order.tolist()):
        shared[item] = _common(keys[before], keys[item])
    return place, shared


class PrefixIndex:
    """Answers what chosen items of a source share.

    Args:
        place: of each item, int [n].
        shared: tokens that each item shares with the item at the place before, int [n].
    """

    def __init__(self, place: npt.ArrayLike, shared: npt.ArrayLike) -> None:
        self.place = np.asarray(place, np.int64)
        least = np.zeros(self.place.size, np.int32)
        least[self.place] = np.asarray(shared, np.int32)
        # Row k holds the least of 2^k neighbours, so that any stretch is two lookups.
        self._least = [least]
        while (width := 1 << len(self._least)) <= least.size:
            last = self._least[-1]
            self._least.append(np.minimum(last[: least.size - width + 1], last[width // 2 :][: least.size - width + 1]))

    def in_order(self, chosen: Ints, tokens: Ints) -> tuple[Ints, Ints]:
        """Sort chosen items so that those that begin alike are neighbours.

        Args:
            chosen: items, int64 [m]; one may come twice.
            tokens: their tokens, int64 [m].

        Returns:
            Positions in `chosen`, int64 [m], and the tokens that each shares with the one before: what they have in
            common without the last, down to a multiple of `GRAIN`, and none where that is too little to pay, int64 [m];
            the first has none.
        """
        order = np.argsort(self.place[chosen], kind="stable")
        cuts = np.zeros(order.size, np.int64)
        if order.size > 1:
            places = self.place[chosen[order]]
            cuts[1:] = self._between(places[:-1] + 1, places[1:])
        # An item that is chosen twice shares all of itself but the last token.
        lengths = tokens[order]
        cuts = np.maximum(np.minimum(cuts, lengths) - 1, 0) // GRAIN * GRAIN
        longer = np.maximum(lengths, np.roll(lengths, 1))
        return order, np.where(cuts >= LEAST_SHARE * longer, cuts, 0)

    def of_chosen(self, chosen: Ints) -> tuple[Ints, Ints]:
        """Return the places of some of the items, each once, among each other, and what they share; as `sort_items`."""
        order = np.argsort(self.place[chosen], kind="stable")
        places = self.place[chosen[order]]
        place = np.empty(order.size, np.int64)
        place[order] = np.arange(order.size)
        shared = np.zeros(order.size, np.int64)
        shared[order[1:]] = self._between(places[:-1] + 1, places[1:])
        return place, shared

    def _between(self, first: Ints, last: Ints) -> Ints:
        """Return the least shared tokens over places first..last; of an item and itself: all, which ends in its own."""
        same = last < first
        width = np.where(same, 1, last - first + 1)
        level = np.frexp(width)[1] - 1
        found = np.empty(width.size, np.int64)
        for k in np.unique(level):
            at = level == k
            row = self._least[k]
            low = np.minimum(first[at], row.size - 1)
            found[at] = np.minimum(row[low], row[np.maximum(last[at] - (1 << int(k)) + 1, 0)])
        found[same] = np.iinfo(np.int32).max
        return found


def tree(lengths: Sequence[int], cuts: Sequence[int]) -> list[Node]:
    """Build the nodes of items in their order.

    Args:
        lengths: tokens of each item.
        cuts: shared tokens of each item and the one before, as `PrefixIndex.in_order` gives them; the first is unused.

    Returns:
        Nodes, parents before children. Every item ends in a node of its own.
    """
    nodes: list[Node] = []
    # Groups of neighbours that are still to be split: first item, item behind the last, start, parent.
    waiting: list[tuple[int, int, int, int | None]] = [(0, len(lengths), 0, None)]
    while waiting:
        first, behind, start, parent = waiting.pop()
        if behind - first == 1:
            nodes.append(Node(first, start, lengths[first], 1, parent))
            continue
        least = min(cuts[first + 1 : behind])
        if least > start:
            nodes.append(Node(first, start, least, behind - first, parent))
            start, parent = least, len(nodes) - 1
        edges = [first, *(k for k in range(first + 1, behind) if cuts[k] == least), behind]
        waiting += [(a, b, start, parent) for a, b in zip(edges[-2::-1], edges[:0:-1], strict=True)]
    return nodes


def _common(one: npt.NDArray[np.integer], other: npt.NDArray[np.integer]) -> int:
    size = min(one.size, other.size)
    differ = one[:size] != other[:size]
    first = int(differ.argmax()) if size else 0
    return first if size and differ[first] else size
