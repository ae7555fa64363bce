import pytest
from hypothesis import given
from hypothesis import strategies as st

from agenttuning.environments.database.grading import grade_evidence, number, same_answer, same_value

BEFORE, AFTER = {"t": "a"}, {"t": "b"}
QUESTION = {"answer": ["42"], "before": BEFORE, "state": BEFORE}
CHANGE = {"answer": None, "before": BEFORE, "state": AFTER}


@pytest.mark.parametrize(
    ("given_", "expected", "same"),
    [
        (["28"], ["28"], True),
        (["28.0"], ["28"], True),
        (["1,200"], ["1200"], True),
        (["45%"], ["45"], True),
        (["0.3333333"], ["0.33333334"], True),
        (["28"], ["29"], False),
        (["1,20"], ["120"], False),
        ([" OSLO "], ["Oslo"], True),
        (["Oslo, Norway"], ["Oslo"], False),
        (["b", "a"], ["a", "b"], True),
        (["a", "b", "a"], ["a", "b"], True),
        (["a"], ["a", "b"], False),
        (["a", "b", "c"], ["a", "b"], False),
        (["2.0", "x"], ["X", "2"], True),
        (["nan"], ["inf"], False),
        (["inf"], ["1e999"], False),
        (["1e2"], ["100"], False),
        (["__import__('os')"], ["1"], False),
    ],
)
def test_answers_compare_as_numbers_texts_and_sets(given_, expected, same):
    assert same_answer(given_, expected) is same


@pytest.mark.parametrize("null", ["None", "null", "NULL", "", " "])
@pytest.mark.parametrize("expected", ["0", "1", "Oslo"])
def test_a_null_is_never_right(null, expected):
    assert not same_answer([null], [expected])
    assert not same_answer([None], [expected])


@pytest.mark.parametrize("evidence", [{}, {"answer": None}, {"answer": []}, {"answer": "42"}, {"answer": [None]}])
def test_no_answer_is_no_reward(evidence):
    evidence = {"state": BEFORE, **evidence}
    assert grade_evidence(QUESTION, evidence).reward == 0.0
    assert grade_evidence({**QUESTION, "answer": ["0"]}, evidence).reward == 0.0


def test_a_question_needs_the_answer_and_untouched_tables():
    assert grade_evidence(QUESTION, {"answer": ["42"], "state": BEFORE}).reward == 1.0
    assert grade_evidence(QUESTION, {"answer": ["41"], "state": BEFORE}).reward == 0.0
    assert grade_evidence(QUESTION, {"answer": ["42"], "state": AFTER}).reward == 0.0


def test_a_change_needs_the_tables_and_any_answer():
    assert grade_evidence(CHANGE, {"answer": ["done"], "state": AFTER}).reward == 1.0
    assert grade_evidence(CHANGE, {"answer": ["none"], "state": AFTER}).reward == 1.0
    assert grade_evidence(CHANGE, {"answer": None, "state": AFTER}).reward == 0.0
    assert grade_evidence(CHANGE, {"answer": ["done"], "state": BEFORE}).reward == 0.0
    assert grade_evidence(CHANGE, {"answer": ["done"], "state": {"t": None}}).reward == 0.0


def test_a_change_that_changes_nothing_cannot_be_won():
    hollow = {"answer": None, "before": BEFORE, "state": BEFORE}
    assert grade_evidence(hollow, {"answer": ["done"], "state": BEFORE}).reward == 0.0


@given(st.integers(-(10**12), 10**12))
def test_an_integer_is_read_however_it_is_written(value):
    assert number(str(value)) == number(f"{value:,}") == number(f" {value}% ") == float(value)


@given(st.text(min_size=1), st.text(min_size=1))
def test_comparison_is_symmetric(left, right):
    assert same_value(left, right) == same_value(right, left)
    assert same_value(left, left)
