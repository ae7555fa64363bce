"""Conversations to one table of token ids and loss masks, with an account of what was cut or dropped and why.

Columns: id and source (string), ids (list<int32>), mask (list<bool>), tokens and supervised (int32), place and shared
(int32: its place among all items sorted by their tokens, and the tokens it shares with the item before). An item that
is too long is dropped, or cut after the last assistant turn that still fits, keeping the opening turns; nothing is ever
cut inside a turn. A conversation whose last reply is unfinished ends with that reply's last token: no end is trained.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from agenttuning.errors import DataError
from agenttuning.rendering.pieces import Rendered
from agenttuning.rendering.renderer import Renderer
from agenttuning.training.prefixes import sort_items
from agenttuning.trajectory import UNFINISHED, Conversation

SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("source", pa.string()),
        ("ids", pa.list_(pa.int32())),
        ("mask", pa.list_(pa.bool_())),
        ("tokens", pa.int32()),
        ("supervised", pa.int32()),
        ("place", pa.int32()),
        ("shared", pa.int32()),
    ]
)
BATCH = 4096
"""Items of one record batch."""
EXAMPLES = 5
"""Ids that the report names for each reason."""


@dataclass
class EncodeReport:
    """What became of the conversations.

    Attributes:
        items: conversations in the table.
        tokens: their tokens.
        supervised: their supervised tokens.
        longest: tokens of the longest one in the table.
        dropped: how many were dropped, by reason.
        cut: how many lost turns at the end, by reason.
        turns_cut: turns that they lost.
        examples: the first ids of each reason.
    """

    items: int = 0
    tokens: int = 0
    supervised: int = 0
    longest: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    cut: Counter[str] = field(default_factory=Counter)
    turns_cut: int = 0
    examples: dict[str, list[str]] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON values."""
        return {**self.__dict__, "dropped": dict(self.dropped), "cut": dict(self.cut)}

    def _note(self, reason: str, name: str) -> str:
        if len(named := self.examples.setdefault(reason, [])) < EXAMPLES:
            named.append(name)
        return reason


def encode_conversations(
    conversations: Iterable[Conversation],
    renderer: Renderer,
    max_length: int,
    too_long: Literal["drop", "cut"] = "drop",
) -> tuple[pa.Table, EncodeReport]:
    """Render conversations into a table, in their order.

    Args:
        conversations: what to encode.
        renderer: the model's.
        max_length: most tokens of an item.
        too_long: what happens to longer ones.

    Raises:
        DataError: a conversation has no supervised token, or the model's template cannot express it; the message
            names it.
    """
    report = EncodeReport()
    batches: list[pa.RecordBatch] = []
    kept: list[tuple[Conversation, Rendered]] = []
    for conversation in conversations:
        rendered = _fit(conversation, renderer, max_length, too_long, report)
        if rendered is not None:
            kept.append((conversation, rendered))
        if len(kept) == BATCH:
            batches.append(_batch(kept))
            kept.clear()
    table = _sorted(pa.Table.from_batches([*batches, _batch(kept)], pa.schema(list(SCHEMA)[:-2])))
    if table.num_rows:
        tokens = table["tokens"].to_numpy()
        report.items, report.tokens, report.longest = table.num_rows, int(tokens.sum()), int(tokens.max())
        report.supervised = int(table["supervised"].to_numpy().sum())
    return table, report


def fingerprint(table: pa.Table) -> str:
    """Return a hash of an encoded table's content, whatever its chunks: 16 hexadecimal digits."""
    digest = hashlib.sha256()
    for name in SCHEMA.names:
        column = table[name].combine_chunks()
        values: Sequence[Any] = column.to_pylist() if pa.types.is_string(column.type) else ()
        if pa.types.is_list(column.type):
            digest.update(np.asarray(pc.list_value_length(column), np.int32).tobytes())
            column = column.flatten()
        text = "\n".join(f"{len(v)} {v}" for v in values).encode()
        digest.update(text or column.to_numpy(zero_copy_only=False).tobytes())
        digest.update(name.encode())
    return digest.hexdigest()[:16]


def _fit(
    conversation: Conversation, renderer: Renderer, max_length: int, too_long: str, report: EncodeReport
) -> Rendered | None:
    """Render a conversation whole, cut, or (None) not at all; account for the last two."""
    rendered = _render(conversation, renderer, len(conversation.turns))
    if not rendered.mask.any():
        raise DataError(
            f"conversation {conversation.id} of {conversation.source}: no token would be trained; an item needs an "
            "assistant turn with loss=true. Mark one, or take the item out of the source"
        )
    if len(rendered.ids) <= max_length:
        return rendered
    reason = f"longer than mixture.max_length={max_length}"
    if too_long == "drop":
        report.dropped[report._note(reason, conversation.id)] += 1
        return None
    ends = [number + 1 for number, turn in enumerate(conversation.turns) if turn.role == "assistant"]
    low, high, best = 0, len(ends), None
    while low < high:
        middle = (low + high) // 2
        shorter = _render(conversation, renderer, ends[middle])
        if len(shorter.ids) <= max_length:
            low, best = middle + 1, (ends[middle], shorter)
        else:
            high = middle
    if best is None or not best[1].mask.any():
        reason = f"{reason}, and no trained turn fits"
        report.dropped[report._note(reason, conversation.id)] += 1
        return None
    report.cut[report._note(reason, conversation.id)] += 1
    report.turns_cut += len(conversation.turns) - best[0]
    return best[1]


def _render(conversation: Conversation, renderer: Renderer, turns: int) -> Rendered:
    try:
        rendered = renderer.render(conversation.turns[:turns], conversation.tools)
    except DataError as error:
        raise DataError(f"conversation {conversation.id} of {conversation.source}: {error}") from error
    if not conversation.meta.get(UNFINISHED) or turns < len(conversation.turns) or not conversation.turns[-1].loss:
        return rendered
    # The last trained token is the reply's end token.
    end = int(np.flatnonzero(rendered.mask)[-1])
    return Rendered(rendered.ids[:end], rendered.mask[:end])


def _batch(kept: list[tuple[Conversation, Rendered]]) -> pa.RecordBatch:
    lengths = np.asarray([len(r.ids) for _, r in kept], np.int32)
    offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32))
    ids = np.concatenate([np.empty(0, np.int32), *(r.ids for _, r in kept)])
    mask = np.concatenate([np.empty(0, np.bool_), *(r.mask for _, r in kept)])
    columns = [
        pa.array([c.id for c, _ in kept], pa.string()),
        pa.array([c.source for c, _ in kept], pa.string()),
        pa.ListArray.from_arrays(offsets, pa.array(ids, pa.int32())),
        pa.ListArray.from_arrays(offsets, pa.array(mask)),
        pa.array(lengths),
        pa.array(np.asarray([r.mask.sum() for _, r in kept], np.int32)),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=pa.schema(list(SCHEMA)[:-2]))


def _sorted(table: pa.Table) -> pa.Table:
    """Add the columns that say which items begin alike."""
    ids, masks = (table[name].combine_chunks() for name in ("ids", "mask"))
    edges = ids.offsets.to_numpy()[1:-1]
    tokens, trained = ids.values.to_numpy(), masks.values.to_numpy(zero_copy_only=False)
    found = sort_items(np.split(tokens, edges), np.split(trained, edges)) if table.num_rows else sort_items([], [])
    for kind, column in zip(list(SCHEMA)[-2:], found, strict=True):
        table = table.append_column(kind, pa.array(column))
    return table
