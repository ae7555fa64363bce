import orjson
import pytest

from agenttuning.errors import StorageError
from agenttuning.recipe import validate_recipe
from agenttuning.storage import Store
from agenttuning.tracking import Tracker, read_events, run_id, wandb_mode


def recipe(wandb: str = "disabled", name: str = "demo"):
    return validate_recipe({"run": {"name": name}, "tracking": {"wandb": wandb}})


def metric_events(path):
    return [(e["step"], e["metrics"]) for e in read_events(path) if e["kind"] == "metrics"]


@pytest.fixture(autouse=True)
def _no_key(monkeypatch, tmp_path):
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


def test_events_are_written_without_wandb(tmp_path):
    with Tracker(recipe(), "train", tmp_path) as tracker:
        tracker.log({"train/loss": 2.0}, 1)
        tracker.table("drops", ["rule", "count"], [["reward", 3]])
        tracker.config({"chosen": {"dtype": "bfloat16"}})
    kinds = [e["kind"] for e in read_events(tmp_path / "train" / "events.jsonl")]
    assert kinds == ["config", "metrics", "table", "config"]
    events = list(read_events(tracker.path))
    assert events[0]["config"]["recipe"]["run"]["name"] == "demo"
    assert events[2]["rows"] == [["reward", 3]]


def test_a_stage_name_with_spaces_is_a_plain_directory(tmp_path):
    tracker = Tracker(recipe(), "evaluate base", tmp_path)
    assert tracker.path == tmp_path / "evaluate-base" / "events.jsonl"


def test_steps_done_again_after_a_restart_replace_the_earlier_ones(tmp_path):
    with Tracker(recipe(), "train", tmp_path) as tracker:
        for step in (1, 2, 3, 4):
            tracker.log({"train/loss": float(step)}, step)
        tracker.log({"mix/agent": 0.2}, 4)
    with Tracker(recipe(), "train", tmp_path) as tracker:
        for step in (3, 4, 5):
            tracker.log({"train/loss": 10.0 * step}, step)
    assert metric_events(tracker.path) == [
        (1, {"train/loss": 1.0}),
        (2, {"train/loss": 2.0}),
        (4, {"mix/agent": 0.2}),
        (3, {"train/loss": 30.0}),
        (4, {"train/loss": 40.0}),
        (5, {"train/loss": 50.0}),
    ]


def test_two_groups_of_metrics_at_one_step_stay(tmp_path):
    with Tracker(recipe(), "train", tmp_path) as tracker:
        tracker.log({"train/loss": 1.0}, 1)
        tracker.log({"mix/agent": 0.2}, 1)
    assert len(metric_events(tracker.path)) == 2


def test_a_torn_last_line_is_dropped(tmp_path):
    with Tracker(recipe(), "train", tmp_path) as tracker:
        tracker.log({"train/loss": 1.0}, 1)
    with tracker.path.open("ab") as file:
        file.write(b'{"time": 1, "kind": "metr')
    with Tracker(recipe(), "train", tmp_path) as tracker:
        tracker.log({"train/loss": 2.0}, 2)
    assert all(orjson.loads(line) for line in tracker.path.read_bytes().splitlines())
    assert [step for step, _ in metric_events(tracker.path)] == [1, 2]


def test_events_are_copied_to_the_store(tmp_path):
    store = Store(str(tmp_path / "store"))
    with Tracker(recipe(), "train", tmp_path / "local", copy=store.write) as tracker:
        tracker.log({"train/loss": 1.0}, 1)
    assert store.read("train/events.jsonl") == tracker.path.read_bytes()


def test_the_id_is_the_runs_name_and_stage():
    assert run_id(recipe(), "train") == run_id(recipe("offline"), "train")
    assert len({run_id(recipe(), "train"), run_id(recipe(), "curate"), run_id(recipe(name="other"), "train")}) == 3


def test_modes(monkeypatch):
    assert wandb_mode(recipe("auto")) == "offline"
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    assert wandb_mode(recipe("auto")) == "online"
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert wandb_mode(recipe("auto")) == "disabled"
    assert wandb_mode(recipe("offline")) == "offline"


def test_a_key_in_netrc_counts(monkeypatch, tmp_path):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / ".netrc").write_text("machine wandb.example login user password " + "0" * 40 + "\n")
    (tmp_path / "home" / ".netrc").chmod(0o600)
    assert wandb_mode(recipe("auto")) == "offline"
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.example")
    assert wandb_mode(recipe("auto")) == "online"


def test_online_without_a_key_goes_on_offline(tmp_path, capsys):
    with Tracker(recipe("online"), "train", tmp_path) as tracker:
        tracker.log({"train/loss": 1.0}, 1)
    said = capsys.readouterr().err
    assert said.count("tracking:") == 1
    assert "WANDB_API_KEY" in said
    assert list((tmp_path / "wandb").glob("offline-run-*"))


def test_a_server_that_does_not_answer_is_tracked_offline(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    with Tracker(recipe("auto"), "train", tmp_path) as tracker:
        tracker.log({"train/loss": 1.0}, 1)
    assert capsys.readouterr().err.count("tracking: W&B does not answer") == 1
    assert list((tmp_path / "wandb").glob("offline-run-*"))


def test_a_broken_wandb_warns_once_and_the_run_goes_on(tmp_path, monkeypatch, capsys):
    import wandb

    def refuse(**_):
        raise RuntimeError("no service\nsecond line")

    monkeypatch.setattr(wandb, "init", refuse)
    with Tracker(recipe("offline"), "train", tmp_path) as tracker:
        tracker.log({"train/loss": 1.0}, 1)
    assert metric_events(tracker.path) == [(1, {"train/loss": 1.0})]
    assert capsys.readouterr().err.count("tracking: W&B did not start offline (no service)") == 1


def test_wandb_that_breaks_later_warns_once(tmp_path, capsys, monkeypatch):
    tracker = Tracker(recipe("offline"), "train", tmp_path)

    def refuse(*_, **__):
        raise OSError("pipe closed")

    monkeypatch.setattr(tracker._run, "log", refuse)
    tracker.log({"train/loss": 1.0}, 1)
    tracker.log({"train/loss": 2.0}, 2)
    tracker.finish()
    assert len(metric_events(tracker.path)) == 2
    assert capsys.readouterr().err.count("W&B stopped") == 1


def test_offline_resumes_under_the_same_id(tmp_path, capfd):
    ids = []
    for start in (1, 3):
        with Tracker(recipe("offline"), "train", tmp_path) as tracker:
            ids.append((tracker._run.id, tracker._run.group, tracker._run.job_type, tracker._run.project))
            for step in (start, start + 1):
                tracker.log({"train/loss": 1.0, "train/tokens": 100 * step}, step)
            tracker.table("t", ["a", "b"], [["x", None], [["a list"], 2]])
    assert ids == [(run_id(recipe(), "train"), "demo", "train", "agenttuning")] * 2
    assert len(list((tmp_path / "wandb").glob(f"offline-run-*-{tracker.id}"))) >= 1
    captured = capfd.readouterr()
    assert captured.out == captured.err == ""


def test_a_path_that_cannot_be_written_names_the_cure(tmp_path):
    (tmp_path / "train").write_text("a file where the directory must be")
    with pytest.raises(StorageError, match=r"set run\.root elsewhere"):
        Tracker(recipe(), "train", tmp_path)
