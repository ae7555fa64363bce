import pytest

from agenttuning.errors import DataError
from agenttuning.evaluation.checks import CHECKS, failed_checks, passes, sentences, words

CASES = [
    ({"kind": "contains", "words": ["sun", "moon"]}, "The Sun and the moon.", True),
    ({"kind": "contains", "words": ["sun", "moon"]}, "Only the sun.", False),
    ({"kind": "contains", "words": ["sun", "moon"], "mode": "any"}, "Only the sun.", True),
    ({"kind": "contains", "words": ["cat"]}, "A catalogue.", False),
    ({"kind": "contains", "words": ["C++"]}, "I like C++ best", True),
    ({"kind": "excludes", "words": ["very"]}, "It is good.", True),
    ({"kind": "excludes", "words": ["very"]}, "Very good.", False),
    ({"kind": "starts_with", "text": "Dear"}, "  Dear Sam,", True),
    ({"kind": "starts_with", "text": "Dear"}, "Oh dear", False),
    ({"kind": "ends_with", "text": "thank you."}, "So, Thank you.\n", True),
    ({"kind": "ends_with", "text": "thank you."}, "Thank you. Bye.", False),
    ({"kind": "bullets", "count": 3}, "List:\n- a\n* b\n• c", True),
    ({"kind": "bullets", "count": 3}, "- a\n- b", False),
    ({"kind": "bullets", "count": 1}, "1. not a bullet\n- a", True),
    ({"kind": "numbered", "count": 2}, "1. one\n2) two", True),
    ({"kind": "numbered", "count": 2}, "- one\n- two", False),
    ({"kind": "max_words", "n": 3}, "one two three", True),
    ({"kind": "max_words", "n": 3}, "one two three four", False),
    ({"kind": "min_words", "n": 3}, "one two", False),
    ({"kind": "min_words", "n": 2}, "one two", True),
    ({"kind": "sentences", "count": 2}, "It rains. Take a coat!", True),
    ({"kind": "sentences", "count": 2}, "It rains, e.g. in May. Take a coat", True),
    ({"kind": "sentences", "count": 2}, "It rains.", False),
    ({"kind": "lowercase"}, "all small 3!", True),
    ({"kind": "lowercase"}, "Not small", False),
    ({"kind": "lowercase"}, "123", False),
    ({"kind": "uppercase"}, "LOUD 3!", True),
    ({"kind": "uppercase"}, "Loud", False),
    ({"kind": "json", "keys": ["a", "b"]}, '{"b": [1], "a": null}', True),
    ({"kind": "json", "keys": ["a", "b"]}, '```json\n{"a": 1, "b": 2}\n```', True),
    ({"kind": "json", "keys": ["a"]}, '{"a": 1, "b": 2}', False),
    ({"kind": "json", "keys": ["a"]}, 'Here: {"a": 1}', False),
    ({"kind": "json", "keys": ["a"]}, '["a"]', False),
    ({"kind": "json", "keys": ["a"]}, "[" * 100_000, False),
    ({"kind": "commas_list", "count": 3}, "red, green, blue.", True),
    ({"kind": "commas_list", "count": 3}, "red, green,", False),
    ({"kind": "commas_list", "count": 2}, "red,\ngreen", False),
    ({"kind": "paragraphs", "count": 2}, "one\nstill one\n\ntwo", True),
    ({"kind": "paragraphs", "count": 2}, "one\ntwo", False),
    ({"kind": "matches", "regex": r"^\d{4}$"}, "2024", True),
    ({"kind": "matches", "regex": r"^\d{4}$"}, "in 2024", False),
]


@pytest.mark.parametrize(("check", "answer", "expected"), CASES)
def test_checks(check, answer, expected):
    assert passes(check, answer) is expected


def test_every_kind_has_a_passing_and_a_failing_case():
    for kind in CHECKS:
        assert {expected for check, _, expected in CASES if check["kind"] == kind} == {True, False}, kind


@pytest.mark.parametrize("kind", ["excludes", "max_words", "lowercase", "paragraphs"])
def test_an_empty_answer_passes_nothing(kind):
    arguments = {"excludes": {"words": ["x"]}, "max_words": {"n": 9}, "paragraphs": {"count": 0}}.get(kind, {})
    assert failed_checks([{"kind": kind, **arguments}], " \n") == [kind]


def test_failed_checks_are_named_in_order():
    checks = [{"kind": "uppercase"}, {"kind": "max_words", "n": 5}, {"kind": "bullets", "count": 1}]
    assert failed_checks(checks, "two words") == ["uppercase", "bullets"]


@pytest.mark.parametrize(
    ("check", "message"),
    [
        ({"kind": "rhymes"}, "kind must be one of"),
        ({"kind": "bullets"}, "wrong arguments"),
        ({"kind": "bullets", "count": 2, "style": "dash"}, "wrong arguments"),
        ({"kind": "contains", "words": ["a"], "mode": "some"}, "mode must be"),
    ],
)
def test_a_damaged_check_is_an_error(check, message):
    with pytest.raises(DataError, match=message):
        passes(check, "text")


def test_words_and_sentences():
    assert words("It's a well-known fact: 3.5") == ["It's", "a", "well-known", "fact", "3", "5"]
    assert sentences("Dr. Ada met Mr. Bo. They talked") == 2
    assert sentences("Version 3.5 is out.") == 1
    assert sentences('She said "go." He went.') == 2
