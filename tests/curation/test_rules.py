"""Each rule apart: what it drops, what it keeps, and what it says."""

import pytest
from episodes import OPENING, agent, steps, trajectory
from hypothesis import given
from hypothesis import strategies as st

from agenttuning.curation.rules import RULES, check_rules, first_objection, form, repetition, reward, truncated
from agenttuning.curation.steps import Objection
from agenttuning.errors import ConfigurationError
from agenttuning.recipe import Recipe, validate_recipe
from agenttuning.trajectory import Outcome, Turn

RECIPE = Recipe()


def with_curation(**curation) -> Recipe:
    return validate_recipe({"curation": curation})


def test_reward_has_a_threshold_per_environment():
    recipe = validate_recipe({"environments": {"os": {}, "mind2web": {"reward_threshold": 2 / 3}}})
    assert reward(trajectory(reward=1.0), recipe) is None
    assert reward(trajectory(reward=0.9), recipe) == Objection("reward 0.9 is below 1")
    assert reward(trajectory(environment="mind2web", reward=2 / 3), recipe) is None
    assert reward(trajectory(environment="mind2web", reward=0.66), recipe) is not None


def test_reward_of_an_environment_outside_the_recipe_is_a_configuration_error():
    with pytest.raises(ConfigurationError, match=r"'kg'.*os, db, alfworld.*environments\.kg"):
        reward(trajectory(environment="kg"), RECIPE)


@pytest.mark.parametrize("outcome", [o for o in Outcome if o is not Outcome.COMPLETED])
def test_form_wants_a_completed_episode(outcome):
    assert form(trajectory(), RECIPE) is None
    assert form(trajectory(outcome=outcome), RECIPE) == Objection(f"the episode ended as {outcome.value}")


def test_form_wants_every_trained_turn_parsed_and_only_those():
    malformed = (agent("?", parsed=False), Turn(role="user", content="That is no action."), agent("ls"))
    assert form(trajectory(malformed), RECIPE) == Objection("trained turn 3 does not parse as an action", (3,))
    untrained = (agent("?", parsed=False, loss=False), *malformed[1:])
    assert form(trajectory(untrained), RECIPE) is None
    assert form(trajectory((agent("ls", loss=False),)), RECIPE) == Objection("no turn is trained")


def test_form_wants_a_share_of_thoughts():
    half = (agent("ls"), Turn(role="user", content="a"), agent("cat a", thought=None))
    assert "1 of 2 trained turns have a thought (50%); 100% must" in form(trajectory(half), RECIPE).reason
    assert form(trajectory(half), with_curation(require_thought=0.5)) is None
    assert form(trajectory((agent("ls", thought="  "),)), RECIPE) is not None


def test_repetition_counts_the_same_action_with_the_same_observation():
    twice = steps(("ls", "a"), ("cat a", "x"), ("ls", "a"))
    assert repetition(trajectory(twice), RECIPE) is None
    thrice = steps(("ls", "a"), ("cat a", "x"), ("ls", "a"), ("cat b", "y"), ("ls", "a"))
    assert "3 times (at most 2)" in repetition(trajectory(thrice), RECIPE).reason
    assert repetition(trajectory(thrice), with_curation(max_repeated_actions=3)) is None
    news = steps(("ls", "a"), ("touch b", "ok"), ("ls", "a b"), ("touch c", "ok."), ("ls", "a b c"))
    assert repetition(trajectory(news), RECIPE) is None


def test_repetition_drops_the_same_reply_twice_running_when_nothing_new_is_seen():
    again = (agent("ls"), Turn(role="user", content="a"), agent("ls"), Turn(role="user", content="a"), agent("done"))
    assert "same reply twice running" in repetition(trajectory(again), RECIPE).reason
    next_page = (agent("next"), Turn(role="user", content="page 2"), agent("next"), Turn(role="user", content="page 3"))
    assert repetition(trajectory(next_page), RECIPE) is None


def test_repetition_drops_a_cycle():
    loop = [("go to a", "at a"), ("go to b", "at b")]
    assert "same 2 actions" in repetition(trajectory(steps(*loop, *loop)), RECIPE).reason
    apart = steps(*loop, ("take x", "ok"), *loop)
    assert repetition(trajectory(apart), RECIPE) is None
    other_end = steps(*loop, loop[0], ("go to b", "the door is open now"))
    assert repetition(trajectory(other_end), RECIPE) is None


def test_repetition_looks_at_the_agents_own_turns_only():
    shown = (*OPENING, agent("ls", loss=False), Turn(role="user", content="a"), agent("ls", loss=False))
    opening = (*shown, Turn(role="user", content="a"))
    assert repetition(trajectory((agent("ls"),), opening=opening), RECIPE) is None
    acknowledgements = tuple(Turn(role=r, content="Ok.", loss=x) for r, x in [("assistant", False), ("user", None)] * 3)
    assert repetition(trajectory((agent("ls"),), opening=acknowledgements, called=False), RECIPE) is None


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("xy")), min_size=1, max_size=8))
def test_repetition_never_objects_when_every_observation_is_new(pairs):
    fresh = steps(*((command, f"{seen} {number}") for number, (command, seen) in enumerate(pairs)))
    assert repetition(trajectory(fresh), RECIPE) is None


@given(
    st.lists(st.tuples(st.sampled_from("abcd"), st.sampled_from("xy")), max_size=3),
    st.lists(st.tuples(st.sampled_from("abcd"), st.sampled_from("xy")), min_size=2, max_size=4),
    st.lists(st.tuples(st.sampled_from("abcd"), st.sampled_from("xy")), max_size=3),
)
def test_repetition_finds_a_doubled_series_anywhere(before, series, after):
    assert repetition(trajectory(steps(*before, *series, *series, *after)), RECIPE) is not None


def test_rules_are_asked_in_the_order_of_the_recipe_and_the_first_objection_stands():
    bad = trajectory((agent("?", parsed=False),), reward=0.0)
    assert first_objection(bad, RECIPE, ["reward", "form"])[0] == "reward"
    assert first_objection(bad, RECIPE, ["form", "reward"])[0] == "form"
    assert first_objection(bad, RECIPE, []) is None
    assert first_objection(trajectory(), RECIPE, RULES) is None


def test_an_unknown_rule_is_named_with_a_guess():
    with pytest.raises(ConfigurationError, match=r"unknown rule 'repitition'; did you mean 'repetition'"):
        check_rules(["repitition"])
    with pytest.raises(ConfigurationError, match=r"curation\.bad_turns.*known rules: reward, form, repetition"):
        check_rules(["zzz"], "curation.bad_turns")


def test_repetition_names_the_turns_that_repeat():
    thrice = steps(("ls", "a"), ("cat a", "x"), ("ls", "a"), ("cat b", "y"), ("ls", "a"))
    assert repetition(trajectory(thrice), RECIPE).turns == (11,)
    loop = [("go to a", "at a"), ("go to b", "at b")]
    assert repetition(trajectory(steps(*loop, *loop)), RECIPE).turns == (7, 9)


def test_reward_of_an_imported_trajectory_needs_no_environment_in_the_recipe():
    published = {"diagnostics": {"imported": "agentinstruct"}}
    assert reward(trajectory(environment="kg", **published), RECIPE) is None
    assert reward(trajectory(environment="kg", reward=0.5, **published), RECIPE) is not None
    assert reward(trajectory(environment="mind2web", reward=2 / 3, **published), RECIPE) is None


@pytest.mark.parametrize(
    "cut",
    ["a b [truncated because the output is too long]", "('x',), ('y[TRUNCATED]", "rows... [cut at 800 characters]"],
)
def test_a_conclusion_from_a_cut_observation_is_objected_to(cut):
    last = trajectory((agent("ls"), Turn(role="user", content=cut), agent("answer")))
    assert truncated(last, RECIPE).turns == (5,)
    asked_again = (agent("ls"), Turn(role="user", content=cut), agent("ls | wc"), Turn(role="user", content="3"))
    assert truncated(trajectory((*asked_again, agent("answer"))), RECIPE) is None
    untrained = trajectory((agent("ls"), Turn(role="user", content=cut), agent("answer", loss=False)))
    assert truncated(untrained, RECIPE) is None
