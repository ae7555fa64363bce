"""Difficulty is monotone, bounded, and no part of what is chosen evenly by it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agenttuning.environments.difficulty import from_steps
from agenttuning.instructions.difficulty import from_passes, spread, with_difficulty
from agenttuning.trajectory import Task

COUNTS = st.integers(0, 200).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))


def task(number: int, difficulty: float | None) -> Task:
    return Task(environment="e", split="train", instruction=str(number), difficulty=difficulty)


@given(st.integers(1, 100), st.integers(2, 100))
def test_more_steps_are_harder(steps: int, limit: int) -> None:
    assert 0 <= from_steps(steps, limit) <= from_steps(steps + 1, limit) <= 1
    assert from_steps(1, limit) == 0
    assert from_steps(limit, limit) == 1


@given(COUNTS)
def test_more_passes_are_easier(counts: tuple[int, int]) -> None:
    passes, attempts = counts
    assert 0 < from_passes(passes, attempts) < 1
    assert from_passes(passes, attempts + 1) > from_passes(passes, attempts) or passes == 0


def test_known_values() -> None:
    assert from_passes(0, 0) == 0.5
    assert from_passes(4, 4) == pytest.approx(0.1)


@pytest.mark.parametrize("bad", [(-1, 3), (4, 3)])
def test_impossible_counts_are_refused(bad: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="passes must lie"):
        from_passes(*bad)


def test_impossible_steps_are_refused() -> None:
    with pytest.raises(ValueError, match="steps must be 1 or more"):
        from_steps(0, 10)


def test_an_even_choice_takes_hard_tasks_too() -> None:
    tasks = [task(n, 0.05) for n in range(90)] + [task(n, 0.9) for n in range(90, 100)]
    chosen = spread(tasks, 20)
    assert len(chosen) == 20
    assert sum(t.difficulty == 0.9 for t in chosen) == 10
    assert chosen == sorted(chosen, key=lambda t: int(t.instruction))


@given(st.lists(st.one_of(st.none(), st.floats(0, 1)), max_size=40), st.integers(0, 50))
def test_a_choice_has_the_count_and_no_task_twice(difficulties: list[float | None], count: int) -> None:
    tasks = [task(n, d) for n, d in enumerate(difficulties)]
    chosen = spread(tasks, count)
    assert len(chosen) == min(count, len(tasks))
    assert len({t.instruction for t in chosen}) == len(chosen)


def test_difficulties_are_set_by_id() -> None:
    tasks = [task(1, None), task(2, None)]
    first, second = with_difficulty(tasks, {tasks[0].id: 0.25})
    assert (first.difficulty, second.difficulty) == (0.25, None)
