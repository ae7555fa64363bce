import pytest

from agenttuning.evaluation.failures import FailureMode, count_modes, count_signs, primary_mode, signs
from agenttuning.trajectory import Outcome

M = FailureMode


def test_a_success_has_no_mode_but_may_show_signs(make_trajectory):
    t = make_trajectory([("? what", "Say it so"), ("ls", "a"), ("done", None)], reward=1.0)
    assert primary_mode(t) is None
    assert signs(t) == {M.INVALID_ACTION}


@pytest.mark.parametrize(
    ("replies", "outcome", "expected"),
    [
        ([("ls", "a"), ("answer", None)], Outcome.COMPLETED, M.WRONG_RESULT),
        ([("? hello", "Say it so")] * 2 + [("? hi", None)], Outcome.INVALID_ACTION, M.INVALID_ACTION),
        ([("? I'm sorry, but I can't help with that.", "Say it so")], Outcome.INVALID_ACTION, M.REFUSAL),
        ([("? I", "Say it so"), ("? blah blah", None, "length")], Outcome.INVALID_ACTION, M.CUT_REPLY),
        ([("ls", "a"), ("ls", "a"), ("ls", None)], Outcome.REPETITION, M.SHORT_REPETITION),
        ([("ls", "a"), ("pwd", "b")] * 4, Outcome.STEP_LIMIT, M.LONG_REPETITION),
        ([("ls", "a"), ("pwd", "b"), ("id", "c")], Outcome.STEP_LIMIT, M.STEP_LIMIT),
        ([("? x", "no"), ("? y", "no"), ("ls", "a")], Outcome.STEP_LIMIT, M.INVALID_ACTION),
        ([("ls", "a")], Outcome.CONTEXT_LIMIT, M.CONTEXT_LIMIT),
        ([("? no", None)], Outcome.REFUSED, M.REFUSAL),
        ([("ls", "a")], Outcome.ENVIRONMENT_FAILURE, M.ENVIRONMENT_FAILURE),
        ([("ls", "a")], Outcome.POLICY_FAILURE, M.POLICY_FAILURE),
    ],
)
def test_primary_modes(make_trajectory, replies, outcome, expected):
    assert primary_mode(make_trajectory(replies, outcome=outcome)) is expected


def test_circles_are_seen_without_recorded_calls(make_trajectory):
    t = make_trajectory([("ls", "a"), ("pwd", "b")] * 4, outcome=Outcome.STEP_LIMIT, calls=False)
    assert primary_mode(t) is M.LONG_REPETITION


def test_the_same_action_with_new_results_is_no_circle(make_trajectory):
    t = make_trajectory([("next", str(i)) if i % 2 else ("look", str(i)) for i in range(8)], outcome=Outcome.STEP_LIMIT)
    assert primary_mode(t) is M.STEP_LIMIT


def test_failing_actions_and_cut_replies_are_signs(make_trajectory):
    t = make_trajectory([("ls x", "no such file", "length")], outcome=Outcome.STEP_LIMIT, error_steps=[3])
    assert signs(t) == {M.STEP_LIMIT, M.ACTION_ERROR, M.CUT_REPLY}


def test_counts_add_up_to_the_failed_episodes(make_trajectory):
    episodes = [
        make_trajectory([("a", None)], reward=1.0),
        make_trajectory([("a", None)]),
        make_trajectory([("a", None)], reward=0.5),
        make_trajectory([("a", "x")], outcome=Outcome.STEP_LIMIT),
    ]
    assert count_modes(episodes) == {"wrong_result": 2, "step_limit": 1}
    assert count_signs(episodes) == {"step_limit": 1}


@pytest.mark.parametrize("outcome", Outcome)
def test_every_outcome_of_a_failed_episode_has_a_mode(make_trajectory, outcome):
    assert primary_mode(make_trajectory([("a", None)], outcome=outcome)) is not None
