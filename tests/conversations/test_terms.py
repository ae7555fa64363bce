"""Licence and teacher's terms of each item, and their counts for the model card."""

from agenttuning.conversations.terms import NOT_STATED, count_terms, terms_table
from agenttuning.trajectory import Conversation, Turn


def said(item: str, **meta) -> Conversation:
    return Conversation(id=item, source="s", turns=(Turn(role="user", content="x"),), meta=meta)


def test_terms_are_counted_by_item_most_common_first():
    table = terms_table(
        [
            said("a"),
            said("b", licence="MIT", teacher_terms="none"),
            said("c", license="MIT"),
            said("d", licence="CC-BY-4.0"),
        ]
    )
    assert table.to_pylist()[1] == {"id": "b", "licence": "MIT", "teacher_terms": "none"}
    counts = count_terms(table)
    assert counts == {
        "licence": {"MIT": 2, NOT_STATED: 1, "CC-BY-4.0": 1},
        "teacher_terms": {NOT_STATED: 3, "none": 1},
    }
    assert next(iter(counts["licence"])) == "MIT"
