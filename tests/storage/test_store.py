import os
import pickle
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs
import pytest

from agenttuning.errors import ConfigurationError, DataError, StorageError
from agenttuning.storage import Store
from agenttuning.storage.manifest import begin_stage, finish_stage


def test_files_below_a_store(tmp_path: Path) -> None:
    store = Store(str(tmp_path)).child("a", "b")
    store.write("x/y.txt", b"1")
    store.write("x/y.txt", b"2")
    store.write_json("z.json", {"k": [1, 2]})
    assert store.read("x/y.txt") == b"2"
    assert store.read_json("z.json") == {"k": [1, 2]}
    assert store.list() == ["x/y.txt", "z.json"]
    assert store.list(prefix="x/", suffix=".txt") == ["x/y.txt"]
    assert pickle.loads(pickle.dumps(store)).read("x/y.txt") == b"2"
    store.delete("x/y.txt")
    store.delete("x/y.txt")
    assert not store.exists("x/y.txt")
    table = pa.table({"a": [1, 2]})
    store.write_table("t.parquet", table)
    assert store.read_table("t.parquet") == table


def test_child_keeps_the_query_of_a_uri() -> None:
    assert Store("s3://b/p?region=x").child("run").uri == "s3://b/p/run?region=x"


def test_directories_go_up_and_down(tmp_path: Path) -> None:
    (tmp_path / "in/sub").mkdir(parents=True)
    (tmp_path / "in/a").write_bytes(b"a")
    (tmp_path / "in/sub/b").write_bytes(b"b")
    store = Store(str(tmp_path / "store"))
    store.upload(tmp_path / "in", "model")
    store.download("model", tmp_path / "out")
    assert (tmp_path / "out/sub/b").read_bytes() == b"b"
    with pytest.raises(DataError, match="nothing there"):
        store.download("other", tmp_path / "out")


def test_a_failed_write_leaves_the_old_file_and_names_the_cure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(str(tmp_path))
    store.write("f", b"old")

    def full(_: int) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match=r"No space left on device.*free space"):
        store.write("f", b"new")
    assert store.read("f") == b"old"
    assert store.list() == ["f"]


def test_clear_errors(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    with pytest.raises(DataError, match="no such file"):
        store.read("none")
    store.write("torn.json", b'{"a": ')
    with pytest.raises(DataError, match="not JSON"):
        store.read_json("torn.json")
    store.write("torn.parquet", b"PAR1")
    with pytest.raises(DataError, match="not a Parquet file"):
        store.read_table("torn.parquet")
    with pytest.raises(ConfigurationError, match=r"run\.root"):
        Store("nosuch://x/y").exists("a")


def test_stages_continue_or_refuse(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    assert not begin_stage(store, "train", {"lr": 1, "s": {"a": 1}}).started
    again = begin_stage(store, "train", {"lr": 1, "s": {"a": 1}})
    assert (again.started, again.done) == (True, False)
    finish_stage(store, "train", {"lr": 1, "s": {"a": 1}}, {"loss": 2})
    assert begin_stage(store, "train", {"lr": 1, "s": {"a": 1}}).info == {"loss": 2}
    with pytest.raises(ConfigurationError, match=r"s\.a: 1 then, 2 now"):
        begin_stage(store, "train", {"lr": 1, "s": {"a": 2}})


def test_what_cannot_be_deleted_is_named_with_the_cure(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    store.write("sub/f", b"1")
    with pytest.raises(StorageError, match=rf"{tmp_path}/sub: cannot be deleted .*check the path, its rights"):
        store.delete("sub")

    class Refusing:
        def get_file_info(self, path: str) -> SimpleNamespace:
            return SimpleNamespace(type=pafs.FileType.File)

        def delete_file(self, path: str) -> None:
            raise PermissionError(13, "Access Denied")

    remote: Any = Store("s3://bucket/run")
    remote._fs, remote._base = Refusing(), "bucket/run"
    with pytest.raises(StorageError, match=r"s3://bucket/run/f: cannot be deleted \(Access Denied\).*credentials"):
        remote.delete("f")


def test_a_written_file_is_durable_by_its_name_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[tuple[str, bool]] = []
    file = tmp_path / "a/b/f"

    def fsync(descriptor: int) -> None:
        synced.append((os.readlink(f"/proc/self/fd/{descriptor}"), file.exists()))

    monkeypatch.setattr(os, "fsync", fsync)
    Store(str(tmp_path)).write("a/b/f", b"1")
    assert synced[:2] == [(str(tmp_path), False), (str(tmp_path / "a"), False)], "directories that are new"
    assert synced[-1] == (str(tmp_path / "a/b"), True)
