"""Reading JSON, JSON Lines and Parquet: order, places, and every way a file can be torn."""

import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agenttuning.conversations import records
from agenttuning.conversations.records import read_records
from agenttuning.errors import DataError

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=40),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)
objects = st.lists(st.dictionaries(st.text(max_size=5), values, max_size=4), min_size=1, max_size=5)


def read(data: bytes, name: str = "f.json"):
    return list(read_records(io.BytesIO(data), name))


@given(objects, st.integers(1, 64), st.sampled_from([None, 2]), st.booleans())
def test_an_array_is_read_alike_at_every_chunk_size_and_indentation(items, chunk, indent, ascii_only):
    data = json.dumps(items, indent=indent, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(records, "CHUNK", chunk)
        assert [record for _, record in read(data)] == items


@given(objects, st.data())
def test_a_broken_off_array_is_never_a_shorter_one(items, data):
    whole = json.dumps(items).encode()
    cut = data.draw(st.integers(1, len(whole) - 1))
    with pytest.raises(DataError, match=r"f\.json"):
        read(whole[:cut])


@pytest.mark.parametrize("name", ["f.jsonl", "f.json"])
def test_lines_are_named_by_their_number_and_blank_ones_passed_over(name):
    assert read(b'\n{"a": 1}\n\n{"a": 2}', name) == [("line 2", {"a": 1}), ("line 4", {"a": 2})]
    assert read(b'\xef\xbb\xbf{"a": 1}\r\n', name) == [("line 1", {"a": 1})]


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b'{"a": 1}\n{"a": \n{"a": 3}\n', r"f\.jsonl, line 2: not JSON.*mend that line"),
        (b'{"a": 1}\n{"a": 2', r"f\.jsonl, line 2: torn.*fetch the file again, or delete its last line"),
        (b'{"a": 1}\n7\n', r"f\.jsonl, line 2: is int"),
        (b'{"a": "\xff"}\n', r"f\.jsonl, line 1: not JSON"),
        (b"", r"f\.jsonl: holds no records"),
        (b" \n\n", r"f\.jsonl: holds no records"),
        (b"[]", r"f\.jsonl: holds no records"),
        (b'[{"a": 1}, 3]', r"f\.jsonl, item 1: not an object"),
        (b'[{"a": 1} {"a": 2}]', r"f\.jsonl, item 1: expected ','"),
        (b'[{"a": nope, "b": "' + b"x" * 40 + b'"}]', r"f\.jsonl, item 0: not JSON"),
        (b'[{"a": "\xff"}]', r"f\.jsonl: not UTF-8"),
    ],
)
def test_a_damaged_file_is_refused_with_file_and_place(data, what):
    with pytest.raises(DataError, match=what):
        read(data, "f.jsonl")


def test_earlier_records_of_a_torn_file_are_yielded_before_the_error():
    stream = read_records(io.BytesIO(b'{"a": 1}\n{"a": '), "f.jsonl")
    assert next(stream) == ("line 1", {"a": 1})
    with pytest.raises(DataError):
        next(stream)


def test_parquet_rows_in_order_and_a_torn_file_refused():
    sink = io.BytesIO()
    pq.write_table(pa.table({"a": list(range(600))}), sink, row_group_size=100)
    assert [r["a"] for _, r in read(sink.getvalue(), "f.parquet")] == list(range(600))
    with pytest.raises(DataError, match=r"f\.parquet: not a whole Parquet file"):
        read(sink.getvalue()[:-20], "f.parquet")
    empty = io.BytesIO()
    pq.write_table(pa.table({"a": pa.array([], pa.int64())}), empty)
    with pytest.raises(DataError, match="holds no records"):
        read(empty.getvalue(), "f.parquet")
