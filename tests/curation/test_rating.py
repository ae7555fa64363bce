"""What an expert solved gets the difficulty of its steps; the report and quotas tell the fifths apart."""

import pytest
from episodes import agent, trajectory

from agenttuning.curation.rating import rated
from agenttuning.curation.run import curate
from agenttuning.environments.base import environment_class
from agenttuning.environments.difficulty import from_steps, range_of
from agenttuning.recipe import validate_recipe
from agenttuning.storage import Store
from agenttuning.storage.segments import commit_segment, table_trajectories
from agenttuning.trajectory import Outcome, Turn


def solved(steps: int, number: int = 0, **more):
    spoken = [
        turn
        for n in range(steps)
        for turn in (agent(f"{number} {n}", thought=f"{n}."), Turn(role="user", content=f"{n}"))
    ]
    found = trajectory(tuple(spoken[:-1]), number=number, **more)
    return found.model_copy(update={"policy": "expert"})


@pytest.mark.parametrize("name", ["os", "db", "webshop"])
def test_an_experts_steps_are_the_difficulty(name):
    most = environment_class(name).max_steps
    found = rated(solved(3, environment=name))
    assert found.task.difficulty == from_steps(3, most)
    assert found.task.id == solved(3, environment=name).task.id
    mistaken = solved(3, environment=name)
    turns = [t.model_copy(update={"loss": False}) if i == 3 else t for i, t in enumerate(mistaken.turns)]
    assert rated(mistaken.model_copy(update={"turns": tuple(turns)})).task.difficulty == from_steps(2, most)


def test_what_is_known_stays_and_what_is_not_known_is_not_invented():
    known = solved(3)
    known = known.model_copy(update={"task": known.task.model_copy(update={"difficulty": 0.9})})
    assert rated(known) is known
    for other in (
        trajectory(),
        solved(3, reward=0.5),
        solved(3, outcome=Outcome.STEP_LIMIT),
        solved(3, environment="strangers"),
    ):
        assert rated(other) is other


def test_the_report_counts_kept_and_dropped_by_fifth_and_a_quota_takes_them_in_turn(tmp_path):
    source, target = Store(str(tmp_path / "t")), Store(str(tmp_path / "c"))
    easy, hard = [solved(1, n) for n in range(9)], [solved(8, 90 + n) for n in range(3)]
    commit_segment(source, "w", 0, [*easy, *hard, trajectory(number=99, reward=0.0)])
    curation = {"rules": ["reward", "contamination"], "quota": {"os": 4}}
    report = curate(source, target, validate_recipe({"environments": {"os": {}}, "curation": curation}))
    assert report.total.difficulty == {
        "0.0-0.2": {"kept": 2, "dropped": 7},
        "0.8-1.0": {"kept": 2, "dropped": 1},
        "unknown": {"kept": 0, "dropped": 1},
    }
    assert "difficulty  os kept  total kept\n0.0-0.2      2 of 9      2 of 9\n" in report.text()
    assert "contamination: compared with no evaluation split; set curation.own_tests" in report.text()
    kept = table_trajectories(target.read_table("kept.parquet"))
    assert sorted(range_of(t.task.difficulty) for t in kept) == [0, 0, 4, 4]
