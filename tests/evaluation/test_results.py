import pytest

from agenttuning.evaluation.general import AnswerResult, GeneralResult
from agenttuning.evaluation.held_in import score_held_in
from agenttuning.evaluation.probe_loss import DialogueLoss, LossResult
from agenttuning.evaluation.results import assemble_summary, final_table
from agenttuning.evaluation.scoring import rate_of, rates_by, token_mean
from agenttuning.storage import Store
from agenttuning.trajectory import Outcome


def general_result(losses, passed):
    dialogues = tuple(
        DialogueLoss(id=name, category="c", loss=loss, tokens=tokens) for name, (loss, tokens) in losses.items()
    )
    loss = None
    if dialogues:
        mean = token_mean([d.loss for d in dialogues], [d.tokens for d in dialogues])
        loss = LossResult(mean=mean, tokens=30, device="cpu", dtype="float32", dialogues=dialogues)
    answers = tuple(
        AnswerResult(id=f"{i}", category="json", answer="", finish_reason=None, passed=p, failed=())
        for i, p in enumerate(passed)
    )
    return GeneralResult(
        model="m",
        confidence=0.95,
        loss=loss,
        success=rate_of(passed),
        by_category=rates_by([("json", p) for p in passed]),
        instructions=answers,
    )


@pytest.fixture
def write(tmp_path, make_task, make_trajectory):
    run = Store(str(tmp_path / "demo"))

    def make(which, solved, losses=None, passed=()):
        episodes = []
        for environment in ("os", "db"):
            for number in range(24):
                task = make_task(environment, "test", number=number)
                good = number < solved
                outcome = Outcome.COMPLETED if good else Outcome.INVALID_ACTION
                episodes.append(make_trajectory([("a", None)], task=task, reward=float(good), outcome=outcome))
            episodes.append(make_trajectory([("a", None)], task=make_task(environment, "shifted"), reward=1.0))
        store = run.child("evaluation", which)
        store.write_json("held_in.json", score_held_in(episodes, which, 50).model_dump(mode="json"))
        store.write_json("general.json", general_result(losses or {}, list(passed)).model_dump(mode="json"))
        return run

    return make


def test_the_summary_has_what_tools_read(write):
    write("base", 0, {"a": (2.0, 10), "b": (3.0, 20)}, [True, False])
    run = write("tuned", 15, {"a": (2.1, 10), "b": (2.9, 20)}, [True, True])
    run.write_json("curated/report.json", {"total": {"collected": 300, "kept": 280}})
    run.write_json("timings.json", {"seconds": {"train": 300.5}, "peak_memory_bytes": 9 * 2**30})
    summary = assemble_summary(run)
    held_in = summary["held_in"]
    assert {k: held_in["base"][k] for k in ("success", "episodes")} == {"success": 0.0, "episodes": 48}
    assert {k: held_in["tuned"][k] for k in ("success", "episodes")} == {"success": 0.625, "episodes": 48}
    assert held_in["base"]["high"] < held_in["tuned"]["low"]
    assert held_in["overlap"] is False
    assert held_in["difference"]["value"] == pytest.approx(0.625)
    assert list(held_in["by_environment"]) == ["db", "os"]
    assert held_in["by_environment"]["os"]["tuned"]["successes"] == 15
    assert summary["shifted"]["base"]["episodes"] == 2
    general = summary["general"]
    assert general["base_loss"] == pytest.approx((2.0 * 10 + 3.0 * 20) / 30)
    assert general["loss_difference"]["value"] == pytest.approx((0.1 * 10 - 0.1 * 20) / 30)
    assert general["loss_change"] == pytest.approx(general["tuned_loss"] / general["base_loss"] - 1)
    assert (general["base_success"], general["tuned_success"]) == (0.5, 1.0)
    assert summary["failures"]["base"]["os"] == {"invalid_action": 24}
    assert summary["failures"]["tuned"]["os"] == {"invalid_action": 9}
    assert summary["trajectories"] == {"collected": 300, "kept": 280}
    assert summary["seconds"] == {"train": 300.5}
    assert summary["peak_memory_bytes"] == 9 * 2**30
    assert summary["run"] == "demo"


def test_a_run_that_has_nothing_yet(tmp_path):
    summary = assemble_summary(Store(str(tmp_path / "new")))
    assert summary["held_in"]["base"] is None
    assert summary["general"]["base_loss"] is None
    assert summary["trajectories"] == {"collected": None, "kept": None}
    assert final_table(summary) == "evaluation: not run yet"


def test_a_run_with_the_base_alone(write):
    summary = assemble_summary(write("base", 1, {"a": (2.0, 10)}))
    assert summary["held_in"]["tuned"] is None
    assert summary["held_in"]["difference"] is None
    assert summary["general"]["loss_difference"] is None
    assert summary["general"]["base_success"] is None
    table = final_table(summary)
    assert "not run" in table
    assert "2.0000 -> not run" in table


def test_the_final_table(write):
    write("base", 0, {"a": (2.0, 10)}, [True, False])
    summary = assemble_summary(write("tuned", 15, {"a": (2.1, 10)}, [True, True]))
    lines = final_table(summary).splitlines()
    assert lines[0].split("  ")[0] == "held-in test tasks"
    assert " ".join(lines[3].split()) == "os 0.0 % [0.0, 13.8] 62.5 % [42.7, 78.8] 24"
    assert any(line.startswith("all") and "48" in line for line in lines)
    assert "failures of tuned in db: invalid action 9" in lines
    assert any(line.startswith("general loss") and "(+5.0%;" in line for line in lines)
    assert max(map(len, lines)) <= 120


def test_dialogues_are_compared_by_name(write):
    write("base", 0, {"a": (2.0, 10), "b": (9.0, 10)})
    run = write("tuned", 0, {"a": (2.5, 10)})
    assert assemble_summary(run)["general"]["loss_difference"]["value"] == pytest.approx(0.5)
