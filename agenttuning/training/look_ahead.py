"""Full rows: items change places with others of their source in neighbouring steps, so that every step fills its rows.

The mixture fixes how many items of each source a step trains; their tokens then end somewhere in a row, and items of
one step alone do not always fit each other. Which items of a source come in this step and which in the next few is
free. So `BLOCK` steps at a time are packed together, and each of them in turn takes some of the rows: as many as are
its part, drawn by lot, and then exchanged until the items of every source are as many as the mixture wants. Where no
exchange of whole rows comes nearer, single items are exchanged. No share moves, no item is lost or doubled, none comes
`BLOCK` steps earlier or later, and a step depends on nothing outside its block. Since all steps of a block get rows
that are drawn by lot and equally full, no step takes the long items.

Trees of items that share their beginning stay in the step that drew them: siblings that gathered in one step would
make its gradient more alike than the mixture means it to be. Only the items beside them move.
"""

import numpy as np
import numpy.typing as npt

from agenttuning.training.mixture import Ints
from agenttuning.training.packing import pack

BLOCK = 16
"""Steps that are packed together."""
LEAST_ROWS = 6
"""Rows a step, in the mean, below which steps are left as they are drawn: among few rows of a step there is no room for
one that holds many short items, and the last step of a block would get them all."""
NOWHERE = -1
"""Row of an item that a step does not take."""


def fill_steps(kinds: list[Ints], trees: list[Ints], tokens: Ints, row_tokens: int, seed: int) -> list[Ints]:
    """Share out the items of a block's steps.

    Args:
        kinds: for each step the kind of each of its single items, counted from 0: items of one kind may change places.
        trees: for each step the tokens of its trees.
        tokens: of all single items, in the order of `kinds`, int64 [n].
        row_tokens: capacity of a row.
        seed: of the block.

    Returns:
        For each step where its parts lie: the rows of its trees, then those of all n items, `NOWHERE` for the items of
        other steps. Rows are numbered with gaps.
    """
    kind = np.concatenate(kinds)
    several = int(kind.max(initial=0)) + 1
    rng = np.random.default_rng(seed)
    stays = np.ones(kind.size, bool)
    packed: tuple[Ints, Ints] | None = None
    found = []
    for own, here in zip(kinds, trees, strict=True):
        wanted = np.bincount(own, minlength=several)
        pool = np.flatnonzero(stays & (wanted[kind] > 0))
        sizes = np.concatenate([here, tokens[pool]])
        # Trees stay here, and so do the last items of an epoch.
        firm = np.ones(sizes.size, bool)
        firm[here.size :] = (wanted == np.bincount(kind[pool], minlength=several))[kind[pool]]
        if packed is None or firm.any() or not np.array_equal(pool, packed[0]):
            packed = pool, _packed(sizes, firm, row_tokens, rng)
        step = _Step(wanted, kind[pool], sizes, firm, packed[1], row_tokens)
        step.take_rows()
        exact = step.exchange_items()
        where = np.full(here.size + kind.size, NOWHERE)
        where[: here.size] = step.row[: here.size]
        where[here.size + pool] = step.row[here.size :]
        found.append(where)
        left = step.row[here.size :] == NOWHERE
        stays[pool[~left]] = False
        packed = (pool[left], packed[1][left]) if exact and not firm.any() else None
    return found


def _packed(sizes: Ints, firm: npt.NDArray[np.bool_], row_tokens: int, rng: np.random.Generator) -> Ints:
    """Return the row of each part. Firm ones lie together, in as few rows as they need; the others fill those up."""
    bundle = np.empty(sizes.size, np.int64)
    bundles = pack(sizes[firm], row_tokens, int(rng.integers(2**62)))
    for number, parts in enumerate(bundles):
        bundle[np.flatnonzero(firm)[parts]] = number
    bundle[~firm] = len(bundles) + np.arange(np.count_nonzero(~firm))
    bundled = np.bincount(bundle, sizes).astype(np.int64)
    row = np.empty(bundled.size, np.int64)
    for number, parts in enumerate(pack(bundled, row_tokens, int(rng.integers(2**62)))):
        row[parts] = number
    return row[bundle]


def _one_each(rows: npt.NDArray[np.bool_], alike: Ints) -> Ints:
    """Return one of all rows that are alike."""
    found = np.flatnonzero(rows)
    return found[np.unique(alike[found], return_index=True)[1]]


class _Step:
    """The rows that one step takes of what is left of its block.

    Args:
        wanted: how many items of each kind it takes.
        kind: of the items that are left.
        sizes: tokens of its trees, then of the items that are left.
        firm: which of those it must take.
        rows: the row of each.
        row_tokens: capacity of a row.

    Attributes:
        row: of each tree, then of each item; `NOWHERE`: not taken.
    """

    def __init__(
        self, wanted: Ints, kind: Ints, sizes: Ints, firm: npt.NDArray[np.bool_], rows: Ints, row_tokens: int
    ) -> None:
        self.row = rows.copy()
        self._wanted = wanted
        self._kind = kind
        self._trees = sizes.size - kind.size
        self._tokens = sizes[self._trees :]
        self._firm = firm
        self._row_tokens = row_tokens
        self._used = np.bincount(rows, sizes).astype(np.int64)

    @property
    def _items(self) -> Ints:
        """The rows of the items: a view."""
        return self.row[self._trees :]

    def take_rows(self) -> None:
        """Take the rows of firm parts and as many others as are the step's part; exchange them for better ones."""
        counts = np.zeros((self._used.size, self._wanted.size), np.int64)
        np.add.at(counts, (self._items, self._kind), 1)
        fixed = np.zeros(self._used.size, bool)
        fixed[self.row[self._firm]] = True
        # Rows that an earlier step took are empty. Rows come in a random order, so the first are drawn by lot; but one
        # of all that were packed together may be half empty, and waits for the last step.
        others = np.flatnonzero(~fixed & (self._used > 0))
        emptiest = others[self._used[others].argmin(axis=0, keepdims=True)] if others.size else others
        others = np.append(others[~np.isin(others, emptiest)], emptiest)
        taken = fixed.copy()
        taken[others[: self._part(fixed, others)]] = True
        waiting = ~taken & (self._used > 0)
        waiting[emptiest] = False
        missing = self._wanted - counts[taken].sum(axis=0)
        # Rows that hold as many items of every kind are alike.
        alike = counts @ (int(counts.sum(axis=1).max(initial=0)) + 1) ** np.arange(missing.size)
        while missing.any():
            out, into = _one_each(taken & ~fixed, alike), _one_each(waiting, alike)
            if not out.size or not into.size:
                break
            after = np.zeros((out.size, into.size), np.int64)
            for kind, lacks in enumerate(missing.tolist()):
                after += np.abs(lacks + counts[out, kind][:, None] - counts[into, kind])
            one, other = np.unravel_index(int(after.argmin()), after.shape)
            if after[one, other] >= np.abs(missing).sum():
                break
            missing = missing + counts[out[one]] - counts[into[other]]
            taken[out[one]], taken[into[other]] = False, True
            waiting[out[one]], waiting[into[other]] = True, False
        self.row[~taken[self.row]] = NOWHERE

    def _part(self, fixed: npt.NDArray[np.bool_], others: Ints) -> int:
        """Return how many rows beside the fixed are the step's part of all that is left."""
        if not others.size:
            return 0
        left = np.maximum(1, np.bincount(self._kind, minlength=self._wanted.size))
        share = float((self._wanted / left) @ np.bincount(self._kind, self._tokens, self._wanted.size))
        beside = float(self._tokens[fixed[self._items]].sum())
        return max(0, round((share - beside) / float(self._used[others].mean())))

    def exchange_items(self) -> bool:
        """Exchange single items until their kinds are right; return whether they were."""
        exact = True
        while (missing := self._wanted - np.bincount(self._kind[self._items >= 0], minlength=self._wanted.size)).any():
            exact = False
            less, more = int(missing.argmin()), int(missing.argmax())
            if not (missing[less] < 0 < missing[more] and self._exchange(less, more)):
                if missing[less] < 0:
                    self._drop(less)
                else:
                    self._add(more)
        return exact

    def _exchange(self, less: int, more: int) -> bool:
        """Put the item of kind `more` that fits best into the place of one of kind `less`; False: none fits."""
        inside, outside = self._inside(less), self._outside(more)
        room = self._tokens[inside] + self._row_tokens - self._used[self._items[inside]]
        at = np.searchsorted(self._tokens[outside], room, side="right") - 1
        rest = np.where(at >= 0, room - self._tokens[outside[at]], self._row_tokens + 1)
        best = int(rest.argmin())
        if at[best] < 0:
            return False
        row = int(self._items[inside[best]])
        self._move(int(inside[best]), NOWHERE)
        self._move(int(outside[at[best]]), row)
        return True

    def _drop(self, kind: int) -> None:
        inside = self._inside(kind)
        self._move(int(inside[self._tokens[inside].argmin()]), NOWHERE)

    def _add(self, kind: int) -> None:
        """Take the longest item that the emptiest row has room for, or the shortest in a row of its own."""
        outside = self._outside(kind)
        rows = np.unique(self.row[self.row >= 0])
        row = int(rows[self._used[rows].argmin()]) if rows.size else -1
        room = self._row_tokens - int(self._used[row]) if rows.size else 0
        at = int(np.searchsorted(self._tokens[outside], room, side="right")) - 1
        if at < 0:
            row = self._used.size
            self._used = np.append(self._used, 0)
        self._move(int(outside[max(at, 0)]), row)

    def _inside(self, kind: int) -> Ints:
        return np.flatnonzero((self._items >= 0) & (self._kind == kind))

    def _outside(self, kind: int) -> Ints:
        """Return the items of a kind that are not taken, shortest first."""
        found = np.flatnonzero((self._items < 0) & (self._kind == kind))
        return found[np.argsort(self._tokens[found], kind="stable")]

    def _move(self, item: int, row: int) -> None:
        """Move an item from or to `NOWHERE`."""
        before = int(self._items[item])
        self._used[row if before == NOWHERE else before] += self._tokens[item] * (1 if before == NOWHERE else -1)
        self._items[item] = row
