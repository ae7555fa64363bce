"""Licence and teacher's terms of conversations: what travels with each item of a mixture into the model card."""

from collections import Counter
from collections.abc import Iterable, Mapping

import pyarrow as pa

from agenttuning.conversations.trajectories import LICENCE, TEACHER_TERMS
from agenttuning.trajectory import Conversation

NOT_STATED = "not stated"
TERMS_SCHEMA = pa.schema([("id", pa.string()), (LICENCE, pa.string()), (TEACHER_TERMS, pa.string())])

TermCounts = Mapping[str, Mapping[str, int]]
"""Items by licence and by the teacher's terms: `{"licence": {...}, "teacher_terms": {...}}`."""


def terms_table(conversations: Iterable[Conversation]) -> pa.Table:
    """Return id, licence and teacher's terms of each conversation."""
    rows = [
        {
            "id": c.id,
            LICENCE: str(c.meta.get(LICENCE) or c.meta.get("license") or NOT_STATED),
            TEACHER_TERMS: str(c.meta.get(TEACHER_TERMS) or NOT_STATED),
        }
        for c in conversations
    ]
    return pa.Table.from_pylist(rows, schema=TERMS_SCHEMA)


def count_terms(table: pa.Table) -> TermCounts:
    """Return how many items have each licence, and each of the teacher's terms, most common first."""
    return {key: dict(Counter(table[key].to_pylist()).most_common()) for key in (LICENCE, TEACHER_TERMS)}
