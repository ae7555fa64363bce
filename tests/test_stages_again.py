"""Stages that run again: over files that were torn or deleted, beside another run, and over rounds with one budget."""

import sys
from contextlib import contextmanager, nullcontext
from pathlib import Path

import pytest

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE / "rollout"), str(HERE / "policies")]

from fake_endpoint import completion, fake_endpoint  # noqa: E402
from ray_nodes import object_store  # noqa: E402
from test_job import solver  # noqa: E402
from test_stages import breaking, cluster, curated, endpoint, generated, recipe, site  # noqa: E402, F401
from toy_environments import Toy  # noqa: E402

from agenttuning import pipeline, stages  # noqa: E402
from agenttuning.environments.base import Grade  # noqa: E402
from agenttuning.errors import BudgetExceeded, ConfigurationError, InfrastructureError  # noqa: E402
from agenttuning.policies.serving import Endpoint  # noqa: E402
from agenttuning.policies.spending import Spending  # noqa: E402
from agenttuning.session import Session  # noqa: E402
from agenttuning.storage import Store  # noqa: E402
from agenttuning.storage.manifest import MANIFEST, begin_stage, finish_stage  # noqa: E402
from agenttuning.storage.segments import read_trajectories, stored_ids  # noqa: E402


@contextmanager
def root_of(where, tmp_path):
    """A directory for runs on a path, or on an object store that the workers of a running Ray reach too."""
    with object_store() if where == "s3" else nullcontext((str(tmp_path / "runs"), {})) as (root, _):
        yield root.replace("s3://", "s3://k:s@")


def ids(store):
    return sorted(t.id for t in read_trajectories(store))


@pytest.mark.ray
@pytest.mark.parametrize("where", ["path", "s3"])
@pytest.mark.parametrize("damage", ["torn", "torn at a line's end", "deleted"])
def test_what_a_finished_generation_lost_is_played_again(
    cluster,  # noqa: F811
    recipe,  # noqa: F811
    tmp_path,
    capsys,
    where,
    damage,
):
    with root_of(where, tmp_path) as root:
        slow = {"commit_seconds": 0.02, "episodes_in_flight": 2}
        asked = recipe(run={"name": "r", "root": root}, rollout=slow)
        info = generated(asked)
        store = Store(root).child("r", "trajectories")
        whole = ids(store)
        assert (info["played"], len(whole)) == (6, 6)
        name, data = max(((n, store.read(n)) for n in store.list("segments/")), key=lambda found: found[1].count(b"\n"))
        if damage == "deleted":
            store.delete(name)
        else:
            store.write(name, data[:-30] if damage == "torn" else data[: data[:-1].rfind(b"\n") + 1])
        left = len(ids(store))
        assert 0 < left < 6
        assert len(stored_ids(store)) == left
        curated(asked)
        assert f"curate: {6 - left} episodes of" in capsys.readouterr().out
        again = generated(asked)
        assert f"generate: {6 - left} stored episodes are gone" in capsys.readouterr().out
        assert (again["skipped"], again["played"], again["unfinished"]) == (left, 6 - left, 0)
        assert ids(store) == whole
        assert generated(asked) == again
        assert curated(asked)["collected"] == 6


@pytest.mark.ray
def test_what_is_lost_after_the_mixture_is_said_and_stays_lost(cluster, recipe, tmp_path, capsys):  # noqa: F811
    info = generated(recipe())
    begin_stage(Store(str(tmp_path / "runs/r/mixture")), "mix", {})
    store = Store(str(tmp_path / "runs/r/trajectories"))
    store.delete(store.list("segments/")[0])
    capsys.readouterr()
    assert generated(recipe()) == info
    assert "stored episodes are gone, in files torn or deleted; the mixture is made already" in capsys.readouterr().out


def test_a_second_run_is_refused_whatever_stage_the_first_is_in(recipe, monkeypatch):  # noqa: F811
    refused = []

    def learn(session):
        for only in (pipeline.STAGES, ("curate",), ("train",)):
            with pytest.raises(ConfigurationError) as error:
                pipeline.run(recipe(), only)
            refused.append(str(error.value))
        with pytest.raises(ConfigurationError, match="at work here: r: train, by"):
            stages.rescore(Session(recipe()), write=True)
        return {"within": [line for line in pipeline.describe(recipe(), ("train",)).splitlines() if "run dir" in line]}

    monkeypatch.setattr(stages, "train", learn)
    assert pipeline.run(recipe(), ("train",))["train"]["within"], "looking is not refused"
    assert len(refused) == 3
    assert all("another driver is at work here: r: train, by" in text for text in refused)
    monkeypatch.setattr(stages, "train", lambda session: {"alone": True})
    assert pipeline.run(recipe(), ("train",)) == {"train": {"alone": True}}


@pytest.mark.ray
def test_failures_are_remembered_by_the_run_that_continues(cluster, recipe, tmp_path, capsys):  # noqa: F811
    with fake_endpoint(breaking) as fake, pytest.raises(InfrastructureError):
        generated(recipe(policy=endpoint(fake)))
    said = capsys.readouterr().out
    assert "generate: 4 of 6 attempts stored, 4 with their reward" in said
    with fake_endpoint(solver(0.0)) as fake:
        info = generated(recipe(policy=endpoint(fake)))
    assert sum(info["retried"]["toy"].values()) >= 2
    assert "generate: 6 of 6 attempts stored, 6 with their reward; tried again after toy" in capsys.readouterr().out


@pytest.mark.ray
def test_all_rounds_have_one_budget(cluster, recipe, tmp_path, monkeypatch):  # noqa: F811
    """Training and serving stand in for minutes of work; playing and paying are real."""

    async def told(body, number):
        usage = {"prompt_tokens": 100, "completion_tokens": 10}
        return completion(await solver(0.0)(body, number)) | {"usage": usage}

    def learn(session):
        finish_stage(session.store.child("export"), "export", {}, {"from": session.store.uri})
        session.store.child("model").write_json("config.json", {})

    for name, body in (("mix", lambda *_: {}), ("train", learn), ("export", lambda session: {})):
        monkeypatch.setattr(stages, name, body)

    def noted():
        return [Spending(Store(str(run / "trajectories"))).read() for run in runs]

    root = tmp_path / "runs/r"
    runs = [root / "rounds/r-1", root / "rounds/r-2", root]
    with fake_endpoint(lambda body, n: told(body, n), models=[]) as fake:

        @contextmanager
        def serve(path, serving, name, trust_remote_code):
            fake.models.append(name)
            yield Endpoint(fake.base_url, name, takes_seed=True)

        monkeypatch.setattr("agenttuning.policies.serving.served", serve)
        paid = {**endpoint(fake), "max_tokens": 10, "prices": {"prompt": 1000.0, "completion": 1000.0}}
        with pytest.raises(BudgetExceeded, match="money=3 is used up"):
            generated(recipe(rollout={"rounds": 3}, policy={**paid, "budget": {"money": 3.0}}))
        assert 1.2 < sum(noted()) <= 3.0, noted()
        assert noted()[0] > 0.6
        with pytest.raises(BudgetExceeded):
            generated(recipe(rollout={"rounds": 3}, policy={**paid, "budget": {"money": 3.0}}))
        assert sum(noted()) <= 3.0
        info = generated(recipe(rollout={"rounds": 3}, policy={**paid, "budget": {"money": 30.0}}))
    assert info["spent"] == pytest.approx(noted()[2], abs=1e-6), "what was spent in its own directory"
    assert all(money > 0.6 for money in noted())


@pytest.mark.ray
def test_a_rescoring_that_was_cut_off_before_its_note_is_seen_by_curation(
    cluster,  # noqa: F811
    recipe,  # noqa: F811
    tmp_path,
    monkeypatch,
):
    generated(recipe())
    assert curated(recipe())["kept"] == 6
    run = tmp_path / "runs/r"
    even = staticmethod(lambda task, evidence: Grade(reward=float(evidence["value"] % 2 == 0), score=0.0))
    monkeypatch.setattr(Toy, "grade", even)
    write_json = Store.write_json

    def cut_off(self, name, value):
        if name == MANIFEST:
            raise KeyboardInterrupt
        write_json(self, name, value)

    with monkeypatch.context() as patch:
        patch.setattr(Store, "write_json", cut_off)
        with pytest.raises(KeyboardInterrupt):
            stages.rescore(Session(recipe()), write=True)
    assert "0 changed" in stages.rescore(Session(recipe()), write=True)[0]
    good = sum(t.evidence["value"] % 2 == 0 for t in read_trajectories(Store(str(run / "trajectories"))))
    assert curated(recipe())["kept"] == good < 6
    manifest = Path(run / "trajectories" / MANIFEST).read_bytes()
    stages.rescore(Session(recipe()), write=True)
    assert Path(run / "trajectories" / MANIFEST).read_bytes() == manifest
