"""Cut and mask: what is left of a trajectory with bad turns."""

import pytest
from episodes import agent, steps, trajectory
from hypothesis import given
from hypothesis import strategies as st

from agenttuning.curation.mending import mended

# Turns 3, 5, 7 are the agent's.
T = trajectory((*steps(("a", "1"), ("b", "2")), agent("c")))


def test_drop_and_no_bad_turns_leave_nothing():
    assert mended(T, (5,), "drop") is None
    assert mended(T, (), "cut") is None
    assert mended(T, (), "mask") is None


def test_cut_ends_with_the_agent_turn_before():
    cut = mended(T, (5, 7), "cut")
    assert cut.turns == T.turns[:4]
    assert [call.turn for call in cut.calls] == [3]
    assert mended(T, (3,), "cut") is None


def test_mask_keeps_the_turn_without_loss():
    masked = mended(T, (5,), "mask")
    assert [t.loss for t in masked.turns if t.role == "assistant"] == [False, True, False, True]
    assert [t.content for t in masked.turns] == [t.content for t in T.turns]
    assert mended(T, (3, 5, 7), "mask") is None


@given(st.sets(st.sampled_from([3, 5, 7]), min_size=1), st.sampled_from(["cut", "mask"]))
def test_no_bad_turn_is_ever_trained(bad, how):
    left = mended(T, tuple(sorted(bad)), how)
    if left is not None:
        trained = [index for index, turn in enumerate(left.turns) if turn.loss]
        assert trained
        assert not bad & set(trained)


@pytest.mark.parametrize("how", ["cut", "mask"])
def test_the_original_is_untouched(how):
    before = T.model_dump_json()
    mended(T, (5,), how)
    assert T.model_dump_json() == before
