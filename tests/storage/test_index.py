import re
import time
from pathlib import Path

import pytest
from test_segments import episode

from agenttuning.errors import DataError
from agenttuning.storage import Store
from agenttuning.storage.index import (
    ENTRY_SCHEMA,
    Entry,
    entries_table,
    epoch_name,
    epoch_of,
    read_index,
    seal,
    segment_names,
    write_index,
)
from agenttuning.storage.segments import commit_segment, read_trajectories, stored_ids
from agenttuning.trajectory import Call


def test_names_carry_their_epoch() -> None:
    assert epoch_of(f"segments/{epoch_name(12, 'abc')}-000003.jsonl") == 12
    assert epoch_of("segments/e12345678901-000001.jsonl") == 0
    assert epoch_of("segments/w-000001.jsonl") == 0


def test_entries_are_the_same_from_memory_and_from_a_segment(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    calls = (Call(turn=1, prompt_tokens=5, completion_tokens=2), Call(turn=3))
    played = episode(1).model_copy(update={"calls": calls, "steps": 2, "seconds": 1.5})
    (entry,) = commit_segment(store, "w", 1, [played])
    table = read_index(store)
    assert table.schema == ENTRY_SCHEMA
    (row,) = table.to_pylist()
    assert Entry(**row) == entry
    assert entry.size == len(store.read(entry.segment))
    assert (row["task"], row["prompt_tokens"], row["completion_tokens"]) == (played.task.id, 5, 2)


def test_a_reward_that_was_stored_as_null_counts_as_none(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    (entry,) = commit_segment(store, "w", 1, [episode(1)])
    text = store.read(entry.segment).decode()
    for name in ("reward", "score"):
        text = re.sub(rf'"{name}":[0-9.]+', f'"{name}":null', text)
    assert '"reward":null' in text
    store.write(entry.segment, text.encode())
    (row,) = read_index(store).to_pylist()
    assert (row["reward"], row["score"]) == (0.0, 0.0)


def test_what_the_index_lacks_is_read_from_the_segments(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    a, b, c = episode(1), episode(2), episode(3)
    seal(store, 1)
    write_index(store, 1, 1, commit_segment(store, epoch_name(1, "w"), 1, [a]))
    commit_segment(store, epoch_name(1, "w"), 2, [b, c])
    assert stored_ids(store) == {a.id, b.id, c.id}


def test_segments_of_an_orphan_do_not_count_unless_the_seal_names_them(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    a, b, c = episode(1), episode(2), episode(3)
    seal(store, 1)
    commit_segment(store, epoch_name(1, "w"), 1, [a])
    assert seal(store, 2).column("id").to_pylist() == [a.id]
    commit_segment(store, epoch_name(1, "orphan"), 1, [b])
    assert stored_ids(store) == {a.id}
    commit_segment(store, epoch_name(2, "w"), 1, [b, c])
    assert stored_ids(store) == {a.id, b.id, c.id}
    assert [t.id for t in read_trajectories(store)] == [a.id, b.id, c.id]
    assert len(segment_names(store)) == 2


def test_of_two_copies_index_and_reader_take_the_same(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    first, second = episode(1), episode(1).model_copy(update={"reward": 0.0})
    commit_segment(store, epoch_name(1, "b"), 1, [first])
    commit_segment(store, epoch_name(1, "a"), 1, [second])
    for _ in range(2):
        assert read_index(store).column("reward").to_pylist() == [0.0]
        assert [t.reward for t in read_trajectories(store)] == [0.0]
        seal(store, 2)


def test_a_torn_segment_is_repaired_and_a_deleted_one_is_played_again(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    a, b, c = episode(1), episode(2), episode(3)
    torn = commit_segment(store, epoch_name(1, "w"), 1, [a, b])[0].segment
    store.write(torn, store.read(torn)[:-20])
    gone = commit_segment(store, epoch_name(1, "w"), 2, [c])[0].segment
    assert sorted(seal(store, 2).column("id").to_pylist()) == sorted([a.id, c.id])
    store.delete(gone)
    assert stored_ids(store) == {a.id}
    commit_segment(store, epoch_name(2, "w"), 1, [b, c])
    assert stored_ids(store) == {a.id, b.id, c.id}


@pytest.mark.parametrize("cut", [20, 0])
def test_an_indexed_segment_that_is_torn_later_is_read_again(tmp_path: Path, cut: int) -> None:
    """With 0 it is torn at the end of a line, where what is left is whole."""
    store = Store(str(tmp_path))
    a, b, c, d = (episode(n) for n in range(4))
    seal(store, 1)
    entries = commit_segment(store, epoch_name(1, "w"), 1, [a, b])
    others = commit_segment(store, epoch_name(1, "w"), 2, [c, d])
    write_index(store, 1, 1, entries + others)
    assert stored_ids(store) == {a.id, b.id, c.id, d.id}
    whole, last = store.read(entries[0].segment), b.model_dump_json().encode()
    store.write(entries[0].segment, whole[:-cut] if cut else whole[: -len(last) - 1])
    assert stored_ids(store) == {t.id for t in read_trajectories(store)} == {a.id, c.id, d.id}
    assert sorted(seal(store, 2).column("id").to_pylist()) == sorted([a.id, c.id, d.id])
    commit_segment(store, epoch_name(2, "w"), 1, [b])
    store.delete(others[0].segment)
    assert stored_ids(store) == {t.id for t in read_trajectories(store)} == {a.id, b.id}


def test_an_index_of_before_sizes_were_kept_is_not_believed(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    a, b = episode(1), episode(2)
    seal(store, 1)
    entries = entries_table(commit_segment(store, epoch_name(1, "w"), 1, [a, b]))
    store.write_table("index/e000001-000001.parquet", entries.drop_columns("size"))
    assert stored_ids(store) == {a.id, b.id}


def test_damage_is_named(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    commit_segment(store, "w", 1, [episode(1)])
    store.write("segments/x-000001.jsonl", b'{"id": "x"}\n')
    with pytest.raises(DataError, match=r"x-000001.jsonl, line 1: not a trajectory"):
        read_index(store)


def test_a_hundred_thousand_entries_are_found_in_seconds(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    segments = [f"segments/{epoch_name(1, 'w')}-{n:06d}.jsonl" for n in range(2000)]
    for name in segments:
        store_path = tmp_path / name
        store_path.parent.mkdir(exist_ok=True)
        store_path.touch()
    entries = [
        Entry(
            segments[i % 2000], f"toy_{i:016x}", f"toy_{i:015x}", "toy", 0, "completed", 1.0, 1.0, 3, 9, 4, 0.0, 1.5, 0
        )
        for i in range(100_000)
    ]
    seal(store, 1, entries_table(entries))
    started = time.monotonic()
    assert len(stored_ids(store)) == 100_000
    assert time.monotonic() - started < 5
