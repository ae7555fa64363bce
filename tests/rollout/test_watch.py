"""What the driver's watch does where the store fails it."""

from types import SimpleNamespace

import pytest
from test_tally import entry

from agenttuning.errors import StorageError
from agenttuning.rollout import watch
from agenttuning.rollout.tally import Ledger
from agenttuning.rollout.watch import PROGRESS, Watch, failures_before
from agenttuning.storage import Store
from agenttuning.storage.lease import Fenced


class Index:
    """Writes of index files, some of which fail."""

    def __init__(self, *errors):
        self.errors, self.written = list(errors), []

    def __call__(self, store, epoch, number, entries):
        if self.errors:
            raise self.errors.pop(0)
        self.written.append((number, [e.id for e in entries]))


def watching(uri):
    ledger = Ledger({"db": 9}, {}, {})
    made = Watch(None, ledger, SimpleNamespace(epoch=3), SimpleNamespace(store=Store(uri), shared=None), None)
    made._pending, made._last_index = [entry(1)], 0.0
    return made


def test_the_index_is_written_at_a_later_look_where_an_object_store_stumbles(monkeypatch):
    index = Index(StorageError("SlowDown"), StorageError("SlowDown"))
    monkeypatch.setattr(watch, "write_index", index)
    made = watching("s3://bucket/run")
    for now in (31.0, 32.0, 33.0):
        made._write_index(now, last=False)
        made._pending.append(entry(int(now)))
    assert index.written == [(1, ["db_1", "db_31", "db_32"])]
    made._write_index(40.0, last=True)
    assert index.written[1:] == [(2, ["db_33"])]


def test_an_object_store_that_stays_away_ends_the_job_and_a_disk_or_a_takeover_at_once(monkeypatch):
    made = watching("s3://bucket/run")
    monkeypatch.setattr(watch, "write_index", Index(*[StorageError("SlowDown")] * 3))
    made._write_index(31.0, last=False)
    made._write_index(90.0, last=False)
    with pytest.raises(StorageError, match="SlowDown"):
        made._write_index(91.0, last=False)
    for uri, error in (("/disk", StorageError("no space left")), ("s3://bucket/run", Fenced("taken over"))):
        monkeypatch.setattr(watch, "write_index", Index(error))
        with pytest.raises(type(error), match=str(error)):
            watching(uri)._write_index(31.0, last=False)


def test_failures_add_up_over_calls(tmp_path):
    store = Store(str(tmp_path))
    assert failures_before(store) == {}
    earlier = {"all": {"request: rate_limit": 2}, "db": {"environment lost": 1}}
    store.write_json(PROGRESS, {"failures": earlier})
    ledger = Ledger({"db": 9}, {}, {})
    ledger.failed_before(failures_before(store))
    assert ledger.failures() == earlier
    ledger.failed({("", "request: rate_limit"): 3, ("db", "crash"): 1})
    ledger.failed({("", "request: rate_limit"): 4, ("db", "crash"): 1})
    assert ledger.failures() == {"all": {"request: rate_limit": 6}, "db": {"crash": 1, "environment lost": 1}}
    assert ledger.tallies(0.0)["db"].failures == {"crash": 1, "environment lost": 1}
    for text in (b"{", b"[]", b'{"failures": 3}', b'{"failures": {"db": {"crash": null}}}'):
        store.write(PROGRESS, text)
        assert failures_before(store) == {}
