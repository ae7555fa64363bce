"""What a packed row is made of: items, or trees of items that share their beginning.

Pure functions of token counts. A part of a row that must stay together is a tuple of segments whose parents lie in
it; joined parts are a row.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from agenttuning.training.mixture import Ints
from agenttuning.training.packing import pack
from agenttuning.training.prefixes import PrefixIndex, tree

LINEAR_TOKENS = 8192
"""Cost of a row = sum of tokens x (tokens + this) over its segments: matrix products grow with the tokens, attention
with their square. The two are equal in a Llama block at about 12 x hidden size; the constant lies low, since rows of
one step differ little in tokens and much in squares."""


@dataclass(frozen=True)
class ItemCounts:
    """What the plan knows of a source's items.

    Attributes:
        tokens: tokens of each item, int64 [n].
        supervised: supervised tokens of each item, int64 [n].
        prefixes: which items begin alike; None: not known, so nothing is shared.
    """

    tokens: Ints
    supervised: Ints
    prefixes: PrefixIndex | None = None

    @classmethod
    def of(cls, tokens: npt.ArrayLike, supervised: npt.ArrayLike, prefixes: PrefixIndex | None = None) -> "ItemCounts":
        """Build from anything that numpy reads, such as columns of an encoded table."""
        return cls(np.asarray(tokens, np.int64), np.asarray(supervised, np.int64), prefixes)


@dataclass(frozen=True, slots=True)
class Segment:
    """One item in a row, or what several of them share.

    Attributes:
        source: name of the source.
        index: row in the source's table.
        tokens: its tokens.
        supervised: supervised tokens of the item that ends here; 0 where several share this.
        start: place of its first token in the item: the tokens of the segments above.
        items: how many items go through it; 1: it is the end of one.
        parent: place in the row of the segment whose tokens this one continues; None: it begins its items.
    """

    source: str
    index: int
    tokens: int
    supervised: int
    start: int = 0
    items: int = 1
    parent: int | None = None


Row = tuple[Segment, ...]


def packed_rows(
    drawn: list[tuple[str, int]], items: Mapping[str, ItemCounts], row_tokens: int, share_prefixes: bool, seed: int
) -> list[Row]:
    """Pack drawn items, pairs of source and number, into rows.

    Trees are large parts, which may fill rows less well. Where they need more rows than single items, or where nothing
    is shared, single items are packed.
    """

    def packed(parts: list[Row]) -> list[Row]:
        sizes = [sum(segment.tokens for segment in part) for part in parts]
        return [joined([parts[i] for i in row]) for row in pack(sizes, row_tokens, seed)]

    separate = packed(row_parts(drawn, items, row_tokens, False))
    trees = row_parts(drawn, items, row_tokens, share_prefixes)
    if all(len(tree) == 1 for tree in trees):
        return separate
    rows = packed(trees)
    return rows if len(rows) <= len(separate) else separate


def row_cost(row: Row) -> float:
    """Return the relative time of a row's forward and backward pass; 0 for an empty row."""
    return float(sum(s.tokens * (s.tokens + 2 * s.start + LINEAR_TOKENS) for s in row))


def row_parts(
    drawn: list[tuple[str, int]], items: Mapping[str, ItemCounts], row_tokens: int, share_prefixes: bool
) -> list[Row]:
    """Return drawn items as parts of rows that must stay together: single items, or trees of those that begin alike.

    Args:
        drawn: pairs of source and row in the source's table.
        items: token counts of each source's items.
        row_tokens: what a part may have at most.
        share_prefixes: whether to build trees.
    """
    if not share_prefixes:
        return [(whole_item(source, items[source], index),) for source, index in drawn]
    chosen: dict[str, list[int]] = {}
    for source, index in drawn:
        chosen.setdefault(source, []).append(index)
    return [part for source, found in chosen.items() for part in _trees(source, items[source], found, row_tokens)]


def whole_item(source: str, counts: ItemCounts, index: int) -> Segment:
    """Return an item as a segment of its own."""
    return Segment(source, index, int(counts.tokens[index]), int(counts.supervised[index]))


def _trees(source: str, counts: ItemCounts, drawn: list[int], row_tokens: int) -> list[Row]:
    """Return the drawn items of a source as trees that fit a row each; where nothing is shared, as single segments."""
    if counts.prefixes is None:
        return [(whole_item(source, counts, index),) for index in drawn]
    chosen = np.asarray(drawn, np.int64)
    order, shared = counts.prefixes.in_order(chosen, counts.tokens[chosen])
    index = chosen[order].tolist()
    trees: list[Row] = []
    for group, cuts in _groups(counts.tokens[chosen[order]].tolist(), shared.tolist(), row_tokens):
        items = [index[place] for place in group]
        ends = counts.supervised[items].tolist()
        trees.append(
            tuple(
                Segment(
                    source,
                    items[n.item],
                    n.stop - n.start,
                    ends[n.item] if n.items == 1 else 0,
                    n.start,
                    n.items,
                    n.parent,
                )
                for n in tree(counts.tokens[items].tolist(), cuts)
            )
        )
    return trees


def _groups(tokens: list[int], cuts: list[int], row_tokens: int) -> Iterator[tuple[list[int], list[int]]]:
    """Yield the places of items that make a tree, and what each shares with the one before.

    A tree takes neighbours as long as they fit its row. Then it takes those further on that fill the row best, as long
    as they share something with it.
    """
    left, shares = list(range(len(tokens))), list(cuts)
    while left:
        size, last = tokens[left[0]], 1
        while last < len(left) and shares[last] and size + tokens[left[last]] - shares[last] <= row_tokens:
            size += tokens[left[last]] - shares[last]
            last += 1
        group, own = left[:last], [0, *shares[1:last]]
        del left[:last], shares[:last]
        share = row_tokens
        while (found := _fitting(left, shares, tokens, row_tokens - size, share)) is not None:
            at, share = found
            size += tokens[left[at]] - share
            group.append(left[at])
            own.append(share)
            if at + 1 < len(left):
                shares[at + 1] = min(shares[at], shares[at + 1])
            del left[at], shares[at]
        yield group, own


def _fitting(left: list[int], shares: list[int], tokens: list[int], room: int, share: int) -> tuple[int, int] | None:
    """Return which item fills a tree's row best, and what it shares with the tree's last one; None: none fits.

    Args:
        left: places of the items behind the tree's neighbours.
        shares: what each of them shares with the one before; the first with the last of the neighbours.
        tokens: of all items.
        room: tokens that the row has left.
        share: what the tree's last item shares with the last of the neighbours.
    """
    best: tuple[int, int] | None = None
    most = 0
    for at, place in enumerate(left):
        share = min(share, shares[at])
        if not share:
            break
        if most < tokens[place] - share <= room:
            best, most = (at, share), tokens[place] - share
    return best


def joined(parts: list[Row]) -> Row:
    """Return one row of several parts."""
    row: list[Segment] = []
    for part in parts:
        before = len(row)
        row += [s if s.parent is None or not before else replace(s, parent=s.parent + before) for s in part]
    return tuple(row)
