"""Each rule mends its slip, and leaves what is right alone."""

import pytest

from agenttuning.instructions.readings import readings


@pytest.mark.parametrize(
    ("instruction", "program", "rule", "mended"),
    [
        ("How many entries?", "ls -a /home | wc -l", "dots", "ls -A /home | wc -l"),
        ("How many entries?", "ls -l /home | wc -l", "total_line", "ls /home | wc -l"),
        (
            "How many lines?",
            "wc -l ~/logs/*.log | awk '{sum+=$1} END {print sum}'",
            "doubled_total",
            "cat ~/logs/*.log | wc -l | awk '{sum+=$1} END {print sum}'",
        ),
        ("Directories in x?", "find ~/x -type d | wc -l", "directory_itself", "find ~/x -mindepth 1 -type d | wc -l"),
        ("Lines with error?", "grep -i error a.log | wc -l", "case_ignored", "grep error a.log | wc -l"),
        ("Lines with error?", "grep -ci error a.log", "case_ignored", "grep -c error a.log"),
        ("Lines with error, case-insensitive?", "grep -c error a", "case_heeded", "grep -i -c error a"),
        (
            "Text files in your home?",
            "find ~/zone -name '*.txt' | wc -l",
            "unnamed_place",
            "find ~ -name '*.txt' | wc -l",
        ),
    ],
)
def test_a_slip_is_mended(instruction: str, program: str, rule: str, mended: str) -> None:
    assert readings(instruction, program)[rule] == mended


@pytest.mark.parametrize(
    ("instruction", "program"),
    [
        ("Lines with error, in any case?", "grep -ci error a.log"),
        ("Count lines with 'error' (case-insensitive).", "grep -ci error a.log"),
        ("How many lines have ERROR?", "grep -c ERROR a.log"),
        ("Files in the directory t of your home?", "find ~/t -type f | wc -l"),
        ("How many hidden entries?", "ls -a | grep -v '^[.]*$' | wc -l"),
    ],
)
def test_what_is_right_has_no_other_reading(instruction: str, program: str) -> None:
    assert readings(instruction, program) == {}
