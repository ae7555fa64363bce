import numpy as np
import pytest

from agenttuning.environments.base import Grade, Step
from agenttuning.rollout.given import Unusable, as_stored, grade_of, steps_of, text


class Tagged(str):
    """A text of a parser's own class, which may hold a whole document."""


@pytest.mark.parametrize(
    ("given", "plain"),
    [
        ("caf\u00e9 \U0001f600", "caf\u00e9 \U0001f600"),
        ("\ud83d\ude00", "\U0001f600"),
        ("a\udcffb\ud83dc", "a\ufffdb\ufffdc"),
        (Tagged("so"), "so"),
    ],
)
def test_a_text_can_be_written_as_utf_8(given, plain):
    found = text("it", given)
    assert (found, type(found)) == (plain, str)


def test_json_is_what_will_be_read_back():
    assert as_stored("it", {"a": (1, 2.5, None), "b": {"c": "x"}}) == {"a": [1, 2.5, None], "b": {"c": "x"}}
    assert as_stored("it", {7: "\udcff", "big": 2**64}) == {"7": "\ufffd", "big": 2.0**64}
    nested: dict = {}
    for _ in range(400):
        nested = {"a": nested}
    for wrong in ({"a": {1, 2}}, {"a": b"x"}, {"a": float("nan"), "b": "\udcff"}, nested):
        with pytest.raises(Unusable, match=r"it must be JSON \(.*return plain values"):
            as_stored("it", wrong)
    with pytest.raises(Unusable, match="it must be a dict"):
        as_stored("it", [1])


def test_a_grade_is_finite_and_within_0_and_1():
    assert grade_of(Grade(np.float32(1), True)) == Grade(1.0, 1.0)
    assert type(grade_of(Grade(np.float32(1), 0)).reward) is float
    assert grade_of(Grade(1.0 + 1e-12, -1e-12)) == Grade(1.0, 0.0)
    for wrong in (float("nan"), float("inf"), -1, 1.01, None, "good"):
        with pytest.raises(Unusable, match="the score of a Grade must lie within 0 and 1"):
            grade_of(Grade(0.0, wrong))
    with pytest.raises(Unusable, match=r"must return a Grade \(got Step"):
        grade_of(Step("so"))


def test_steps_are_a_whole_number():
    assert steps_of(3) == 3
    for wrong in (0, "many", None, 2.5):
        with pytest.raises(Unusable, match="max_steps must be a whole number from 1 on"):
            steps_of(wrong)
