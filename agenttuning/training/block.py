"""The packed rows of the steps of one block, from what was drawn for them.

Steps of many rows are filled by looking ahead over the block (see `look_ahead`). Items that begin alike lie in rows as
trees, where that needs no row more than the same items apart.
"""

from collections.abc import Mapping

import numpy as np

from agenttuning.training.look_ahead import NOWHERE, fill_steps
from agenttuning.training.mixture import Draw, Ints
from agenttuning.training.rows import ItemCounts, Row, joined, packed_rows, row_parts, whole_item


def block_rows(
    draw: Draw, steps: range, items: Mapping[str, ItemCounts], row_tokens: int, share_prefixes: bool, seed: int
) -> list[list[Row]]:
    """Return the rows of each of a block's steps.

    Args:
        draw: the items of all steps.
        steps: the steps of the block.
        items: token counts of each source's items.
        row_tokens: capacity of a row.
        share_prefixes: items of a step that begin alike go through the network as a tree.
        seed: of the block.
    """
    kinds = _kinds(draw, steps)
    singles: list[tuple[str, int]] = []
    of_steps: list[Ints] = []
    trees: list[list[Row]] = []
    for number, kind in zip(steps, kinds, strict=True):
        trees.append([])
        own: list[int] = []
        for one in np.unique(kind).tolist():
            here = np.flatnonzero(kind == one)
            source = draw.sources[int(draw.source[number, here[0]])]
            chosen = [(source, index) for index in draw.index[number, here].tolist()]
            counts = items[source]
            if share_prefixes and counts.prefixes is not None:
                parts = row_parts(chosen, items, row_tokens, True)
                trees[-1] += [part for part in parts if len(part) > 1]
                chosen = [(source, part[0].index) for part in parts if len(part) == 1]
            singles += chosen
            own += [one] * len(chosen)
        of_steps.append(np.asarray(own, np.int64))
    tokens = np.asarray([items[source].tokens[index] for source, index in singles], np.int64)
    sizes = [np.asarray([sum(s.tokens for s in tree) for tree in of_step], np.int64) for of_step in trees]
    found = fill_steps(of_steps, sizes, tokens, row_tokens, seed)
    return [
        _rows(where, of_step, singles, items, row_tokens, seed) for where, of_step in zip(found, trees, strict=True)
    ]


def _kinds(draw: Draw, steps: range) -> list[Ints]:
    """Return for each step which of its items may change places with others: source and epoch, numbered from 0."""
    source = draw.source[steps.start : steps.stop]
    epoch = np.empty_like(source)
    for number, size in enumerate(draw.sizes):
        before = int((draw.source[: steps.start] == number).sum())
        places = source == number
        epoch[places] = (before + np.arange(int(places.sum()))) // size
    pairs = np.stack([source.ravel(), epoch.ravel()])
    _, kinds = np.unique(pairs, axis=1, return_inverse=True)
    return list(kinds.reshape(source.shape).astype(np.int64))


def _rows(
    where: Ints,
    trees: list[Row],
    singles: list[tuple[str, int]],
    items: Mapping[str, ItemCounts],
    row_tokens: int,
    seed: int,
) -> list[Row]:
    """Return a step's rows, with trees or apart, whichever are fewer."""
    rows: dict[int, list[Row]] = {}
    drawn: list[tuple[str, int]] = []
    for part in np.flatnonzero(where != NOWHERE).tolist():
        if part < len(trees):
            tree = trees[part]
            drawn += [(s.source, s.index) for s in tree if s.items == 1]
        else:
            source, index = singles[part - len(trees)]
            tree = (whole_item(source, items[source], index),)
            drawn.append((source, index))
        rows.setdefault(int(where[part]), []).append(tree)
    apart = packed_rows(drawn, items, row_tokens, False, seed)
    return apart if len(apart) < len(rows) else [joined(parts) for parts in rows.values()]
