import pytest
from hypothesis import given
from hypothesis import strategies as st

from agenttuning.environments.webshop.grading import (
    COLOURS,
    first_colour,
    grade_evidence,
    has_attribute,
    has_option,
    kind,
    reward,
)
from agenttuning.environments.webshop.records import LIMITS, NO_LIMIT, Goal, draw_limit
from agenttuning.environments.webshop.titles import title_nouns

BOUGHT = {
    "asin": "B1",
    "name": "Lakeside Water Bottle, Leak Proof",
    "query": "water bottle",
    "product_category": "Kitchen › Drinkware › Bottles",
    "description": "Keeps tea hot.",
    "bullet_points": ["Has a carry loop."],
    "attributes": ["leak proof", "bpa free"],
    "price": 19.5,
}


def goal(**changes):
    values = {
        "asin": "B1",
        "name": BOUGHT["name"],
        "query": "water bottle",
        "product_category": BOUGHT["product_category"],
        "attributes": ("leak proof", "bpa free"),
        "options": ("navy", "24 ounce"),
        "price_upper": 30.0,
    }
    return Goal(**(values | changes))


def test_each_part_of_a_goal_counts_the_same():
    right = {"color": "navy", "size": "24 ounce"}
    assert reward(goal(), BOUGHT, right) == 1.0
    assert reward(goal(), BOUGHT, {"color": "navy"}) == 4 / 5
    assert reward(goal(), BOUGHT, {}) == 3 / 5
    assert reward(goal(price_upper=10.0), BOUGHT, right) == 4 / 5
    assert reward(goal(attributes=("leak proof", "vegan")), BOUGHT, right) == 4 / 5
    assert reward(goal(attributes=("vegan",), options=(), price_upper=10.0), BOUGHT, right) == 0.0


def test_attributes_are_found_in_the_list_nearly_and_in_the_texts_word_for_word():
    assert has_attribute(BOUGHT, "proof leak")
    assert has_attribute(BOUGHT, "carry loop")
    assert has_attribute(BOUGHT, "keeps tea hot")
    assert not has_attribute(BOUGHT, "loop carry")
    assert not has_attribute(BOUGHT, "dishwasher safe")


def test_options_are_compared_by_colour_and_by_words():
    assert has_option(["navy | white"], "navy blue") == (first_colour("navy blue") == first_colour("navy | white"))
    assert has_option(["dark navy"], "dark green")
    assert has_option(["24 Ounce (Pack of 1)"], "24 ounce")
    assert has_option(["32 ounce"], "24 ounce")  # near enough for WebShop: 7 of 8 letters agree
    assert not has_option(["small"], "24 ounce")
    assert not has_option([], "24 ounce")
    assert first_colour("walnut grey") == "grey"
    assert list(COLOURS) == sorted(COLOURS)


def test_the_kind_follows_titles_queries_and_categories():
    other = BOUGHT | {"asin": "B2"}
    assert kind(goal(), BOUGHT) == kind(goal(), other) == 1.0
    assert kind(goal(), other | {"name": "Wooden Chess Board", "query": "water bottle"}) == 0.0
    far = {"query": "vase", "product_category": "Home › Vases"}
    long = "Glass Vase Flower Stand Table Decoration Home Office Kitchen Bottle"
    assert kind(goal(name=long), other | far | {"name": "Bottle"}) == 0.5
    assert kind(goal(name=long), other | {"name": "Bottle"}) == 1.0
    assert kind(goal(name=f"{long} Shelf Plant Pot Cup Mirror"), other | {"name": "Bottle"}) == 0.1
    assert kind(goal(name="very 100"), other | {"name": "Chess"}) == 1.0


def test_nouns_of_a_title():
    assert title_nouns("Folding wooden chess board with large pieces") >= {"chess", "board", "pieces"}
    assert "with" not in title_nouns("Folding wooden chess board with large pieces")


@pytest.mark.parametrize(
    "evidence",
    [{}, {"bought": None, "options": {}}, {"bought": "B1", "options": {}}, {"bought": BOUGHT, "options": None}],
)
def test_nothing_bought_is_worth_nothing(evidence):
    assert grade_evidence({"goal": goal().model_dump(mode="json")}, evidence).reward == 0.0


def test_the_grade_follows_from_the_evidence_alone():
    payload = {"goal": goal().model_dump(mode="json")}
    evidence = {"bought": BOUGHT, "options": {"size": "24 ounce"}}
    grade = grade_evidence(payload, evidence)
    assert grade.reward == grade.score == 4 / 5
    assert grade_evidence(payload, evidence) == grade


@given(st.floats(0.5, 1500), st.randoms(use_true_random=False))
def test_a_limit_is_the_larger_of_two_of_the_four_tens_above_the_price(price, rng):
    limit = draw_limit(price, rng)
    above = [ten for ten in LIMITS if ten > price][:4]
    assert limit in above[1:] if len(above) > 1 else limit == NO_LIMIT
    assert limit > price or price >= NO_LIMIT
