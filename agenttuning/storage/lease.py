"""One writer at a time for a directory: a lease with a fencing token, on a path or an object store.

The token is the epoch, a number that grows with every holder. The holder writes `lease/held-<epoch>.json` and renews
it every few seconds; whoever writes for it (its rollout actors) asks before each write whether a greater epoch is
held, and stops if so. What such a writer had on its way when it was fenced does not count
(`agenttuning.storage.index`).

The protocol needs of the store only that a file appears whole, and that a listing shows every file whose write has
returned: a local disk, S3, GCS and Azure keep to that. No conditional write, no append, no comparison of clocks.

1. Read the greatest held epoch. If its holder lives, refuse.
2. Write a claim for the next epoch, then list. Whoever sees another claim of that epoch or a later one, or a holder
   that it has not judged, withdraws. Of two claimants at least one lists after both have written, so at most one stays.
3. Write `held-<epoch>.json`, and list once more: a claim that came later wins.

A holder lives as long as its renewals are seen, on the watcher's own clock; one on this very machine whose process is
gone is dead at once, and so is one of this very process that could not give the directory back (a full disk). A driver
that slept through its lease finds out at its next renewal. NFS is safe only where listings are not cached
(`lookupcache=none,actimeo=0`): with a cache two drivers that start within the same seconds may both begin, and the one
with the smaller epoch stops when it sees the other.
"""

import contextlib
import getpass
import os
import random
import socket
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from agenttuning.errors import AgentTuningError, ConfigurationError, StorageError
from agenttuning.storage.patience import patiently
from agenttuning.storage.store import Store
from agenttuning.trajectory import content_hash

FOLDER = "lease"
BEAT_SECONDS = 5.0
"""Time between renewals."""
SILENCE_SECONDS = 30.0
"""A holder that was not renewed for so long is dead."""
CLAIMS = 4
"""How often a claim is tried against other claimants."""


class Fenced(StorageError):
    """Another driver has taken the directory over; what this one would write no longer counts."""

    may_pass = False


@dataclass(frozen=True)
class Fence:
    """What a writer asks before it writes. Picklable: it travels to the actors."""

    store: Store
    epoch: int

    def check(self) -> None:
        """Return if no greater epoch is held.

        Raises:
            Fenced: one is.
        """
        held = _held_epochs(self.store.list(prefix=f"{FOLDER}/"))
        if held and held[-1] > self.epoch:
            raise Fenced(
                f"{self.store.uri}: another driver has taken this directory over (epoch {held[-1]}, this is "
                f"{self.epoch}); what was stored before counts, nothing more is written"
            )


class Lease:
    """The right to write a directory. Use as a context manager; `epoch` is the fencing token.

    Args:
        store: the directory.
        purpose: what the holder does there, for the message to the refused.

    Raises:
        ConfigurationError: another process holds it; says who, since when, and what to do.
        StorageError: the store cannot be reached.
    """

    def __init__(self, store: Store, purpose: str) -> None:
        self._store = store
        self._record = {"state": "held", "purpose": purpose, **_whoami(), "since": time.time(), "beat": 0}
        _HELD_HERE.add(self._record["token"])
        self._over = threading.Event()
        self._lost: AgentTuningError | None = None
        try:
            self.epoch = _acquire(store, self._record)
        except BaseException:
            _HELD_HERE.discard(self._record["token"])
            raise
        self.fence = Fence(store, self.epoch)
        self._thread = threading.Thread(target=self._renew, name="lease", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        """Return self."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give the directory back; where that fails after another error, the other is raised: it came first."""
        if kind is None:
            self.release()
        elif not self._over.is_set():
            with contextlib.suppress(StorageError):
                self._stop()
                self._free()

    def check(self) -> None:
        """Return if the lease is still held.

        Raises:
            Fenced: another driver took it over.
            StorageError: it could not be renewed for `SILENCE_SECONDS`, and still cannot.
        """
        if self._lost is not None:
            raise self._lost

    def release(self) -> None:
        """Stop renewing and free the directory. Safe to call twice."""
        if self._over.is_set():
            return
        self._stop()
        patiently(self._store, self._free)

    def release_into(self, begin: Callable[[int], object]) -> None:
        """Fence this epoch's own writers too, let `begin` fix what counts in the next epoch, and free the directory."""
        self.check()
        self._stop()
        self.check()
        self.epoch += 1

        def hand_over() -> None:
            self._write(self._record)
            begin(self.epoch)
            self._free()

        patiently(self._store, hand_over)

    def _free(self) -> None:
        if self._lost is None:
            self._write({**self._record, "state": "free"})

    def _stop(self) -> None:
        self._over.set()
        self._thread.join()
        _HELD_HERE.discard(self._record["token"])

    def _renew(self) -> None:
        last = time.monotonic()
        while not self._over.wait(BEAT_SECONDS):
            try:
                self._record["beat"] += 1
                self._write(self._record)
                self.fence.check()
                last, self._lost = time.monotonic(), None
            except Fenced as error:
                self._lost = error
                return
            except AgentTuningError as error:
                if time.monotonic() - last > SILENCE_SECONDS:
                    self._lost = StorageError(
                        f"{self._store.uri}: the lease could not be renewed for {SILENCE_SECONDS:.0f} s ({error}); "
                        "run the same command again when the store answers: it continues"
                    )

    def _write(self, record: dict[str, Any]) -> None:
        self._store.write_json(_held_name(self.epoch), record)


def holder(store: Store) -> dict[str, Any] | None:
    """Return the record of who holds a directory (`host`, `pid`, `user`, `purpose`, `since`), None where nobody does.

    Nothing is waited for: a holder that died a moment ago on another machine is still named.
    """
    held = _held_epochs(store.list(prefix=f"{FOLDER}/"))
    record = _read(store, held[-1]) if held else None
    return record if record is not None and record["state"] == "held" and not _dead_here(record) else None


def _acquire(store: Store, record: dict[str, Any]) -> int:
    for attempt in range(CLAIMS):
        if attempt:
            time.sleep(random.uniform(0.2, 1.0) * attempt)
        judged = _judge(store)
        epoch = _claim(store, judged)
        if epoch is None:
            continue
        store.write_json(_held_name(epoch), record)
        names = store.list(prefix=f"{FOLDER}/")
        if max(_epochs(names)) > epoch:
            store.write_json(_held_name(epoch), {**record, "state": "free"})
            continue
        for name in names:
            if name.startswith(f"{FOLDER}/claim-") and _number(name) < epoch:
                store.delete(name)
        return epoch
    raise ConfigurationError(
        f"{store.uri}: several drivers want this directory at once; run one of them, the others with another run.name"
    )


def _claim(store: Store, judged: int) -> int | None:
    """Write a claim for the next epoch and return it, or withdraw and return None."""
    before = store.list(prefix=f"{FOLDER}/")
    epoch = max(_epochs(before), default=0) + 1
    mine = f"{FOLDER}/claim-{epoch:06d}-{uuid.uuid4().hex[:8]}.json"
    store.write_json(mine, {"pid": os.getpid()})
    names = store.list(prefix=f"{FOLDER}/")
    others = [n for n in names if n != mine and _number(n) >= epoch]
    if others or (_held_epochs(names) or [0])[-1] != judged:
        store.delete(mine)
        return None
    return epoch


def _judge(store: Store) -> int:
    """Return the greatest held epoch (0 for none) once its holder is known to be gone.

    Raises:
        ConfigurationError: it lives.
    """
    held = _held_epochs(store.list(prefix=f"{FOLDER}/"))
    if not held:
        return 0
    first = _read(store, held[-1])
    if first is None or first["state"] == "free" or _dead_here(first):
        return held[-1]
    here = first["machine"] == _machine()
    if not here and _fell_silent(store, held[-1], first):
        return held[-1]
    since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(first["since"]))
    who = f"{first['user']}, process {first['pid']} on {first['host']}"
    raise ConfigurationError(
        f"{store.uri}: another driver is at work here: {first['purpose']}, by {who}, since {since}. Wait for it, or "
        f"stop that process and run this again: a dead driver is taken over within {SILENCE_SECONDS:.0f} s. Two at "
        "once need two run names"
    )


def _fell_silent(store: Store, epoch: int, first: dict[str, Any]) -> bool:
    """Watch a holder until it is renewed (False), or given back or silent for too long (True)."""
    deadline = time.monotonic() + SILENCE_SECONDS
    while time.monotonic() < deadline:
        time.sleep(min(BEAT_SECONDS, SILENCE_SECONDS) / 5)
        now = _read(store, epoch)
        if now is None or now["state"] == "free":
            return True
        if now["beat"] != first["beat"]:
            return False
    return True


def _read(store: Store, epoch: int) -> dict[str, Any] | None:
    name = _held_name(epoch)
    return dict(store.read_json(name)) if store.exists(name) else None


def _held_name(epoch: int) -> str:
    return f"{FOLDER}/held-{epoch:06d}.json"


def _number(name: str) -> int:
    return int(name.split("-")[1][:6])


def _epochs(names: list[str]) -> list[int]:
    return [_number(n) for n in names]


def _held_epochs(names: list[str]) -> list[int]:
    return sorted(_number(n) for n in names if n.startswith(f"{FOLDER}/held-"))


def _whoami() -> dict[str, Any]:
    try:
        user = getpass.getuser()
    except (OSError, KeyError):
        user = str(os.getuid())
    pid = os.getpid()
    who = {"host": socket.gethostname(), "machine": _machine(), "user": user, "pid": pid, "started": _started(pid)}
    return {**who, "token": uuid.uuid4().hex}


def _machine() -> str:
    """Return what identifies this machine since its start and this space of process ids; unique where unknown."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return content_hash([boot, os.readlink("/proc/self/ns/pid")])
    except OSError:
        return _UNKNOWN


_UNKNOWN = uuid.uuid4().hex


def _started(pid: int) -> int | None:
    """Return when a process of this machine started (clock ticks since boot), None where it is gone or a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else int(fields[19])


_HELD_HERE: set[str] = set()
"""Tokens of the leases that this process holds."""


def _dead_here(record: dict[str, Any]) -> bool:
    """Return whether the holder was on this machine and its process is gone, or was this process and gave up."""
    if record["machine"] != _machine():
        return False
    if record["pid"] == os.getpid():
        return record.get("token") not in _HELD_HERE
    return bool(_started(record["pid"]) != record["started"])
