import math

from agenttuning.report.gather import drawn, gather, smoothed, steps_of
from agenttuning.report.rollouts import costs
from agenttuning.storage import Store

PLAN = {"mixture": {"agent": {"item_share": 0.2, "items": 1, "epochs": 0.5}}, "packing_efficiency": 0.9}


def test_of_a_step_done_twice_the_later_counts():
    data = b'{"step": 1, "loss": 3}\n{"step": 2, "loss": 2}\n{"step": 2, "loss": 9}\n{"step": 3, "lo'
    assert steps_of(data) == [{"step": 1, "loss": 3}, {"step": 2, "loss": 9}]


def test_lines_that_are_no_steps_are_passed_over():
    assert steps_of(b'[1]\n{"loss": 1}\nnull\n\n') == []


def test_the_mixture_that_was_drawn_is_read_from_the_trainings_summary():
    trained = {"items": {"agent": 1}, "item_share": {"agent": 0.2}, "epochs": {"agent": 0.5}, "packing_efficiency": 0.9}
    assert drawn(trained) == PLAN
    assert drawn({}) is None


def test_smoothing_skips_what_is_not_finite():
    points = [(1.0, 1.0), (2.0, math.nan), (3.0, 3.0), (4.0, 5.0)]
    assert smoothed(points, 2) == [(1.0, 1.0), (3.0, 2.0), (4.0, 4.0)]


def test_the_plan_may_stand_in_a_file_of_its_own(tmp_path):
    store = Store(str(tmp_path / "run"))
    store.write_json("training/plan.json", PLAN)
    found = gather(store)
    assert found.plan == PLAN
    assert found.name == "run"
    assert found.problems == []


def test_what_generation_used_is_read_from_its_manifest(tmp_path):
    run = Store(str(tmp_path / "run"))
    assert costs(gather(run)) is None
    info = {"tokens": {"db": 4800, "os": 0}, "tokens_per_kept": {"db": 1600.0}, "cost": {"db": 2.0}}
    run.write_json("trajectories/manifest.json", {"info": info | {"cost_per_kept": {"db": 0.666667}, "spent": 2.5}})
    found = costs(gather(run))
    assert found["spent"] == "2.5"
    assert [list(row.values()) for row in found["rows"]] == [
        ["db", "4,800", "1,600.0", "2", "0.6667"],
        ["os", "0", "–", "–", "–"],
    ]
