"""The plan of a training run: for every optimizer step and every rank, the packed rows of its micro-steps.

A pure function of the items' token counts, the mixture, the seed and the world size; `plan.step(k)` needs no history,
so a resumed run needs one integer. The items and rows of a step do not depend on the world size, only their places do.
Every rank has the same number of micro-steps in every step: what is missing is topped up with empty rows, micro-batches
of weight zero. Ranks wait for each other in every micro-step, so rows of like cost stand side by side. Items of a step
that begin alike are laid into rows together, as a tree (see `prefixes`); one that fills a row begins again in another.

What is drawn is known at once. Rows are made when they are asked for, a block of neighbouring steps at a time, which
exchange items to fill them (see `look_ahead`).
"""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from agenttuning.errors import ConfigurationError, DataError
from agenttuning.recipe import Training
from agenttuning.training.block import block_rows
from agenttuning.training.look_ahead import BLOCK, LEAST_ROWS
from agenttuning.training.mixture import Draw, Ints, draw_items, seed_of
from agenttuning.training.packing import efficiency
from agenttuning.training.rows import ItemCounts, Row, packed_rows, row_cost
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
        draw: the items as they are drawn for all steps, and for the rest of the last block.
        items: token counts of each source's items.
        steps: number of optimizer steps.
        row_tokens: capacity of a row.
        seed: orders rows and items.
        world_size: ranks.
        share_prefixes: items of a row that begin alike go through the network as a tree.
        looks_ahead: steps of a block exchange items to fill their rows.
        tokens: tokens that are drawn for each step, int64 [steps]; a step that looks ahead trains a few more or less.
    """

    draw: Draw
    items: dict[str, ItemCounts] = field(repr=False)
    steps: int
    row_tokens: int
    seed: int
    world_size: int
    share_prefixes: bool
    looks_ahead: bool
    tokens: Ints = field(repr=False)
    _block: dict[int, list[list[Row]]] = field(default_factory=dict, init=False, repr=False, compare=False)

    @property
    def fingerprint(self) -> str:
        """Hash of everything but the world size: equal fingerprints train the same rows in the same steps."""
        draw = self.draw
        rules = [self.steps, self.row_tokens, self.seed, self.share_prefixes]
        parts = [draw.sources, rules, draw.source.tolist(), draw.index.tolist()]
        counts = [[c.tokens.tolist(), c.supervised.tolist()] for c in self.items.values()]
        return content_hash([parts, counts])

    def rows(self, number: int) -> list[Row]:
        """Return the packed rows of step `number`, the same for every world size."""
        rules = (self.items, self.row_tokens, self.share_prefixes)
        if not self.looks_ahead:
            return packed_rows(self.draw.step(number), *rules, seed_of(f"{self.seed}/rows/{number}"))
        block, place = divmod(number, BLOCK)
        if block not in self._block:
            self._block.clear()
            steps = range(block * BLOCK, (block + 1) * BLOCK)
            self._block[block] = block_rows(self.draw, steps, *rules, seed_of(f"{self.seed}/block/{block}"))
        return self._block[block][place]

    def trained(self, number: int) -> list[tuple[str, int]]:
        """Return the items of step `number` as pairs of source and row, in the order of its rows."""
        return [(s.source, s.index) for row in self.rows(number) for s in row if s.items == 1]

    def step(self, number: int) -> StepPlan:
        """Return step `number`, from 0.

        Raises:
            IndexError: there is no such step.
        """
        if not 0 <= number < self.steps:
            raise IndexError(f"the plan has steps 0 to {self.steps - 1}, not {number}")
        rows = self.rows(number)
        ranks = _deal(rows, self.world_size, seed_of(f"{self.seed}/order/{number}"))
        tokens = sum(segment.tokens * segment.items for row in rows for segment in row)
        return StepPlan(number, ranks, tokens, sum(segment.supervised for row in rows for segment in row))

    def summary(self) -> dict[str, Any]:
        """Return what the plan amounts to: rows, packing efficiency, balance, and the realised mixture by source."""
        rows = micro_steps = computed = tokens = supervised = 0
        cost = waited = 0.0
        trained: Counter[tuple[str, int]] = Counter()
        for number in range(self.steps):
            step = self.step(number)
            trained.update((s.source, s.index) for rank in step.ranks for row in rank for s in row if s.items == 1)
            tokens += step.tokens
            supervised += step.supervised
            micro_steps += step.micro_steps
            computed += step.computed
            for column in zip(*step.ranks, strict=True):
                costs = [row_cost(row) for row in column]
                rows += sum(map(bool, column))
                cost += sum(costs)
                waited += max(costs) * self.world_size
        return {
            "steps": self.steps,
            "items": trained.total(),
            "tokens": tokens,
            "supervised": supervised,
            "rows": rows,
            "micro_steps": micro_steps,
            "prefix_tokens_saved": tokens - computed,
            "packing_efficiency": efficiency(computed, rows, self.row_tokens),
            "rank_balance": cost / waited if waited else 1.0,
            "mixture": self._mixture(trained),
        }

    def _mixture(self, trained: Counter[tuple[str, int]]) -> dict[str, dict[str, float]]:
        out: dict[str, dict[str, float]] = {}
        for name, counts in self.items.items():
            times = np.zeros(counts.tokens.size, np.int64)
            for (source, index), count in trained.items():
                if source == name:
                    times[index] = count
            out[name] = {
                "items": int(times.sum()),
                "item_share": int(times.sum()) / trained.total(),
                "tokens": int(times @ counts.tokens),
                "supervised": int(times @ counts.supervised),
                "epochs": float(times.mean()),
            }
        tokens = sum(told["tokens"] for told in out.values())
        return {name: {**told, "token_share": told["tokens"] / tokens} for name, told in out.items()}


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
    steps, per_step = training.steps, training.items_per_step
    sizes = {name: len(counts.tokens) for name, counts in items.items()}
    draw = draw_items(weights, sizes, -(-steps // BLOCK) * BLOCK, per_step, seed)
    tokens = np.zeros_like(draw.source)
    for number, name in enumerate(draw.sources):
        places = draw.source == number
        tokens[places] = items[name].tokens[draw.index[places]]
    used = {name: items[name] for name in draw.sources}
    mean = sum(weight * float(items[name].tokens.mean()) for name, weight in weights.items()) / sum(weights.values())
    looks_ahead = per_step * mean >= LEAST_ROWS * training.row_tokens
    rules = (training.row_tokens, seed, world_size, training.share_prefixes, looks_ahead)
    return Plan(draw, used, steps, *rules, tokens.sum(axis=1)[:steps])


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
