import pytest
from hypothesis import given
from hypothesis import strategies as st

from agenttuning.environments.mind2web.grading import action_f1, grade_evidence, measure
from agenttuning.environments.mind2web.protocol import GROUP, LETTERS, Answer, Choice, Rounds, answered, rounds_left

pools = st.integers(1, 50).map(lambda n: tuple(map(str, range(n))))


def right(rounds, positives):
    """The right letter, keeping to a right element chosen before."""
    found = [element for element in rounds.group if element in positives]
    return LETTERS[rounds.group.index(found[-1]) + 1] if found else "A"


def payload(pool, positives, op="CLICK", value=""):
    return {"pool": list(pool), "positives": list(positives), "operation": {"op": op, "value": value}}


@given(pools, st.randoms())
def test_choosing_ends_after_everything_was_shown(pool, rng):
    rounds, shown, count = Rounds(pool), set(), 0
    while rounds.group:
        assert len(rounds.group) <= GROUP
        shown |= set(rounds.group)
        count += 1
        assert count <= len(pool)
        rounds = answered(rounds, Answer(rng.choice(LETTERS[: len(rounds.group) + 1]), "CLICK"))
    assert shown == set(pool)
    assert rounds.prediction is None or rounds.prediction.element in pool


@given(pools, st.data())
def test_right_answers_predict_the_right_element(pool, data):
    positive = data.draw(st.sampled_from(pool))
    rounds, answers = Rounds(pool), []
    needed = rounds_left(rounds, {positive})
    while rounds.group:
        letter = right(rounds, {positive})
        answers.append({"letter": letter, "operation": "TYPE" if letter != "A" else "", "value": "x" * (letter != "A")})
        rounds = answered(rounds, Answer(**answers[-1]))
    assert len(answers) == needed
    assert rounds.prediction == Choice(positive, "TYPE", "x")
    grade = grade_evidence(payload(pool, [positive], "TYPE", "x"), {"answers": answers})
    assert (grade.reward, grade.score) == (1.0, 1.0)


@given(pools, st.data())
def test_rejecting_everything_is_worth_nothing(pool, data):
    positive = data.draw(st.sampled_from(pool))
    rounds, answers = Rounds(pool), []
    while rounds.group:
        answers.append({"letter": "A", "operation": "", "value": ""})
        rounds = answered(rounds, Answer("A"))
    assert rounds.prediction is None
    assert grade_evidence(payload(pool, [positive]), {"answers": answers}).reward == 0.0


def test_a_chosen_element_goes_to_the_end_of_the_pool():
    rounds = answered(Rounds(tuple("abcdefg")), Answer("C", "CLICK"))
    assert rounds.pool == ("f", "g", "b")
    assert rounds.choice == Choice("b", "CLICK", "")


def test_rejecting_the_group_of_the_last_choice_leaves_no_prediction():
    rounds = answered(Rounds(tuple("abcdef")), Answer("B", "CLICK"))
    assert rounds.group == ("f", "a")
    over = answered(rounds, Answer("A"))
    assert over.group == ()
    assert over.prediction is None


def test_an_element_left_over_is_shown_alone():
    rounds = answered(Rounds(tuple("abcdef")), Answer("A"))
    assert rounds.group == ("f",)


def test_a_letter_beyond_the_group_is_refused():
    with pytest.raises(ValueError, match="no choice D among 2"):
        answered(Rounds(("a", "b")), Answer("D", "CLICK"))


@pytest.mark.parametrize(
    ("op", "value", "gold", "f1"),
    [
        ("CLICK", "", ("CLICK", ""), 1.0),
        ("TYPE", "new york", ("TYPE", "New York"), 1.0),
        ("TYPE", "new", ("TYPE", "New York"), 0.8),
        ("CLICK", "", ("TYPE", "New York"), 0.0),
        ("TYPE", "york", ("SELECT", "york"), 0.5),
    ],
)
def test_action_f1(op, value, gold, f1):
    assert action_f1(Choice("1", op, value), gold) == pytest.approx(f1)


def test_metrics_of_a_right_element_with_a_wrong_value():
    answers = [{"letter": "B", "operation": "TYPE", "value": "Oslo"}]
    found = measure(payload("ab", "a", "TYPE", "Bergen"), {"answers": answers})
    assert (found.element_acc, found.action_f1, found.step_sr) == (1.0, 0.5, 0.0)
    assert grade_evidence(payload("ab", "a", "TYPE", "Bergen"), {"answers": answers}).reward == 0.0


def test_one_wrong_round_of_three_leaves_two_thirds():
    pool = tuple("abcdefghij")
    answers = [{"letter": letter, "operation": "CLICK", "value": ""} for letter in ("B", "B", "C")]
    grade = grade_evidence(payload(pool, "f"), {"answers": answers})
    assert (grade.reward, grade.score) == (pytest.approx(2 / 3), 1.0)


def test_many_right_rounds_do_not_make_up_for_a_wrong_value():
    pool = tuple("abcdefghijklmnop")
    rejected = [{"letter": "A", "operation": "", "value": ""}] * 3
    for value, reward in (("Bergen", 1.0), ("Oslo", 0.0)):
        answers = [*rejected, {"letter": "B", "operation": "TYPE", "value": value}]
        grade = grade_evidence(payload(pool, "p", "TYPE", "Bergen"), {"answers": answers})
        assert (grade.reward, grade.score) == (reward, reward)


@given(st.lists(st.sampled_from(LETTERS), max_size=20), pools)
def test_grading_takes_any_letters(letters, pool):
    evidence = {"answers": [{"letter": letter, "operation": "CLICK", "value": ""} for letter in letters]}
    grade = grade_evidence(payload(pool, [pool[0]]), evidence)
    assert 0.0 <= grade.score <= 1.0
    assert 0.0 <= grade.reward <= 1.0


def test_no_evidence_is_worth_nothing():
    assert grade_evidence(payload("ab", "a"), {}).reward == 0.0
