"""The plan of a training run: for every optimizer step and every rank, the packed rows of its micro-steps.

A pure function of the items' token counts, the mixture, the seed and the world size; `plan.step(k)` needs no history,
so a resumed run needs one integer. The items and rows of a step do not depend on the world size, only their places do.
Every rank has the same number of micro-steps in every step: what is missing is topped up with empty rows, micro-batches
of weight zero. Ranks wait for each other in every micro-step, so rows of like cost stand side by side. Items of a step
that begin alike are laid into rows together, as a tree (see `prefixes`); one that fills a row begins again in another.
"""

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from agenttuning.errors import ConfigurationError, DataError
from agenttuning.recipe import Training
from agenttuning.training.look_ahead import WINDOW, fill_rows
from agenttuning.training.mixture import Draw, Ints, draw_items, seed_of
from agenttuning.training.packing import efficiency, pack
from agenttuning.training.rows import ItemCounts, Row, joined, row_cost, row_parts
from agenttuning.trajectory import content_hash


@dataclass(frozen=True)
class StepPlan:
    """One optimizer step.

    Attributes:
        number: the step, from 0.
        ranks: for each rank its rows, one per micro-step; an empty row is a micro-batch of weight zero.
        tokens: tokens of the step's items over all ranks.
        supervised: supervised tokens of the step over all ranks: what the summed loss is divided by.
    """

    number: int
    ranks: tuple[tuple[Row, ...], ...]
    tokens: int
    supervised: int

    @property
    def micro_steps(self) -> int:
        """Micro-steps of each rank."""
        return len(self.ranks[0])

    @property
    def computed(self) -> int:
        """Tokens that pass through the network: shared ones once."""
        return sum(segment.tokens for rank in self.ranks for row in rank for segment in row)


@dataclass(frozen=True)
class Plan:
    """All steps of a run. Build it with `make_plan`.

    Attributes:
        draw: the items of all steps.
        row_tokens: capacity of a row.
        seed: orders rows and items.
        world_size: ranks.
        share_prefixes: items of a row that begin alike go through the network as a tree.
        tokens: tokens of each step's items, int64 [steps].
        supervised: supervised tokens of each step, int64 [steps].
    """

    draw: Draw
    items: dict[str, ItemCounts] = field(repr=False)
    row_tokens: int
    seed: int
    world_size: int
    share_prefixes: bool
    tokens: Ints = field(repr=False)
    supervised: Ints = field(repr=False)

    @property
    def steps(self) -> int:
        """Number of optimizer steps."""
        return self.draw.steps

    @property
    def fingerprint(self) -> str:
        """Hash of everything but the world size: equal fingerprints train the same rows in the same steps."""
        draw = self.draw
        rules = [self.row_tokens, self.seed, self.share_prefixes]
        parts = [draw.sources, rules, draw.source.tolist(), draw.index.tolist()]
        counts = [[c.tokens.tolist(), c.supervised.tolist()] for c in self.items.values()]
        return content_hash([parts, counts])

    def rows(self, number: int) -> list[Row]:
        """Return the packed rows of step `number`, the same for every world size."""
        seed = seed_of(f"{self.seed}/rows/{number}")
        return packed_rows(self.draw.step(number), self.items, self.row_tokens, self.share_prefixes, seed)

    def step(self, number: int) -> StepPlan:
        """Return step `number`, from 0.

        Raises:
            IndexError: there is no such step.
        """
        if not 0 <= number < self.steps:
            raise IndexError(f"the plan has steps 0 to {self.steps - 1}, not {number}")
        ranks = _deal(self.rows(number), self.world_size, seed_of(f"{self.seed}/order/{number}"))
        return StepPlan(number, ranks, int(self.tokens[number]), int(self.supervised[number]))

    def summary(self) -> dict[str, Any]:
        """Return what the plan amounts to: rows, packing efficiency, balance, and the realised mixture by source."""
        rows = micro_steps = computed = 0
        cost = waited = 0.0
        for number in range(self.steps):
            step = self.step(number)
            micro_steps += step.micro_steps
            computed += step.computed
            for column in zip(*step.ranks, strict=True):
                costs = [row_cost(row) for row in column]
                rows += sum(map(bool, column))
                cost += sum(costs)
                waited += max(costs) * self.world_size
        tokens = int(self.tokens.sum())
        return {
            "steps": self.steps,
            "items": int(self.draw.source.size),
            "tokens": tokens,
            "supervised": int(self.supervised.sum()),
            "rows": rows,
            "micro_steps": micro_steps,
            "prefix_tokens_saved": tokens - computed,
            "packing_efficiency": efficiency(computed, rows, self.row_tokens),
            "rank_balance": cost / waited if waited else 1.0,
            "mixture": self._mixture(tokens),
        }

    def _mixture(self, tokens: int) -> dict[str, dict[str, float]]:
        counts, epochs = self.draw.counts(), self.draw.epochs()
        out: dict[str, dict[str, float]] = {}
        for number, name in enumerate(self.draw.sources):
            index = self.draw.index[self.draw.source == number]
            of_source = int(self.items[name].tokens[index].sum())
            out[name] = {
                "items": counts[name],
                "item_share": counts[name] / self.draw.source.size,
                "tokens": of_source,
                "token_share": of_source / tokens,
                "supervised": int(self.items[name].supervised[index].sum()),
                "epochs": epochs[name],
            }
        return out


def packed_rows(
    drawn: list[tuple[str, int]], items: dict[str, ItemCounts], row_tokens: int, share_prefixes: bool, seed: int
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


def make_plan(
    items: dict[str, ItemCounts], weights: dict[str, float], training: Training, seed: int, world_size: int = 1
) -> Plan:
    """Plan a run.

    Args:
        items: token counts of each source's items.
        weights: share of each source in the items of every step.
        training: reads `steps`, `items_per_step`, `row_tokens` and `share_prefixes`.
        seed: of the run.
        world_size: ranks.

    Raises:
        ConfigurationError: a weight without a source, or a world size below 1.
        DataError: a source is empty, an item does not fit a row or has no supervised token; the message names it.
    """
    if world_size < 1:
        raise ConfigurationError(f"training.workers must be at least 1 (got {world_size})")
    for name, counts in items.items():
        _check_items(name, counts, training.row_tokens)
    sizes = {name: len(counts.tokens) for name, counts in items.items()}
    draw = _filled(
        draw_items(weights, sizes, training.steps + WINDOW, training.items_per_step, seed), items, training.row_tokens
    )
    tokens, supervised = np.zeros_like(draw.source), np.zeros_like(draw.source)
    for number, name in enumerate(draw.sources):
        places = draw.source == number
        tokens[places] = items[name].tokens[draw.index[places]]
        supervised[places] = items[name].supervised[draw.index[places]]
    used = {name: items[name] for name in draw.sources}
    rules = (training.row_tokens, seed, world_size, training.share_prefixes)
    return Plan(draw, used, *rules, tokens.sum(axis=1), supervised.sum(axis=1))


def _filled(draw: Draw, items: dict[str, ItemCounts], row_tokens: int) -> Draw:
    """Return the draw without its last `WINDOW` steps, which the steps before may have swapped items with."""
    filled = fill_rows(draw, [items[name].tokens for name in draw.sources], row_tokens)
    return replace(filled, source=filled.source[:-WINDOW], index=filled.index[:-WINDOW])


def _check_items(name: str, counts: ItemCounts, row_tokens: int) -> None:
    if counts.tokens.shape != counts.supervised.shape or counts.tokens.ndim != 1:
        raise DataError(f"source {name}: token counts {counts.tokens.shape} and {counts.supervised.shape} must match")
    for wrong, rule in (
        (counts.tokens > row_tokens, f"does not fit a row of training.row_tokens={row_tokens}"),
        (counts.supervised < 1, "has no supervised token"),
        (counts.supervised > counts.tokens, "has more supervised tokens than tokens"),
    ):
        if wrong.any():
            at = int(np.flatnonzero(wrong)[0])
            raise DataError(
                f"source {name}, item {at}: {rule} ({counts.tokens[at]} tokens, {counts.supervised[at]} supervised); "
                "encode the source again with the recipe's own mixture.max_length"
            )


def _deal(rows: list[Row], world_size: int, seed: int) -> tuple[tuple[Row, ...], ...]:
    """Give rows to ranks: neighbours in cost share a micro-step, and the rank with the least so far takes the most."""
    by_cost = sorted(rows, key=row_cost, reverse=True)
    by_cost += [()] * (-len(by_cost) % world_size)
    totals = [0.0] * world_size
    columns: list[list[Row]] = []
    for start in range(0, len(by_cost), world_size):
        column: list[Row] = [()] * world_size
        least_first = sorted(range(world_size), key=totals.__getitem__)
        for rank, row in zip(least_first, by_cost[start : start + world_size], strict=True):
            column[rank] = row
            totals[rank] += row_cost(row)
        columns.append(column)
    order = np.random.default_rng(seed).permutation(len(columns)).tolist()
    return tuple(tuple(columns[i][rank] for i in order) for rank in range(world_size))
