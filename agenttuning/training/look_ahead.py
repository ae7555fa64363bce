"""Full rows: items change places with others of their source in the next steps, so that a step fills whole rows.

The mixture fixes how many items of each source a step trains; their tokens then end somewhere in a row, and half a row
per step stays empty. Which items of a source come in this step and which in the next few is free. So each step in
turn swaps a few of its items for later ones of the same source and epoch, until its tokens come to just below a whole
number of rows. No share moves, no item is lost or doubled, none comes more than `WINDOW` steps earlier, and a step
depends on nothing behind its window. Steps of few rows are left alone: they would take the long items first. What
items share (see `prefixes`) is not looked at: sharing must not change what a step trains.
"""

from dataclasses import replace

import numpy as np

from agenttuning.training.mixture import Draw, Ints

WINDOW = 4
"""Steps ahead that items may come from."""
LEAST_ROWS = 4
"""Rows below which a step is left alone."""
SLACK = 0.004
"""Share of the rows' capacity that stays free: best-fit decreasing needs a little room."""
SWAPS = 12
"""Most swaps of one step."""


def fill_rows(draw: Draw, tokens: list[Ints], row_tokens: int) -> Draw:
    """Swap items between steps so that each step fills whole rows.

    Args:
        draw: the items of all steps, and of `WINDOW` more where later steps shall not matter.
        tokens: tokens of each source's items, in the order of `draw.sources`.
        row_tokens: capacity of a row.

    Returns:
        The same items in other steps.
    """
    index = draw.index.copy()
    steps, per_step = index.shape
    if not steps or _mean(draw, tokens) * per_step < LEAST_ROWS * row_tokens / 2:
        return draw
    sources = [_Source(np.flatnonzero(draw.source == n), index.reshape(-1), t) for n, t in enumerate(tokens)]
    for step in range(steps):
        here, window = (step + 1) * per_step, min(step + 1 + WINDOW, steps) * per_step
        for source in sources:
            source.move_to(step * per_step, here, window)
        for _ in range(SWAPS):
            missing = _missing(sum(source.size() for source in sources), row_tokens)
            if missing is None:
                break
            offers = [source.best_swap(missing) for source in sources]
            gain, number = max((offer[0], number) for number, offer in enumerate(offers))
            if gain <= 0:
                break
            sources[number].swap(*offers[number][1:])
    return replace(draw, index=index)


def _mean(draw: Draw, tokens: list[Ints]) -> float:
    drawn = [tokens[n][draw.index[draw.source == n]] for n in range(len(tokens))]
    return float(np.concatenate(drawn).mean())


def _missing(size: int, row_tokens: int) -> int | None:
    """Return the tokens to add (or, below 0, to lose) for whole rows; None where they are full, or too few."""
    usable = row_tokens * (1 - SLACK)
    rows = round(size / usable)
    if size < (LEAST_ROWS - 0.5) * usable:
        return None
    missing = int(rows * usable) - size
    return None if 0 <= missing <= row_tokens * SLACK * rows / 2 else missing


class _Source:
    """The items of one source in the order they are drawn.

    Args:
        places: where its items stand in `index`.
        index: items of all steps, flat; swapped in place.
        tokens: of its items.
    """

    def __init__(self, places: Ints, index: Ints, tokens: Ints) -> None:
        self._places = places
        self._index = index
        self._tokens = tokens
        self._lengths = tokens[index[places]]
        self._epoch = np.arange(places.size) // max(1, tokens.size)
        self._begin = self._here = self._end = 0

    def move_to(self, begin: int, here: int, window: int) -> None:
        """Stand at a step: its items lie in `begin` to `here` of the flat index, later ones up to `window`."""
        self._begin, self._here, self._end = np.searchsorted(self._places, [begin, here, window]).tolist()

    def size(self) -> int:
        """Return the tokens of the step's items."""
        return int(self._lengths[self._begin : self._here].sum())

    def best_swap(self, missing: int) -> tuple[int, int, int]:
        """Return by how much the best swap comes nearer to `missing` tokens more, and the two positions."""
        now, later = slice(self._begin, self._here), slice(self._here, self._end)
        if self._begin == self._here or self._here == self._end:
            return 0, 0, 0
        order = np.argsort(self._lengths[later], kind="stable")
        lengths = self._lengths[later][order]
        wanted = self._lengths[now] + missing
        # The longest that does not overshoot, and the one after it.
        right = np.searchsorted(lengths, wanted, side="right")
        candidates = np.stack([np.maximum(right - 1, 0), np.minimum(right, lengths.size - 1)])
        left = missing - (lengths[candidates] - self._lengths[now])
        # Rows that overflow cost a row more, so too few tokens are better than too many.
        error = np.where(left < 0, 2 * -left, left)
        allowed = self._epoch[later][order][candidates] == self._epoch[now]
        error = np.where(allowed, error, np.iinfo(np.int64).max)
        best = np.unravel_index(error.argmin(), error.shape)
        worth = (2 * -missing if missing < 0 else missing) - int(error[best])
        return worth, self._begin + int(best[1]), self._here + int(order[candidates[best]])

    def swap(self, one: int, other: int) -> None:
        """Let two items change places."""
        for values, a, b in (
            (self._lengths, one, other),
            (self._index, int(self._places[one]), int(self._places[other])),
        ):
            values[a], values[b] = values[b], values[a]
