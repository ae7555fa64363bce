"""The stages' bodies over stored data: what is done, what is asked for again, and rounds."""

import sys
from collections import Counter
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE / "rollout"), str(HERE / "policies")]

from fake_endpoint import fake_endpoint  # noqa: E402
from test_job import solver  # noqa: E402
from toy_environments import Toy, install_toys  # noqa: E402

from agenttuning import stages  # noqa: E402
from agenttuning.environments.base import Grade  # noqa: E402
from agenttuning.errors import BudgetExceeded, ConfigurationError, InfrastructureError  # noqa: E402
from agenttuning.policies.base import Reply  # noqa: E402
from agenttuning.policies.serving import Endpoint  # noqa: E402
from agenttuning.recipe import validate_recipe  # noqa: E402
from agenttuning.servers import Servers  # noqa: E402
from agenttuning.session import Session  # noqa: E402
from agenttuning.stages import rounds, validating  # noqa: E402
from agenttuning.stages.mixing import _learned  # noqa: E402
from agenttuning.storage import Store  # noqa: E402
from agenttuning.storage.manifest import begin_stage, finish_stage  # noqa: E402
from agenttuning.storage.segments import read_trajectories  # noqa: E402


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    import importlib
    import os

    path = install_toys(tmp_path_factory.mktemp("toys"))
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(path))
        paths = [str(path), str(HERE / "rollout"), os.environ.get("PYTHONPATH", "")]
        patch.setenv("PYTHONPATH", os.pathsep.join(paths))
        importlib.invalidate_caches()
        yield path


@pytest.fixture(scope="module")
def cluster(site):
    import ray

    quiet = {"include_dashboard": False, "log_to_driver": False, "logging_level": "ERROR"}
    ray.init(address="local", num_cpus=2, object_store_memory=300 * 2**20, **quiet)
    yield
    ray.shutdown()


@pytest.fixture
def recipe(tmp_path, site):
    def make(**sections):
        raw = {
            "run": {"name": "r", "root": str(tmp_path / "runs")},
            "environments": {"toy": {"train_tasks": 6, "test_tasks": 0, "shifted_tasks": 0}},
            "curation": {"rules": ["reward", "duplicate"]},
            "tracking": {"wandb": "disabled"},
        }
        raw |= sections
        raw["rollout"] = {
            "actors": [1, 1], "actor_cpus": 0.5, "commit_seconds": 0.1, "patience_s": 0, **sections.get("rollout", {})
        }  # fmt: skip
        return validate_recipe(raw)

    return make


def endpoint(fake):
    return {"kind": "endpoint", "base_url": fake.base_url, "model": "toy-model", "patience_s": 5.0}


def generated(recipe):
    with Session(recipe) as session, Servers(session) as servers:
        return stages.generate(session, servers)


def curated(recipe):
    with Session(recipe) as session:
        return stages.curate(session)


def breaking(body, number):
    """Solve all tasks but those to reach 3, at which the world breaks."""
    return "Act: world" if "Reach 3" in str(body["messages"]) else solver(0.0)(body, number)


@pytest.mark.ray
def test_what_could_not_be_played_is_played_by_the_next_run(cluster, recipe, tmp_path):
    refused = pytest.raises(InfrastructureError, match=r"2 of 6 attempts could not be played[\s\S]*allow_unfinished")
    with fake_endpoint(breaking) as fake, refused:
        generated(recipe(policy=endpoint(fake)))
    with fake_endpoint(solver(0.0)) as fake:
        info = generated(recipe(policy=endpoint(fake)))
        assert (info["skipped"], info["played"], info["unfinished"]) == (4, 2, 0)
        asked = len(fake.requests)
        assert generated(recipe(policy=endpoint(fake))) == info
        assert len(fake.requests) == asked


@pytest.mark.ray
def test_what_was_gone_on_without_is_played_until_a_mixture_is_made(cluster, recipe, tmp_path, capsys):
    allowed = {"allow_unfinished": 0.5}
    with fake_endpoint(breaking) as fake:
        assert generated(recipe(policy=endpoint(fake), rollout=allowed))["unfinished"] == 2
        first = curated(recipe(policy=endpoint(fake), rollout=allowed))
        mixture = Store(str(tmp_path / "runs/r/mixture"))
        begin_stage(mixture, "mix", {})
        assert generated(recipe(policy=endpoint(fake), rollout=allowed))["unfinished"] == 2
        assert "2 attempts stay unplayed" in capsys.readouterr().out
        mixture.delete("manifest.json")
    with fake_endpoint(solver(0.0)) as fake:
        assert generated(recipe(policy=endpoint(fake), rollout=allowed))["unfinished"] == 0
        again = curated(recipe(policy=endpoint(fake), rollout=allowed))
    assert (first["collected"], again["collected"]) == (4, 6)


@pytest.mark.ray
def test_a_quota_stops_generation_and_a_shortage_after_curation_raises_its_aim(cluster, recipe, tmp_path):
    few = {"environments": {"toy": {"train_tasks": 40, "test_tasks": 0, "shifted_tasks": 0}}}
    slots = {"rollout": {"episodes_in_flight": 2}}
    full = recipe(**few, **slots, curation={"rules": ["reward"], "quota": {"toy": 4}})
    info = generated(full)
    assert 4 <= info["kept"]["toy"] < 40
    assert (info["unfinished"], info["unneeded"]) == (0, 40 - info["played"])
    assert generated(full) == info
    assert curated(full)["kept"] == 4

    run = Store(str(tmp_path / "runs/r/curated"))
    report = run.read_json("report.json")
    report["environments"]["toy"] |= {"kept": 1, "collected": info["played"]}
    run.write_json("report.json", report)
    more = generated(full)
    assert more["quota"]["toy"] == 4 * info["played"]
    assert more["kept"]["toy"] >= min(40, 4 * info["played"])


@pytest.mark.ray
def test_a_pilot_forecasts_and_its_episodes_count(cluster, recipe, capsys):
    with fake_endpoint(solver(0.0)) as fake:
        policy = {**endpoint(fake), "max_tokens": 8, "concurrency": 1, "budget": {"money": 0.1}}
        policy["prices"] = {"prompt": 100.0, "completion": 100.0}
        with pytest.raises(BudgetExceeded, match=r"policy\.budget\.money"):
            generated(recipe(policy=policy, rollout={"pilot": 2, "attempts": 8}))
        said = capsys.readouterr().out
        assert "forecast by 2 episodes" in said
        assert "toy: 46 episodes more (2 of 2 kept so far), 1,656 tokens, cost 0.17" in said
        assert "policy.budget.money=0.1 will end it before" in said
        policy["budget"]["money"] = 1.0
        info = generated(recipe(policy=policy, rollout={"pilot": 2, "attempts": 8}))
    assert (info["total"], info["unfinished"]) == (48, 0)
    assert info["skipped"] >= 2
    assert len(fake.requests) < 2 * 48 + 12


@pytest.mark.ray
def test_a_mended_grader_is_curated_again_without_playing(cluster, recipe, tmp_path, monkeypatch):
    info = generated(recipe())
    assert curated(recipe())["kept"] == 6
    even = staticmethod(lambda task, evidence: Grade(reward=float(evidence["value"] % 2 == 0), score=0.0))
    monkeypatch.setattr(Toy, "grade", even)
    said = stages.rescore(Session(recipe()), write=True)
    assert "6 graded again" in said[0]
    assert generated(recipe())["played"] == info["played"]
    with Session(recipe()) as session:
        assert [r.verdict for r in stages.replay(session, None, 2)] == ["same", "same"]
    assert curated(recipe())["kept"] == sum(t.evidence["value"] % 2 == 0 for t in played(tmp_path / "runs/r"))


def played(run):
    return list(read_trajectories(Store(str(run / "trajectories"))))


@pytest.mark.ray
def test_each_round_plays_new_tasks_with_the_expert_and_the_model_of_the_last_round(
    cluster, recipe, tmp_path, monkeypatch
):
    """Training and serving stand in for minutes of work; all between them is real."""
    trained, served = [], []

    def learn(session):
        trained.append((session.store.uri, session.store.child("curated").read_json("report.json")["total"]["kept"]))
        finish_stage(session.store.child("export"), "export", {}, {"from": session.store.uri})
        session.store.child("model").write_json("config.json", {})

    monkeypatch.setattr(stages, "mix", lambda session, servers: {})
    monkeypatch.setattr(stages, "train", learn)
    monkeypatch.setattr(stages, "export", lambda session: {})
    three = recipe(rollout={"rounds": 3})
    with fake_endpoint(solver(0.0), models=[]) as fake:

        @contextmanager
        def serve(path, serving, name, trust_remote_code):
            served.append((str(path), name))
            fake.models.append(name)
            yield Endpoint(fake.base_url, name, takes_seed=True)

        monkeypatch.setattr("agenttuning.policies.serving.served", serve)
        info = generated(three)
        assert curated(three)["collected"] == 6 + 12 + 12
        assert (info["played"], info["earlier_model"]["played"]) == (6, 6)
        asked = len(fake.requests)
        generated(three)
        assert len(fake.requests) == asked
    root = tmp_path / "runs/r"
    runs = [root / "rounds/r-1", root / "rounds/r-2", root]
    assert [uri for uri, _ in trained[:2]] == [str(run) for run in runs[:2]]
    assert [kept for _, kept in trained[:2]] == [6, 18]
    assert [path for path, _ in served] == [str(run / "model") for run in runs[:2]]
    assert [name.rpartition("-")[0] for _, name in served] == ["r-1", "r-2"]
    tasks = [{t.task.id for t in played(run)} for run in runs]
    assert [len(found) for found in tasks] == [6, 6, 6]
    assert len(set.union(*tasks)) == 18
    policies = [Counter(t.policy for t in played(run)) for run in runs]
    assert policies[0] == {"expert": 6}
    assert policies[2] == {"expert": 6, served[1][1]: 6}


def test_the_recipes_of_the_rounds_name_their_directories_and_those_before(recipe, tmp_path):
    three = recipe(rollout={"rounds": 3, "earlier": ["s3://bucket/other"]})
    first, second = rounds.round_recipes(three, Store("s3://bucket/runs/r?region=x"))
    assert (first.run.root, first.run.name, second.run.name) == ("s3://bucket/runs/r/rounds?region=x", "r-1", "r-2")
    assert first.rollout.earlier == ("s3://bucket/other",)
    assert second.rollout.earlier == ("s3://bucket/other", "s3://bucket/runs/r/rounds/r-1?region=x")
    assert (first.rollout.rounds, first.tracking.group) == (1, "r")
    assert rounds.round_recipes(recipe(), Store("x")) == []


def test_an_earlier_run_without_a_model_is_named(recipe, tmp_path):
    with pytest.raises(ConfigurationError, match=r"export: not done yet in .*/elsewhere/export"):
        rounds.model_key(Store(str(tmp_path / "elsewhere")))


def test_the_best_attempt_at_each_task_is_learned_from(recipe, capsys):
    from agenttuning.trajectory import Outcome, Task, Trajectory

    def trajectory(task, attempt, score):
        return Trajectory(
            id=f"{task}{attempt}", task=Task(environment="toy", split="train", instruction=task, payload={}),
            attempt=attempt, turns=(), evidence={}, reward=1.0, score=score, outcome=Outcome.COMPLETED, policy="p",
            settings={}, seed=0, versions={}, seconds=0.0, steps=1, calls=(), diagnostics={},
        )  # fmt: skip

    kept = [trajectory("a", 0, 0.5), trajectory("a", 1, 0.9), trajectory("b", 1, 0.5), trajectory("b", 0, 0.5)]
    assert _learned(kept, recipe()) == kept
    assert [t.id for t in _learned(kept, recipe(rollout={"learn_from": "best"}))] == ["a1", "b0"]
    assert "2 of 4 trajectories" in capsys.readouterr().out


def test_a_second_driver_leaves_the_events_of_the_first(recipe, tmp_path):
    run = Store(str(tmp_path / "runs/r"))
    run.write("tracking/generate/events.jsonl", b'{"kind": "config"}\n')
    refused = pytest.raises(ConfigurationError, match="another driver is at work here: r: generate")
    with Session(recipe(), "generate"), refused:
        generated(recipe())
    assert run.read("tracking/generate/events.jsonl") == b'{"kind": "config"}\n'


def test_the_model_of_an_earlier_round_is_waited_for_as_the_recipe_says_and_costs_nothing(
    recipe, tmp_path, monkeypatch
):
    @contextmanager
    def serve(path, serving, name, trust_remote_code):
        yield Endpoint("http://here/v1", name, takes_seed=False)

    monkeypatch.setattr("agenttuning.policies.serving.served", serve)
    monkeypatch.setattr(Session, "ray", lambda session: None)
    run = Store(str(tmp_path / "earlier"))
    finish_stage(run.child("export"), "export", {}, {})
    patient = {"patience_s": 7.0, "request_timeout_s": 900.0, "drop_slow": False, "top_p": 0.5}
    paid = {"prices": {"prompt": 1.0, "completion": 1.0}, "budget": {"money": 5.0}, "api_key_env": "TEACHER"}
    teacher = {"kind": "endpoint", "base_url": "http://teacher/v1", "model": "teacher"}
    with rounds.earlier_model(Session(recipe(policy=teacher | patient | paid)), run) as policy:
        assert policy.model_dump(include=set(patient)) == patient
        assert (policy.base_url, policy.send_seed) == ("http://here/v1", False)
        assert (policy.prices, policy.budget.money, policy.api_key_env) == (None, None, "OPENAI_API_KEY")


@pytest.mark.ray
def test_a_server_that_bears_no_seed_is_evaluated_without_one(cluster, recipe, tmp_path, monkeypatch):
    nothing = SimpleNamespace(headline=dict)
    monkeypatch.setattr("agenttuning.evaluation.general.evaluate_general", lambda *_: nothing)
    monkeypatch.setattr(Session, "model_dir", lambda session: tmp_path)
    tested = {"environments": {"toy": {"test_tasks": 2, "shifted_tasks": 0}}, "evaluation": {"temperature": 0.7}}
    with fake_endpoint(solver(0.0)) as fake, Session(recipe(**tested)) as session:
        servers = SimpleNamespace(base=lambda: Endpoint(fake.base_url, "toy-model", takes_seed=False))
        info = stages.evaluate(session, servers, "base")
    assert info["held_in"]["episodes"] == 2
    assert not any("seed" in str(request) for request in fake.requests)


def test_an_episode_that_the_world_fails_is_passed_over_by_the_validation(recipe, tmp_path, monkeypatch):
    class Scripted:
        def __init__(self, *_):
            pass

        async def act(self, turns, seed):
            said = breaking({"messages": [{"content": turn.content} for turn in turns]}, 0)
            return Reply(said if isinstance(said, str) else await said, "stop", 1, 1)

    monkeypatch.setattr(validating, "Greedy", Scripted)
    play = validating.episode_player(recipe(environments={"toy": {"test_tasks": 5}, "db": {"test_tasks": 0}}), 4)
    assert play(tmp_path) == {"episodes": 3.0, "success": 1.0}, "of four, the one to reach 3 is lost"
    play = validating.episode_player(recipe(environments={"toy": {"test_tasks": 1}, "db": {"test_tasks": 0}}), 4)
    assert play(tmp_path) == {"episodes": 0.0}, "and no success is made up"
