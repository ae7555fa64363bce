"""The note of the money: never below what may be spent, whenever the writer is killed."""

import multiprocessing
import os
import signal
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agenttuning.errors import DataError, StorageError
from agenttuning.policies.allowance import Allowance
from agenttuning.policies.budget import Account, Amount, Limits
from agenttuning.policies.sharing import Ask, Sharing
from agenttuning.policies.spending import AHEAD, NOTE, Spending
from agenttuning.storage import Store, patience
from agenttuning.storage.lease import Fenced, Lease


class Notes:
    """A directory in memory that remembers what was written."""

    def __init__(self):
        self.written = []

    def local_path(self):
        return Path("memory")

    def exists(self, name):
        return bool(self.written)

    def read_json(self, name):
        return {"money": self.written[-1]}

    def write_json(self, name, value):
        self.written.append(value["money"])


steps = st.lists(st.tuples(st.integers(0, 2), st.floats(0.01, 3.0), st.floats(0, 1)), max_size=60)


@settings(max_examples=100, deadline=None)
@given(st.none() | st.floats(1, 40), steps)
def test_a_lease_is_given_out_only_after_its_money_is_noted(money, steps):
    notes, limits = Notes(), Limits(money=money, requests_per_minute=1_000_000)
    sharing = Sharing(limits, spending=Spending(notes))
    spent = [0.0, 0.0, 0.0]
    for client, need, used in steps:
        share = sharing.exchange(0.0, Ask(str(client), Account(0.0, spent[client]), {}, Amount(1, 0, need)))
        noted = notes.written[-1] if notes.written else 0.0
        given = share.lease.amount.money if share.lease.number else 0.0
        assert noted >= sum(spent) + given - 1e-9, "killed now, the run may have spent as much"
        assert money is None or noted <= money + 1e-9
        spent[client] += used * given
    sharing.exchange(0.0, Ask("0", Account(0.0, spent[0]), {}))
    sharing.exchange(0.0, Ask("1", Account(0.0, spent[1]), {}))
    sharing.exchange(0.0, Ask("2", Account(0.0, spent[2]), {}))
    sharing.settle(0.0)
    assert (notes.written[-1] if notes.written else 0.0) == pytest.approx(sum(spent))


def test_notes_are_few():
    notes = Notes()
    sharing, spent = Sharing(Limits(money=100.0), spending=Spending(notes)), 0.0
    for _ in range(5000):
        spent += 0.019
        sharing.exchange(0.0, Ask("a", Account(0.0, spent), {}, Amount(1, 0, 0.02)))
    assert len(notes.written) <= 1 / AHEAD + 1


def test_what_was_reserved_and_is_free_again_is_taken_off(monkeypatch):
    monkeypatch.setattr("agenttuning.policies.spending.LOWER_S", -1.0)
    notes = Notes()
    spending = Spending(notes)
    for money in (40.0, 41.0, 10.0, 9.0, 10.5):
        spending.cover(money, 100.0)
    assert notes.written == [42.0, 12.0]


def test_a_lease_whose_money_cannot_be_noted_is_not_given(tmp_path):
    (tmp_path / NOTE).mkdir()
    sharing = Sharing(Limits(money=1.0), spending=Spending(Store(str(tmp_path))))
    with pytest.raises(StorageError, match=r"spending\.json"):
        sharing.exchange(0.0, Ask("a", Account(), {}, Amount(1, 0, 0.5)))


def spend(root, told):
    """Spend a cent at a time, each told before it is spent, until somebody ends this."""
    limits = Limits(money=50.0)
    sharing, allowance, need = Sharing(limits, spending=Spending(Store(root))), Allowance(), Amount(1, 0, 0.01)
    while True:
        account, returned = allowance.report(0.0, renew=True)
        share = sharing.exchange(0.0, Ask("a", account, returned, need, Amount(7, 0, 0.07)))
        allowance.renew(0.0, share.lease, 1.0)
        while (lease := allowance.take(0.5, need)) is not None:
            told.send_bytes(b"spent")
            allowance.settle(lease, need, tokens=0, money=0.01)


@pytest.mark.parametrize("after", [0.05, 0.1, 0.2])
def test_a_kill_forgets_no_money(tmp_path, after):
    context = multiprocessing.get_context("spawn")
    hear, tell = context.Pipe(duplex=False)
    process = context.Process(target=spend, args=(str(tmp_path), tell))
    process.start()
    tell.close()
    spent = 0
    # By a timer: once the money is spent, nothing more is told.
    killer = threading.Timer(after, lambda: os.kill(process.pid, signal.SIGKILL))
    while True:
        try:
            hear.recv_bytes()
        except EOFError:
            break
        spent += 1
        if spent == 1:
            killer.start()
    process.join()
    noted = Spending(Store(str(tmp_path))).read()
    assert spent >= 10
    assert 0.01 * spent - 1e-9 <= noted <= 0.01 * spent + 0.07 + AHEAD * 50 + 1e-9


def test_a_driver_that_was_taken_over_leaves_the_note_of_the_new_one(tmp_path):
    store = Store(str(tmp_path))
    with Lease(store, "first") as first:
        old = Spending(store, first.fence)
        old.cover(30.0, 100.0)
    with Lease(store, "second") as second:
        Spending(store, second.fence).cover(60.0, 100.0)
        with pytest.raises(Fenced):
            old.settle(10.0)
        with pytest.raises(Fenced):
            old.cover(90.0, 100.0)
    assert Spending(store).read() == 62.0


def test_what_was_spent_elsewhere_counts_and_is_not_noted_here(tmp_path):
    store = Store(str(tmp_path))
    Spending(store).settle(3.0)
    spending = Spending(store, elsewhere=40.0)
    sharing = Sharing(Limits(money=50.0), spending=spending)
    assert sharing.read(0.0).spent == 43.0
    assert sharing.exchange(0.0, Ask("a", Account(), {}, Amount(1, 0, 7.5))).lease.exhausted
    assert sharing.exchange(0.0, Ask("a", Account(), {}, Amount(1, 0, 6.5))).lease.exhausted, "once it is, it is"
    sharing = Sharing(Limits(money=50.0), spending=spending)
    assert sharing.exchange(0.0, Ask("a", Account(), {}, Amount(1, 0, 6.5))).lease.number
    assert Spending(store).read() >= 9.5
    sharing.exchange(0.0, Ask("a", Account(0.0, 6.0), {}))
    sharing.settle(0.0)
    assert Spending(store).read() == pytest.approx(9.0), "what was spent here"
    assert Spending(store, elsewhere=40.0).read() == pytest.approx(49.0)


@pytest.mark.parametrize("remote", [True, False])
def test_a_note_is_written_again_where_an_object_store_stumbles_and_a_full_disk_ends_it(monkeypatch, remote):
    class Stumbling(Notes):
        left = 2

        def local_path(self):
            return None if remote else Path("memory")

        def write_json(self, name, value):
            self.left -= 1
            if self.left >= 0:
                raise StorageError("SlowDown" if remote else "no space left")
            super().write_json(name, value)

    monkeypatch.setattr(patience, "PAUSE_S", 0.01)
    notes = Stumbling()
    if remote:
        Spending(notes).settle(2.0)
        assert notes.written == [2.0]
        notes.left = 1_000_000
        monkeypatch.setattr(patience, "REMOTE_PATIENCE_S", 0.1)
    with pytest.raises(StorageError, match="SlowDown" if remote else "no space left"):
        Spending(notes).settle(3.0)
    assert notes.left in (1, *range(900_000, 1_000_000)), "the disk was asked once"


@pytest.mark.parametrize(
    "text",
    ["null", "[]", '{"mony": 5}', '{"money": null}', '{"money": -1}', '{"money": "5"}', '{"money": true}', '{"mo'],
)
def test_a_note_that_is_no_sum_of_money_is_refused_with_the_cure(tmp_path, text):
    (tmp_path / NOTE).write_text(text)
    with pytest.raises(DataError, match=r'spending\.json: must be \{"money": NUMBER\}.*your provider'):
        Spending(Store(str(tmp_path))).read()
