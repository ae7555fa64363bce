import asyncio
import itertools
import random
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_environments import Toy, ToyProcess, ToyStrict, toy_task

from agenttuning.errors import InfrastructureError
from agenttuning.policies.base import Reply
from agenttuning.rollout.episode import Attempt, Limits, play_episode
from agenttuning.rollout.expert import expert_act
from agenttuning.rollout.isolation import SeatPool
from agenttuning.rollout.remotes import EnvironmentLost
from agenttuning.trajectory import Outcome, Trajectory, trajectory_id

LOOSE = Limits(max_malformed=3, max_repeats=3)
WHO = Attempt("toy-model", {"temperature": 0.0}, number=2, seed=40)


def says(*replies):
    """A policy that says these replies one after another; keeps what it was shown in `shown` and `seeds`."""
    queue = list(replies)

    async def act(turns, seed):
        act.shown.append(turns)
        act.seeds.append(seed)
        reply = queue.pop(0)
        if isinstance(reply, Exception):
            raise reply
        return reply if isinstance(reply, Reply) else Reply(content=reply, finish_reason="stop")

    act.shown, act.seeds = [], []
    return act


def play(act, task=None, limits=LOOSE, cls=Toy, demonstration=False, attempt=WHO, **environment):
    async def main():
        pool = SeatPool(cls, environment, None, step_timeout_s=20.0)
        seat = pool.take()
        try:
            trajectory = await play_episode(
                seat,
                task or toy_task(environment=cls.name),
                act(seat) if act is EXPERT else act,
                limits,
                attempt,
                demonstration=demonstration,
            )
        finally:
            usable = seat.usable
            pool.give_back(seat)
            await asyncio.to_thread(pool.close)
        assert Trajectory.model_validate_json(trajectory.model_dump_json()) == trajectory
        return trajectory, usable

    return asyncio.run(main())


def EXPERT(seat):
    return expert_act(seat, 11)


def test_an_episode_has_the_shape_of_agentinstruct():
    act = says("Think: two\nAct: add(2)", "Think: three\nAct: add(3)", "Think: done\nAct: finish")
    trajectory, usable = play(act)
    roles = [(t.role, t.loss) for t in trajectory.turns]
    assert roles == [("user", None), ("assistant", False)] + [("user", None), ("assistant", True)] * 3
    assert trajectory.turns[1].content == "Ok."
    assert trajectory.turns[2].content == "Reach 5 (task 0). The number is 0."
    assert trajectory.turns[4].content == "The number is 2."
    answer = trajectory.turns[3]
    assert (answer.thought, answer.action.name, answer.action.arguments) == ("two", "add", {"n": 2})
    assert (trajectory.outcome, trajectory.reward, trajectory.score) == (Outcome.COMPLETED, 1.0, 1.0)
    assert trajectory.evidence["value"] == 5
    assert (trajectory.steps, trajectory.attempt, trajectory.policy, trajectory.seed) == (3, 2, "toy-model", 40)
    assert trajectory.id == trajectory_id(trajectory.task, "toy-model", WHO.settings, 2)
    assert [c.turn for c in trajectory.calls] == [3, 5, 7]
    assert act.seeds == [40, 41, 42]
    assert act.shown[1] == trajectory.turns[:5]
    assert trajectory.diagnostics["malformed"] == 0
    assert usable


def test_a_demonstration_is_shown_and_never_trained():
    with_, _ = play(says("Act: add(5)", "Act: finish"), demonstration=True)
    without, _ = play(says("Act: add(5)", "Act: finish"))
    assert [t.loss for t in with_.turns] == [None, False, None, False, None, True, None, True]
    assert with_.turns[3].content.endswith("Act: add(1)")
    assert with_.versions["environment"] == without.versions["environment"] == "7"
    assert with_.versions["prompt"] != without.versions["prompt"]


def test_a_malformed_reply_is_corrected_and_not_trained():
    trajectory, _ = play(says("hello", "Act: add(5)", "who?", "Act: finish"))
    assert trajectory.outcome is Outcome.COMPLETED
    assert [t.loss for t in trajectory.turns if t.role == "assistant"] == [False, False, True, False, True]
    assert trajectory.turns[4].content == "Write one line `Act: add(n)` or `Act: finish`."
    assert trajectory.turns[3].action is None
    assert trajectory.diagnostics["malformed"] == 2
    assert trajectory.diagnostics["last_error"] == "Write one line `Act: add(n)` or `Act: finish`."


def test_malformed_replies_in_a_row_end_the_episode():
    trajectory, _ = play(says("a", "b", "c", "Act: finish"))
    assert (trajectory.outcome, trajectory.steps) == (Outcome.INVALID_ACTION, 3)
    assert trajectory.turns[-1].content == "c"
    ended, _ = play(says("a"), cls=ToyStrict)
    assert (ended.outcome, ended.steps) == (Outcome.INVALID_ACTION, 1)


def test_refusals_are_told_from_mere_mistakes():
    trajectory, _ = play(says("a", "b", "I'm sorry, but I can't help with that."))
    assert trajectory.outcome is Outcome.REFUSED
    filtered, _ = play(says(Reply(content="", finish_reason="content_filter")))
    assert (filtered.outcome, filtered.steps) == (Outcome.REFUSED, 1)


def test_identical_replies_in_a_row_end_the_episode_before_the_last_is_carried_out():
    trajectory, _ = play(says("Act: add(1)", "Act: add(1)", "Act: add(1)"))
    assert trajectory.outcome is Outcome.REPETITION
    assert trajectory.evidence["value"] == 2
    assert trajectory.turns[-1].action is not None
    broken, _ = play(says("Act: add(1)", "Act: add(1)", "Act: add(2)", "Act: add(1)", "Act: finish"))
    assert broken.outcome is Outcome.COMPLETED


def test_limits_on_steps():
    own, _ = play(says(*(f"Act: add({n})" for n in range(20))))
    assert (own.outcome, own.steps) == (Outcome.STEP_LIMIT, 8)
    assert own.turns[-1].role == "assistant"
    fewer, _ = play(says("Act: add(2)", "Act: add(3)"), limits=Limits(max_steps=2))
    assert (fewer.outcome, fewer.steps, fewer.reward) == (Outcome.STEP_LIMIT, 2, 1.0)


def test_the_context_ends_by_estimate_by_usage_and_by_the_endpoint():
    long, _ = play(says("Think: " + "word " * 400 + "\nAct: add(1)"), limits=Limits(context_tokens=200))
    assert (long.outcome, long.steps) == (Outcome.CONTEXT_LIMIT, 1)
    used = Reply(content="Act: add(1)", prompt_tokens=195, completion_tokens=4)
    counted, _ = play(says(used), limits=Limits(context_tokens=200))
    assert (counted.outcome, counted.steps) == (Outcome.CONTEXT_LIMIT, 1)
    told, _ = play(says("Act: add(1)", Reply(content="", finish_reason="context")))
    assert (told.outcome, told.steps, told.turns[-1].role) == (Outcome.CONTEXT_LIMIT, 1, "user")


def test_usage_reasoning_and_notes_are_kept():
    reply = Reply(
        content="Act: slow(0)", finish_reason="stop", prompt_tokens=9, completion_tokens=4, seconds=1.5, reasoning="hm",
        cost=0.5, cached_tokens=3,
    )  # fmt: skip
    trajectory, _ = play(says(reply, "Act: wave", "Act: finish"))
    call = trajectory.calls[0]
    assert (call.prompt_tokens, call.completion_tokens, call.seconds, call.finish_reason) == (9, 4, 1.5, "stop")
    assert trajectory.turns[3].reasoning == "hm"
    found = trajectory.diagnostics
    assert (found["cost"], found["cached_tokens"]) == (0.5, 3)
    assert (found["truncated_observations"], found["replaced_actions"], found["error_steps"]) == (1, 1, [5])
    assert found["notes"] == [{"turn": 3, "truncated": True, "replaced_by": "wait"}]


@pytest.mark.parametrize("cls", [Toy, ToyProcess])
def test_an_environment_that_raises_is_a_failure_with_its_reason(cls):
    trajectory, usable = play(says("Act: add(1)", "Act: raise"), cls=cls)
    assert (trajectory.outcome, trajectory.reward, trajectory.evidence) == (Outcome.ENVIRONMENT_FAILURE, 0.0, {})
    assert "KeyError: 'abacus'" in trajectory.diagnostics["last_error"]
    assert len(trajectory.turns) == 5
    assert not usable


def test_a_lost_environment_is_no_outcome():
    with pytest.raises(EnvironmentLost, match="its process died during play"):
        play(says("Act: die"), cls=ToyProcess)


def test_failures_of_the_world_are_no_outcome():
    with pytest.raises(InfrastructureError, match="the world is broken"):
        play(says("Act: world"))
    with pytest.raises(InfrastructureError, match="endpoint"):
        play(says("Act: add(1)", InfrastructureError("endpoint gone")))


@pytest.mark.parametrize("cls", [Toy, ToyProcess])
@pytest.mark.parametrize("target", [1, 4, 9])
def test_experts_play_through_the_same_text(cls, target):
    trajectory, _ = play(EXPERT, task=toy_task(target, environment=cls.name), cls=cls, limits=Limits(max_steps=20))
    assert (trajectory.outcome, trajectory.reward) == (Outcome.COMPLETED, 1.0)
    assert all(t.thought for t in trajectory.turns if t.loss)
    again, _ = play(EXPERT, task=toy_task(target, environment=cls.name), cls=cls, limits=Limits(max_steps=20))
    assert again.turns == trajectory.turns


def test_an_experts_mistake_is_not_trained():
    trajectory, _ = play(EXPERT, mistake_rate=1.0)
    losses = [t.loss for t in trajectory.turns if t.role == "assistant"]
    assert losses[:2] == [False, False]
    assert all(losses[2:])
    assert trajectory.turns[3].action is not None
    assert trajectory.diagnostics["error_steps"] == [3]
    assert trajectory.reward == 1.0


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("raise", "raised ZeroDivisionError"),
        ("unreadable", "its own parser refuses"),
        ("stop", "ended before the episode"),
    ],
)
def test_a_broken_expert_is_a_policy_failure(how, message):
    trajectory, _ = play(EXPERT, task=toy_task(5, expert=how))
    assert trajectory.outcome is Outcome.POLICY_FAILURE
    assert message in trajectory.diagnostics["last_error"]
    assert "value" in trajectory.evidence


REPLY = st.sampled_from(
    ["Act: add(1)", "Act: add(-2)", "Think: x\nAct: add(3)", "Act: finish", "Act: wave", "", "no idea", "Act: raise"]
)


@settings(max_examples=60, deadline=None)
@given(replies=st.lists(REPLY, max_size=10), demonstration=st.booleans())
def test_whatever_is_said_the_transcript_holds_together(replies, demonstration):
    trajectory, _ = play(says(*replies, *["Act: finish"] * 12), demonstration=demonstration)
    roles = [t.role for t in trajectory.turns]
    assert all(a != b for a, b in itertools.pairwise(roles))
    for turn in trajectory.turns:
        assert (turn.loss is None) == (turn.role != "assistant")
        assert turn.loss is not True or turn.action is not None
    assert trajectory.steps == len(trajectory.calls) <= 8
    assert all(trajectory.turns[c.turn].role == "assistant" for c in trajectory.calls[:-1])
    assert trajectory.reward in (0.0, 1.0)


def test_a_step_costs_little():
    steps = 300
    rng = random.Random(0)

    async def act(turns, seed):
        return Reply(content=f"Think: {rng.random()}\nAct: add(1)")

    async def main():
        pool = SeatPool(Toy, {}, None, step_timeout_s=20.0)
        seat = pool.take()
        limits = Limits(max_steps=steps, context_tokens=10**9)
        await play_episode(seat, toy_task(), act, Limits(max_steps=3), WHO)
        started = time.process_time()
        await play_episode(seat, toy_task(), act, limits, WHO)
        pool.close()
        return (time.process_time() - started) / steps

    assert asyncio.run(main()) < 0.002
