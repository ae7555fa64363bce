import random
from dataclasses import replace
from html import unescape

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agenttuning.environments.webshop.addresses import address, state_at
from agenttuning.environments.webshop.catalogue import Catalogue
from agenttuning.environments.webshop.demonstration import PRODUCTS
from agenttuning.environments.webshop.generator import generated_catalogue
from agenttuning.environments.webshop.markup import html
from agenttuning.environments.webshop.shop import Shop, State
from agenttuning.environments.webshop.text import available_actions, observation, page_text


@pytest.fixture(scope="module")
def shop():
    return Shop(generated_catalogue("test"))


def follow(shop, state, *labels):
    for label in labels:
        state = shop.page(state).clickables[label]
    return state


def walk(shop, seed, steps=12):
    """Return the states of a random walk that begins with a search."""
    rng = random.Random(seed)
    states = [
        State(),
        shop.searched(rng.choice(["green tea", "desk lamp usb port", "vegan", "machine washable black"])),
    ]
    while len(states) < steps and states[-1].page != "bought":
        leads = list(shop.page(states[-1]).clickables.values()) or [shop.searched("gift")]
        states.append(rng.choice(leads))
    return states


def test_the_text_has_agentbenchs_form():
    shop = Shop(Catalogue("three", PRODUCTS))
    assert observation(shop.page(State()), "i need x") == (
        "Observation:\nWebShop [SEP] Instruction: [SEP] i need x [SEP] Search\n\n"
        "Available Actions:\n{'has_search_bar': True, 'clickables': ['search']}"
    )
    results = shop.searched("Wind  PROOF")
    assert page_text(shop.page(results), "i").startswith(
        "Instruction: [SEP] i [SEP] Back to Search [SEP] Page 1 (Total results: 2) [SEP] B000000003 [SEP] Storm"
    )
    item = follow(shop, results, "b000000002")
    assert page_text(shop.page(item), "i") == (
        "Instruction: [SEP] i [SEP] Back to Search [SEP] < Prev [SEP] color [SEP] moss [SEP] plum [SEP] Gale Folding "
        "Umbrella, Wind Proof, Eight Ribs [SEP] Price: $24.0 [SEP] Rating: N.A. [SEP] Description [SEP] Features [SEP] "
        "Reviews [SEP] Buy Now"
    )
    assert available_actions(shop.page(item)) == (
        "Available Actions:\n{'has_search_bar': False, 'clickables': ['back to search', '< prev', 'description', "
        "'features', 'reviews', 'buy now', 'moss', 'plum']}"
    )


def test_results_come_in_pages_of_ten(shop):
    pages = [
        shop.page(replace(shop.searched("vegan cruelty free gluten free"), number=number)) for number in range(1, 6)
    ]
    assert [len(page.hits) for page in pages] == [10] * 5
    assert len({hit.product.asin for page in pages for hit in page.hits}) == 50
    assert "< prev" not in pages[0].clickables
    assert "next >" not in pages[4].clickables
    assert pages[0].clickables["next >"] == pages[1].state == pages[2].clickables["< prev"]
    assert not shop.page(shop.searched("zebra")).hits


def test_choices_are_kept_until_another_product_is_opened(shop):
    results = shop.searched("running shoes")
    first, second = (hit.product for hit in shop.page(results).hits[:2])
    colour, size = first.options["color"][0], first.options["size"][-1]
    item = follow(shop, results, first.asin.lower(), size, first.options["color"][-1], colour)
    assert item.chosen == (("color", colour), ("size", size))
    assert [choice.chosen for choice in shop.page(item).choices] == [colour, size]
    assert follow(shop, item, "features", "< prev") == item
    assert follow(shop, item, "buy now").chosen == item.chosen
    assert follow(shop, item, "< prev") == results
    assert follow(shop, item, "< prev", second.asin.lower()).chosen == ()
    assert follow(shop, item, "back to search") == State()


def test_sub_pages_tell_what_the_product_has(shop):
    item = follow(shop, shop.searched("granola"), shop.page(shop.searched("granola")).hits[0].product.asin.lower())
    product = shop.catalogue[item.asin]
    assert all(shop.page(follow(shop, item, "features")).says(bullet) for bullet in product.bullets)
    assert shop.page(follow(shop, item, "description")).says(product.description)
    assert "attributes" not in shop.page(item).clickables
    told = Shop(shop.catalogue, attributes=True)
    assert all(told.page(follow(told, item, "attributes")).says(attribute) for attribute in product.attributes)
    silent = next(product for product in shop.catalogue.products if not product.reviews)
    assert shop.page(State("item", asin=silent.asin, sub_page="reviews")).says("No reviews found")


@given(st.integers(0, 10_000))
def test_every_state_has_an_address_that_leads_back_to_it(seed):
    shop = Shop(generated_catalogue("test"))
    for state in walk(shop, seed):
        assert state_at(address(state), shop.catalogue) == state


@given(st.integers(0, 10_000))
def test_text_and_html_show_the_same(seed):
    shop = Shop(generated_catalogue("test"))
    for state in walk(shop, seed):
        page = shop.page(state)
        written = unescape(html(page, "the task"))
        for shown in page_text(page, "the task").split(" [SEP] ")[2:]:
            assert shown in written
        for label, to in page.clickables.items():
            posted = f'action="{address(to)}" method="post"'
            linked = f'href="{address(to)}"'
            radio = any(
                f'value="{label}"' in written for choice in page.choices for value, _ in choice.values if value == label
            )
            assert posted in written if to.page == "bought" else linked in written or radio


@pytest.mark.parametrize(
    "target",
    ["/nowhere", "/item/B0NONE", "/search?q=x&page=0", "/search?q=x&page=x", "/item/{asin}/secrets",
     "/bought/{asin}/features", "/item/{asin}?option.size=none", "/item/{asin}?option.none=1", "/item"],
)  # fmt: skip
def test_a_wrong_address_is_no_page(shop, target):
    asin = shop.catalogue.products[0].asin
    assert state_at(target.format(asin=asin), shop.catalogue) is None


def test_markup_in_names_and_queries_is_shown_and_not_run():
    bad = replace(PRODUCTS[0], name='<script>alert("x")</script>', options={'<b a="1">': ("<i>", "'q'")})
    shop = Shop(Catalogue("bad", [bad]))
    for state in (State("results", "<script>"), State("item", '"><script>', 1, bad.asin), shop.searched("script")):
        written = html(shop.page(state), "<script>task</script>")
        assert "<script>" not in written
        assert "<i>" not in written
