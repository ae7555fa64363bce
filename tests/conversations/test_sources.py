"""General sources: files, directories, URIs and the hub, in a stable order."""

import sys
import types
from itertools import islice
from pathlib import Path

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from agenttuning.conversations.agentinstruct import to_agentinstruct
from agenttuning.conversations.openai_messages import to_messages
from agenttuning.conversations.sharegpt import to_sharegpt
from agenttuning.conversations.sources import load_conversations
from agenttuning.errors import ConfigurationError, DataError
from agenttuning.trajectory import Conversation, Turn

SHARED_CHAT = Path(__file__).parents[2].parent / "shared" / "data" / "chat"
WRITERS = {"sharegpt": to_sharegpt, "messages": to_messages, "agentinstruct": to_agentinstruct}


def conversations(count: int, prefix: str = "c") -> list[Conversation]:
    return [
        Conversation(
            id=f"{prefix}{n}",
            source="general",
            turns=(Turn(role="user", content=f"question {n}"), Turn(role="assistant", content=f"é {n}", loss=True)),
        )
        for n in range(count)
    ]


def write_lines(path: Path, items, kind: str = "sharegpt") -> Path:
    path.write_bytes(b"".join(orjson.dumps(WRITERS[kind](c)) + b"\n" for c in items))
    return path


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".parquet"])
def test_every_kind_is_read_from_every_file_type(tmp_path, kind, suffix):
    items = conversations(5)
    records = [WRITERS[kind](c) for c in items]
    path = tmp_path / f"data{suffix}"
    if suffix == ".jsonl":
        write_lines(path, items, kind)
    elif suffix == ".json":
        path.write_bytes(orjson.dumps(records, option=orjson.OPT_INDENT_2))
    else:
        pq.write_table(pa.Table.from_pylist(records), path)
    assert list(load_conversations(kind, str(path), "general")) == items
    assert list(load_conversations(kind, str(path), "general", limit=2)) == items[:2]


def test_a_directory_is_read_by_file_name_and_hidden_files_are_passed_over(tmp_path):
    (tmp_path / "sub").mkdir()
    write_lines(tmp_path / "b.jsonl", conversations(2, "b"))
    write_lines(tmp_path / "sub" / "c.jsonl", conversations(1, "c"))
    write_lines(tmp_path / "a.json", conversations(2, "a"))
    write_lines(tmp_path / ".hidden.jsonl", conversations(1, "h"))
    (tmp_path / "README.md").write_text("no data")
    assert [c.id for c in load_conversations("sharegpt", str(tmp_path), "g")] == ["a0", "a1", "b0", "b1", "c0"]


def test_a_file_uri_is_read_as_the_path_is(tmp_path):
    path = write_lines(tmp_path / "x.jsonl", conversations(3))
    assert [c.id for c in load_conversations("sharegpt", path.as_uri(), "g")] == ["c0", "c1", "c2"]


def test_reading_is_streamed_so_a_limit_never_reaches_a_later_damage(tmp_path):
    path = write_lines(tmp_path / "x.jsonl", conversations(3))
    path.write_bytes(path.read_bytes() + b'{"conversations": [')
    assert len(list(load_conversations("sharegpt", str(path), "g", limit=3))) == 3
    with pytest.raises(DataError, match=r"x\.jsonl, line 4: torn"):
        list(load_conversations("sharegpt", str(path), "g"))


def test_a_refused_record_is_named_with_file_line_item_and_turn(tmp_path):
    path = write_lines(tmp_path / "x.jsonl", conversations(1))
    bad = {"id": "bad", "conversations": [{"from": "observation", "value": "v"}]}
    path.write_bytes(path.read_bytes() + orjson.dumps(bad) + b"\n")
    with pytest.raises(DataError, match=r"x\.jsonl, line 2: ShareGPT item 'bad', turn 0: 'from' is 'observation'"):
        list(load_conversations("sharegpt", str(path), "g"))


def test_a_record_with_nothing_to_train_is_refused(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_bytes(orjson.dumps({"id": "q", "conversations": [{"from": "human", "value": "anyone?"}]}))
    with pytest.raises(DataError, match=r"line 1: item 'q' has no assistant turn to train"):
        list(load_conversations("sharegpt", str(path), "g"))


def test_repeated_ids_are_told_apart(tmp_path):
    path = write_lines(tmp_path / "x.jsonl", [*conversations(1), *conversations(1), *conversations(1)])
    assert [c.id for c in load_conversations("sharegpt", str(path), "g")] == ["c0", "c0-2", "c0-3"]


def test_what_is_not_there_is_refused_at_the_call(tmp_path):
    with pytest.raises(ConfigurationError, match=r"sources\.g\.path: '.*nothing\.jsonl' is no file"):
        load_conversations("sharegpt", str(tmp_path / "nothing.jsonl"), "g")
    with pytest.raises(ConfigurationError, match=r"kind: 'self' reads no files; use sharegpt"):
        load_conversations("self", str(tmp_path), "g")
    with pytest.raises(ConfigurationError, match="cannot be opened"):
        load_conversations("sharegpt", "nosuch://bucket/x.jsonl", "g")
    with pytest.raises(DataError, match=r"holds no \.jsonl, \.json, \.parquet file"):
        list(load_conversations("sharegpt", str(tmp_path), "g"))


class FakeHub(types.ModuleType):
    """The hub cannot be reached from a test: rows or an error in the shape of `datasets`."""

    def __init__(self, splits=None, error=None):
        super().__init__("datasets")
        self.splits, self.error = splits, error

    def load_dataset(self, repo, streaming):
        assert streaming
        if self.error:
            raise self.error
        return self.splits


def rows(*names):
    return (to_agentinstruct(c) for name in names for c in conversations(1, name))


@pytest.mark.parametrize(
    ("path", "splits", "expected"),
    [
        ("THUDM/AgentInstruct", ("os", "db"), ["os0", "db0"]),
        ("THUDM/AgentInstruct#db", ("os", "db"), ["db0"]),
        ("owner/chat", ("train", "test"), ["train0"]),
    ],
)
def test_a_hub_id_reads_the_named_split_or_train_or_all(monkeypatch, path, splits, expected):
    monkeypatch.setitem(sys.modules, "datasets", FakeHub({name: list(rows(name)) for name in splits}))
    assert [c.id for c in load_conversations("agentinstruct", path, "g")] == expected


def test_the_hub_is_read_lazily(monkeypatch):
    def endless():
        while True:
            yield to_sharegpt(conversations(1)[0])

    monkeypatch.setitem(sys.modules, "datasets", FakeHub({"train": endless()}))
    assert len(list(islice(load_conversations("sharegpt", "owner/chat", "g"), 3))) == 3


def test_an_unreachable_hub_or_split_is_a_configuration_error_with_the_cure(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", FakeHub(error=ConnectionError("offline")))
    with pytest.raises(ConfigurationError, match=r"'owner/chat'.*ConnectionError: offline.*download the files"):
        load_conversations("sharegpt", "owner/chat", "g")
    monkeypatch.setitem(sys.modules, "datasets", FakeHub({"train": []}))
    with pytest.raises(ConfigurationError, match=r"no split 'tarin'; it has train"):
        load_conversations("sharegpt", "owner/chat#tarin", "g")
    with pytest.raises(DataError, match="holds no records in train"):
        list(load_conversations("sharegpt", "owner/chat", "g"))


@pytest.mark.data
@pytest.mark.skipif(not SHARED_CHAT.is_dir(), reason=f"published chat data is not at {SHARED_CHAT}")
def test_published_sharegpt_files():
    identity = list(load_conversations("sharegpt", str(SHARED_CHAT / "fastchat_dummy_conversation.json"), "g"))
    assert len(identity) == 500
    assert identity[0].turns[0] == Turn(role="user", content="Who are you?")
    with pytest.raises(DataError, match=r"glaive_toolcall_en_demo\.json, item 0: .*'tools'.*kind: messages"):
        list(load_conversations("sharegpt", str(SHARED_CHAT / "glaive_toolcall_en_demo.json"), "g"))
