"""Several ranks upload their shares of a checkpoint to an S3 API on loopback: complete when all are there, or not."""

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from pyarrow.fs import FileSystem

from agenttuning.errors import StorageError
from agenttuning.storage import Store
from agenttuning.training.checkpoint import Progress, latest_checkpoint
from agenttuning.training.checkpoint_writer import CheckpointWriter
from agenttuning.training.ranks import Ranks

MEETING = threading.Barrier(2)


@dataclass(frozen=True)
class TwoThreads(Ranks):
    """Two ranks in one process; what needs a process group waits at a barrier of threads."""

    def barrier(self) -> None:
        MEETING.wait(60)

    def from_first(self, make: Callable[[], Any]) -> Any:
        found = make() if self.rank == 0 else None
        self.barrier()
        return found


class Share:
    """An engine that saves a file of its rank."""

    def __init__(self, rank: int) -> None:
        self.rank = rank

    def save(self, directory: Path) -> None:
        (directory / f"share-{self.rank}").write_bytes(b"x" * 1000)


@pytest.fixture
def remote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    from moto.server import ThreadedMotoServer

    monkeypatch.setenv("AGENTTUNING_CACHE", str(tmp_path / "cache"))
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    query = f"endpoint_override={host}:{port}&scheme=http&region=us-east-1&allow_bucket_creation=true"
    uri = f"s3://runs/one?{query}"
    FileSystem.from_uri(uri)[0].create_dir("runs")
    yield Store(uri)
    server.stop()


def save(writers: list[CheckpointWriter], step: int) -> None:
    """All ranks begin to save."""
    threads = [
        threading.Thread(target=writer.save, args=(Share(rank), Progress(step=step)))
        for rank, writer in enumerate(writers)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)


def test_a_checkpoint_is_complete_when_the_last_rank_is_up_and_never_without_one(
    remote: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    writers = [CheckpointWriter(remote, {}, TwoThreads(rank, 0, 2), keep=2, patience_s=2.0) for rank in range(2)]
    upload, released = Store.upload, threading.Event()
    fate = {"second rank": "late"}

    def slow(store: Store, directory: Path, name: str) -> None:
        second = any(file.name in ("share-1", "rank-00001.pt") for file in directory.iterdir())
        if second and fate["second rank"] == "dead":
            threading.Event().wait(600)  # As good as dead: the thread is a daemon.
        if second:
            assert released.wait(60)
        upload(store, directory, name)

    monkeypatch.setattr(Store, "upload", slow)
    remote.write("checkpoints/step-00000005/rank-00001.pt", b"of a run that was killed here")
    save(writers, 5)
    assert writers[0]._upload is not None
    writers[0]._upload.join(0.7)
    assert writers[0]._upload.is_alive(), "rank 0 waits for the other's share, not for what lay there before"
    assert latest_checkpoint(remote) is None
    released.set()
    for writer in writers:
        writer.wait()
    assert latest_checkpoint(remote) == "checkpoints/step-00000005"
    inside = {name.rpartition("/")[2] for name in remote.list("checkpoints/step-00000005/")}
    assert inside == {
        "complete.json", "metrics.jsonl", "rank-00000.pt", "rank-00001.pt", "share-0", "share-1",
    }  # fmt: skip

    fate["second rank"] = "dead"
    save(writers, 10)
    with pytest.raises(StorageError, match=r"step-00000010: ranks \[1\] did not upload .* within 2 s"):
        writers[0].wait()
    assert latest_checkpoint(remote) == "checkpoints/step-00000005"
