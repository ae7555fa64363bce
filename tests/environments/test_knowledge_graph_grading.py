from hypothesis import given
from hypothesis import strategies as st

from agenttuning.environments.base import Grade
from agenttuning.environments.knowledge_graph.grading import grade_evidence

IDS = st.sets(st.sampled_from([f"m.{letter}" for letter in "abcdefgh"]))


def found(ids: set[str]) -> dict[str, object]:
    return {"answer": "#0", "entities": sorted(ids), "size": len(ids), "number": None}


@given(IDS.filter(bool), IDS)
def test_reward_is_the_exact_set_and_score_is_its_f1(gold, ids):
    grade = grade_evidence({"answer": sorted(gold), "number": None}, found(ids))
    hits = len(gold & ids)
    assert grade.reward == float(gold == ids)
    assert abs(grade.score - 2 * hits / (len(gold) + len(ids))) < 1e-12


@given(st.integers(), st.integers())
def test_numbers_must_be_equal(gold, number):
    evidence = {"answer": "#1", "entities": [], "size": 0, "number": number}
    grade = grade_evidence({"answer": [], "number": gold}, evidence)
    assert grade == Grade(float(gold == number), float(gold == number))


def test_no_answer_and_an_empty_answer_are_wrong():
    for payload in ({"answer": ["m.a"], "number": None}, {"answer": [], "number": None}, {"answer": [], "number": 1}):
        for evidence in ({}, found(set()), {"answer": None, "entities": None, "size": 0, "number": None}):
            assert grade_evidence(payload, evidence) == Grade(0.0, 0.0)


def test_a_number_is_no_set_and_true_is_no_number():
    number = {"answer": "#1", "entities": [], "size": 0, "number": 1}
    assert grade_evidence({"answer": ["m.a"], "number": None}, number).score == 0.0
    assert grade_evidence({"answer": [], "number": 1}, found({"1"})).score == 0.0
    assert grade_evidence({"answer": [], "number": 1}, {**number, "number": True}).score == 0.0


def test_an_answer_too_large_to_keep_scores_nothing():
    evidence = {"answer": "#0", "entities": [], "size": 100_000, "number": None}
    assert grade_evidence({"answer": ["m.a"], "number": None}, evidence) == Grade(0.0, 0.0)
