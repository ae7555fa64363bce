import pytest
from hypothesis import given
from hypothesis import strategies as st

from agenttuning.recipe import Training
from agenttuning.training.schedule import TIMED_STEPS, Schedule, make_schedule, steps_within


@given(warmup=st.integers(1, 20), steps=st.integers(21, 200), floor=st.just(0.0) | st.floats(1e-6, 1))
def test_rates_rise_to_the_peak_and_fall_to_the_floor(warmup: int, steps: int, floor: float) -> None:
    schedule = Schedule(2e-4, floor, warmup, steps)
    rates = [schedule.rate(step) for step in range(steps)]
    assert rates[warmup - 1] == pytest.approx(2e-4)
    assert rates[:warmup] == sorted(rates[:warmup])
    assert rates[warmup:] == sorted(rates[warmup:], reverse=True)
    assert rates[-1] == pytest.approx(2e-4 * floor, abs=1e-12)
    assert min(rates) > 0 or floor == 0


@given(st.integers(TIMED_STEPS + 1, 200), st.floats(0, 1))
def test_under_a_time_limit_the_timed_steps_lie_in_the_warm_up_and_the_last_is_the_floor(
    steps: int, ratio: float
) -> None:
    training = Training(steps=200, warmup_ratio=ratio, max_seconds=60)
    schedule = make_schedule(training, steps)
    assert TIMED_STEPS <= schedule.warmup <= max(steps, TIMED_STEPS)
    if schedule.warmup < steps:
        assert schedule.rate(steps - 1) == pytest.approx(training.learning_rate * training.min_learning_rate_ratio)


def test_without_a_limit_the_warm_up_is_the_recipes() -> None:
    assert make_schedule(Training(steps=100, warmup_ratio=0.05), 100).warmup == 5


def test_the_first_step_is_left_out_of_the_speed() -> None:
    tokens = [1000] * 50
    assert steps_within(30.0, tokens, [9.0, 1.0, 1.0, 1.0], spent=12.0) == 4 + 18


@given(st.lists(st.integers(1, 5000), min_size=6, max_size=60), st.floats(1, 500), st.floats(0.1, 20))
def test_what_fits_is_never_more_than_the_time_but_one_step(tokens: list[int], limit: float, second: float) -> None:
    seconds = [second] * TIMED_STEPS
    fit = steps_within(limit, tokens, seconds, sum(seconds))
    assert TIMED_STEPS < fit <= len(tokens)
    speed = sum(tokens[1:TIMED_STEPS]) / sum(seconds[1:])
    if fit > TIMED_STEPS + 1:
        assert sum(seconds) + sum(tokens[TIMED_STEPS:fit]) / speed <= limit * (1 + 1e-9)
    if fit < len(tokens):
        assert sum(seconds) + sum(tokens[TIMED_STEPS : fit + 1]) / speed > limit * (1 - 1e-9)
