import contextlib
import os
import pickle
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from agenttuning.errors import ConfigurationError, StorageError
from agenttuning.storage import Store, lease
from agenttuning.storage.lease import Fenced, Lease, holder


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "run"))


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "BEAT_SECONDS", 0.1)
    monkeypatch.setattr(lease, "SILENCE_SECONDS", 0.8)


def elsewhere(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Let this process be on another machine from now on."""
    monkeypatch.setattr(lease, "_machine", lambda: name)


def test_epochs_grow_and_the_second_is_refused(store: Store) -> None:
    with Lease(store, "playing") as first:
        assert first.epoch == 1
        found = holder(store)
        assert found is not None
        assert (found["pid"], found["purpose"]) == (os.getpid(), "playing")
        with pytest.raises(ConfigurationError, match=rf"playing, by .*, process {os.getpid()} on .*since \d{{4}}-"):
            Lease(store, "also playing")
        first.check()
    assert holder(store) is None
    with Lease(store, "playing again") as second:
        assert second.epoch > 1
        with pytest.raises(Fenced, match="taken this directory over"):
            first.fence.check()
        pickle.loads(pickle.dumps(second.fence)).check()


def test_a_dead_process_of_this_machine_is_taken_over_at_once(store: Store) -> None:
    script = f"""
import os, sys
from agenttuning.storage import Store
from agenttuning.storage.lease import Lease
Lease(Store({store.uri!r}), "dying")
os.kill(os.getpid(), 9)
"""
    dead = subprocess.Popen([sys.executable, "-c", script])
    dead.wait()
    assert dead.returncode == -9
    started = time.monotonic()
    with Lease(store, "next") as taken:
        assert taken.epoch == 2
    assert time.monotonic() - started < 2


@pytest.mark.usefixtures("quick")
def test_a_holder_elsewhere_is_refused_while_it_beats_and_taken_over_when_silent(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = Lease(store, "there")
    elsewhere(monkeypatch, "another machine")
    with pytest.raises(ConfigurationError, match="another driver is at work"):
        Lease(store, "here")
    first._over.set()
    first._thread.join()
    started = time.monotonic()
    second = Lease(store, "here")
    assert 0.6 < time.monotonic() - started < 5
    second.release()


@pytest.mark.usefixtures("quick")
def test_a_driver_that_slept_through_its_lease_finds_out(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    asleep = threading.Event()
    write = Lease._write

    def sleepy(self: Lease, record: dict[str, object]) -> None:
        if record["purpose"] == "sleepy" and asleep.is_set():
            while asleep.is_set():
                time.sleep(0.02)
        write(self, record)

    monkeypatch.setattr(Lease, "_write", sleepy)
    first = Lease(store, "sleepy")
    asleep.set()
    elsewhere(monkeypatch, "another machine")
    second = Lease(store, "awake")
    asleep.clear()
    deadline = time.monotonic() + 5
    while first._lost is None and time.monotonic() < deadline:
        time.sleep(0.05)
    with pytest.raises(Fenced):
        first.check()
    first.release()
    second.check()
    assert holder(store) is not None
    second.release()


@pytest.mark.usefixtures("quick")
def test_the_clock_on_the_wall_decides_nothing(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    first = Lease(store, "there")
    elsewhere(monkeypatch, "another machine")
    for wrong in (0.0, 4e9):
        monkeypatch.setattr(time, "time", lambda wrong=wrong: wrong)
        with pytest.raises(ConfigurationError, match="another driver is at work"):
            Lease(store, "here")
        first.check()
    first._over.set()
    first._thread.join()
    started = time.monotonic()
    second = Lease(store, "here")
    assert 0.6 < time.monotonic() - started < 5
    second.release()


def test_a_directory_that_could_not_be_given_back_is_free_for_its_own_process(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Lease, record: dict[str, object]) -> None:
        raise StorageError("the disk is full")

    def play() -> None:
        with Lease(store, "playing"):
            monkeypatch.setattr(Lease, "_write", full)
            raise ValueError("what ended the run")

    with pytest.raises(ValueError, match="what ended the run"):
        play()
    monkeypatch.undo()
    assert holder(store) is None
    with Lease(store, "playing again") as again:
        assert again.epoch == 2
    monkeypatch.setattr(Lease, "_write", full)
    with pytest.raises(StorageError, match="the disk is full"), Lease(store, "playing"):
        pass


@pytest.mark.usefixtures("quick")
def test_of_many_drivers_at_once_at_most_one_begins(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "_dead_here", lambda record: False)
    won: list[Lease] = []
    start = threading.Barrier(6)

    def compete(number: int) -> None:
        start.wait()
        with contextlib.suppress(ConfigurationError):
            won.append(Lease(store, f"driver {number}"))

    for _ in range(8):
        threads = [threading.Thread(target=compete, args=(n,)) for n in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(won) <= 1
        for holding in won:
            holding.check()
            holding.release()
        won.clear()


def test_releasing_into_a_new_epoch_fences_the_old_writers(store: Store) -> None:
    first = Lease(store, "playing")
    begun: list[int] = []
    fence = first.fence
    first.release_into(begun.append)
    assert begun == [2]
    with pytest.raises(Fenced):
        fence.check()
    assert holder(store) is None
    with Lease(store, "next") as second:
        assert second.epoch == 3


def test_a_lease_that_failed_while_it_was_taken_is_free_for_its_own_process(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = Store.list

    def failing(self: Store, prefix: str = "", suffix: str = "") -> list[str]:
        names = listed(self, prefix, suffix)
        if any("held-" in name for name in names):
            raise StorageError("the store went away")
        return names

    monkeypatch.setattr(Store, "list", failing)
    with pytest.raises(StorageError, match="went away"):
        Lease(store, "playing")
    monkeypatch.undo()
    assert holder(store) is None
    Lease(store, "playing again").release()


@pytest.mark.usefixtures("quick")
def test_a_store_that_was_away_for_long_leaves_the_lease_to_who_held_it(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(self: Lease, record: dict[str, object]) -> None:
        raise StorageError("the store went away")

    held = Lease(store, "playing")
    with monkeypatch.context() as patch:
        patch.setattr(Lease, "_write", away)
        deadline = time.monotonic() + 5
        while held._lost is None and time.monotonic() < deadline:
            time.sleep(0.05)
        with pytest.raises(StorageError, match=r"could not be renewed .*the store went away"):
            held.check()
    deadline = time.monotonic() + 5
    while held._lost is not None and time.monotonic() < deadline:
        time.sleep(0.05)
    held.check()
    held.release()
    assert holder(store) is None
