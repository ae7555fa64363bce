"""What a packed row is made of: items, or trees of items that share their beginning.

Pure functions of token counts. A part of a row that must stay together is a tuple of segments whose parents lie in
it; joined parts are a row.
"""

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from agenttuning.training.mixture import Ints
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


def row_cost(row: Row) -> float:
    """Return the relative time of a row's forward and backward pass; 0 for an empty row."""
    return float(sum(s.tokens * (s.tokens + 2 * s.start + LINEAR_TOKENS) for s in row))


def row_parts(
    drawn: list[tuple[str, int]], items: dict[str, ItemCounts], row_tokens: int, share_prefixes: bool
) -> list[Row]:
    """Return drawn items as parts of rows that must stay together: single items, or trees of those that begin alike.

    Args:
        drawn: pairs of source and row in the source's table.
        items: token counts of each source's items.
        row_tokens: what a part may have at most.
        share_prefixes: whether to build trees.
    """
    if not share_prefixes:
        return [(_whole(source, items[source], index),) for source, index in drawn]
    chosen: dict[str, list[int]] = {}
    for source, index in drawn:
        chosen.setdefault(source, []).append(index)
    return [part for source, found in chosen.items() for part in _trees(source, items[source], found, row_tokens)]


def _whole(source: str, counts: ItemCounts, index: int) -> Segment:
    return Segment(source, index, int(counts.tokens[index]), int(counts.supervised[index]))


def _trees(source: str, counts: ItemCounts, drawn: list[int], row_tokens: int) -> list[Row]:
    """Return the drawn items of a source as trees that fit a row each; where nothing is shared, as single segments."""
    if counts.prefixes is None:
        return [(_whole(source, counts, index),) for index in drawn]
    chosen = np.asarray(drawn, np.int64)
    order, shared = counts.prefixes.in_order(chosen, counts.tokens[chosen])
    index, cuts = chosen[order], shared.tolist()
    tokens = counts.tokens[index].tolist()
    trees: list[Row] = []
    first, size = 0, tokens[0]
    for number in range(1, len(tokens) + 1):
        if number < len(tokens) and cuts[number] and size + tokens[number] - cuts[number] <= row_tokens:
            size += tokens[number] - cuts[number]
            continue
        nodes = tree(tokens[first:number], cuts[first:number])
        ends = counts.supervised[index[first:number]].tolist()
        items = index[first:number].tolist()
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
                for n in nodes
            )
        )
        if number < len(tokens):
            first, size = number, tokens[number]
    return trees


def joined(parts: list[Row]) -> Row:
    """Return one row of several parts."""
    row: list[Segment] = []
    for part in parts:
        before = len(row)
        row += [s if s.parent is None or not before else replace(s, parent=s.parent + before) for s in part]
    return tuple(row)
