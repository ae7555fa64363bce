"""Encoded items and the tensors of a packed row.

Items lie in one Parquet table per source (`<source>.parquet`: id, ids, mask, tokens, supervised, place, shared). A row
of the plan becomes tensors of exactly its tokens: no padding, positions that restart in each item and go on in each
branch, and labels that never leave their item. What several items share is supervised once with their number as weight.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from agenttuning.errors import DataError
from agenttuning.storage import Store
from agenttuning.training.prefixes import PrefixIndex
from agenttuning.training.rows import ItemCounts, Row

IGNORED = -1
"""Source number of the stand-in token of an empty row."""


class Items:
    """The encoded items of one source, in memory as Arrow keeps them.

    Args:
        name: of the source.
        table: with `ids` (list of int), `mask` (list of bool), `tokens`, `supervised`, `place` and `shared`.

    Raises:
        DataError: a column is missing, or ids and mask are not of one length.
    """

    def __init__(self, name: str, table: pa.Table) -> None:
        missing = {"id", "ids", "mask", "tokens", "supervised", "place", "shared"} - set(table.column_names)
        if missing or not table.num_rows:
            what = f"lacks {', '.join(sorted(missing))}" if missing else "has no items"
            raise DataError(f"items of {name}: the table {what}; delete it and run `agenttuning mix` again")
        self.name = name
        self.names = table.column("id").combine_chunks()
        ids, mask = table.column("ids").combine_chunks(), table.column("mask").combine_chunks()
        self._starts = ids.offsets.to_numpy()
        self._ids = ids.values.to_numpy()
        self._mask = mask.values.to_numpy(zero_copy_only=False)
        if not np.array_equal(self._starts, mask.offsets.to_numpy()):
            raise DataError(
                f"items of {name}: ids and mask differ in length; delete the table and run `agenttuning mix`"
            )
        columns = [table.column(name).to_numpy() for name in ("tokens", "supervised", "place", "shared")]
        self._table = table
        self._prefixes = PrefixIndex(columns[2], columns[3])
        self.counts = ItemCounts.of(columns[0], columns[1], self._prefixes)

    def __len__(self) -> int:
        return len(self._table)

    def take(self, chosen: npt.NDArray[np.int64]) -> "Items":
        """Return some of the items, each once, in the order given."""
        table = self._table.take(chosen)
        for name, column in zip(("place", "shared"), self._prefixes.of_chosen(chosen), strict=True):
            table = table.set_column(table.column_names.index(name), name, pa.array(column, pa.int32()))
        return Items(self.name, table)

    def __getitem__(self, index: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
        """Return token ids and mask of an item."""
        span = slice(self._starts[index], self._starts[index + 1])
        return self._ids[span].astype(np.int64), self._mask[span]


@dataclass(frozen=True)
class Batch:
    """The tensors of one packed row.

    Attributes:
        input_ids: [1, tokens].
        position_ids: [1, tokens].
        positions: places whose next token is supervised, [n].
        targets: the tokens that follow there, [n].
        weights: how many items each of them counts for, float32 [n].
        sources: number of the source of each of them, [n]; `IGNORED` in an empty row.
        lengths: tokens of each segment.
        parents: for each segment the one that it continues, if any.
        empty: stands in for a row of no segments, with weight zero.
    """

    input_ids: torch.Tensor
    position_ids: torch.Tensor
    positions: torch.Tensor
    targets: torch.Tensor
    weights: torch.Tensor
    sources: torch.Tensor
    lengths: list[int]
    parents: list[int | None]
    empty: bool = False

    def inputs(self, device: str) -> dict[str, Any]:
        """Return what the model takes, on `device`."""
        names = ("input_ids", "position_ids", "positions", "targets", "weights")
        return {name: getattr(self, name).to(device, non_blocking=True) for name in names}


def load_items(store: Store, sources: list[str]) -> dict[str, Items]:
    """Read the tables of all sources.

    Raises:
        DataError: a table is missing or broken.
    """
    return {name: Items(name, store.read_table(f"{name}.parquet")) for name in sources}


def make_batch(row: Row, items: Mapping[str, Items]) -> Batch:
    """Build the tensors of a row. An empty row gives two tokens that no gradient comes from.

    Raises:
        DataError: an item's mask has another number of supervised tokens than the plan was told.
    """
    if not row:
        pair = torch.zeros(1, 2, dtype=torch.int64)
        one = torch.zeros(1, dtype=torch.int64)
        return Batch(pair, torch.arange(2)[None], one, one, torch.ones(1), one + IGNORED, [2], [None], empty=True)
    numbers = {name: number for number, name in enumerate(items)}
    ids, places, positions, targets, weights, sources, lengths = [], [], [], [], [], [], []
    begin = 0
    for segment in row:
        tokens, mask = items[segment.source][segment.index]
        start, stop = segment.start, segment.start + segment.tokens
        if segment.items == 1 and (len(tokens) != stop or np.count_nonzero(mask[1:]) != segment.supervised):
            raise DataError(
                f"item {items[segment.source].names[segment.index]} of {segment.source}: {len(tokens)} tokens and "
                f"{np.count_nonzero(mask[1:])} that can be supervised, the plan says {stop} and {segment.supervised}; "
                "delete the table and run `agenttuning mix` again"
            )
        # Token t is predicted at t - 1, so the first of an item is predicted by nothing, and the first behind what
        # several items share, which they still have in common, by the last of that.
        wanted = np.flatnonzero(mask[start + 1 : stop + 1])
        ids.append(tokens[start:stop])
        places.append(np.arange(start, stop))
        positions.append(wanted + begin)
        targets.append(tokens[start + 1 :][wanted])
        weights.append(np.full(len(wanted), segment.items, np.float32))
        sources.append(np.full(len(wanted), numbers[segment.source]))
        lengths.append(segment.tokens)
        begin += segment.tokens

    def joined(parts: list[npt.NDArray[Any]]) -> torch.Tensor:
        return torch.from_numpy(np.concatenate(parts))

    return Batch(
        joined(ids)[None],
        joined(places)[None],
        joined(positions),
        joined(targets),
        joined(weights),
        joined(sources),
        lengths,
        [segment.parent for segment in row],
    )
