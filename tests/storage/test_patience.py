from pathlib import Path

import pytest

from agenttuning.errors import StorageError
from agenttuning.storage import Store, patience
from agenttuning.storage.lease import Fenced
from agenttuning.storage.patience import patiently


class Stumbling:
    """Work that fails a few times."""

    def __init__(self, times: int, error: type[StorageError] = StorageError) -> None:
        self.left = times
        self._error = error

    def __call__(self) -> str:
        self.left -= 1
        if self.left >= 0:
            raise self._error("not now")
        return "done"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "PAUSE_S", 0.01)


def test_an_object_store_is_asked_again_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    remote = Store("s3://bucket/run")
    assert patiently(remote, Stumbling(3)) == "done"
    monkeypatch.setattr(patience, "REMOTE_PATIENCE_S", 0.1)
    with pytest.raises(StorageError, match="not now"):
        patiently(remote, Stumbling(1000))


def test_a_disk_and_a_directory_that_was_taken_over_are_not(tmp_path: Path) -> None:
    for store, error in ((Store(str(tmp_path)), StorageError), (Store("s3://bucket/run"), Fenced)):
        work = Stumbling(1, error)
        with pytest.raises(error):
            patiently(store, work)
        assert work.left == 0
