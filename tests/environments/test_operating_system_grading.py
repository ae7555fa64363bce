"""Grading reads stored evidence only, and gives nothing for nothing."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agenttuning.environments.operating_system.grading import RULES, grade_episode, watched_paths
from agenttuning.trajectory import Task


def task(**expect: Any) -> Task:
    return Task(environment="os", split="train", instruction="x", payload={"expect": expect})


def answered(answer: str | None, **more: Any) -> dict[str, Any]:
    return {"answer": answer, "ended": "answer", "files": {}, **more}


@pytest.mark.parametrize(
    ("rule", "expected", "right", "wrong"),
    [
        ("integer-match", "7", ["7", " 7\n", "+7", "007"], ["8", "7 files", "7.0", "seven", "", "__import__('os')"]),
        ("integer-match", "12\n", ["12"], ["9" * 9999]),
        ("string-match", "red", ["red", " red\n"], ["Red", "re", "red blue", ""]),
        ("string-match", "a\nb", ["a\r\nb"], ["a b"]),
        ("list-match", "b, a", ["a,b", "a , b, a"], ["a", "a,b,c", ""]),
        ("size-match", "2K", ["2048", "2KB", "2 KiB", "2048 bytes", "2k"], ["2", "2M", "2 kilograms", ""]),
    ],
)
def test_answers(rule: str, expected: str, right: list[str], wrong: list[str]) -> None:
    for answer in right:
        assert grade_episode(task(rule=rule, answer=expected), answered(answer)).reward == 1.0, answer
    for answer in wrong:
        assert grade_episode(task(rule=rule, answer=expected), answered(answer)).reward == 0.0, answer


@given(st.sampled_from(sorted(RULES)), st.text(), st.none() | st.text())
def test_no_answer_is_never_right(rule: str, expected: str, reference: str | None) -> None:
    for evidence in (answered(None), answered(""), {}, {"answer": expected, "ended": None}):
        assert grade_episode(task(rule=rule, answer=expected), evidence).reward == 0.0
        assert grade_episode(task(rule=rule), {**evidence, "reference": reference}).reward == 0.0


def test_a_published_task_is_graded_against_its_stored_reference() -> None:
    graded = task(rule="integer-match")
    assert grade_episode(graded, answered("5", reference="5\n")).reward == 1.0
    assert grade_episode(graded, answered("5", reference="6\n")).reward == 0.0
    assert grade_episode(graded, answered("5")).reward == 0.0


def test_final_files_decide_a_task_that_asks_for_a_change() -> None:
    changed = task(files={"/root/a": "x\n"}, absent=["/root/b"])
    assert watched_paths(changed) == ["/root/a", "/root/b"]
    right = {"/root/a": {"kind": "file", "text": "x"}, "/root/b": {"kind": "missing", "text": ""}}
    ended = {"answer": None, "ended": "finish", "files": right}
    assert grade_episode(changed, ended).reward == 1.0
    assert grade_episode(changed, {**ended, "ended": None}).reward == 0.0
    for path, state in (
        ("/root/a", {"kind": "file", "text": "y"}),
        ("/root/a", {"kind": "link", "text": ""}),
        ("/root/a", {"kind": "missing", "text": ""}),
        ("/root/b", {"kind": "file", "text": ""}),
        ("/root/b", {"kind": "unreadable", "text": ""}),
    ):
        assert grade_episode(changed, {**ended, "files": {**right, path: state}}).reward == 0.0, (path, state)
    assert grade_episode(changed, {**ended, "files": {}}).reward == 0.0
