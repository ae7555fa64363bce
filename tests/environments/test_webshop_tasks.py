import json
import subprocess
import sys

import pytest

from agenttuning.environments.webshop import WebShop, WebShopSettings
from agenttuning.environments.webshop.generator import EACH, SPLITS, generated_catalogue, generated_tasks, records
from agenttuning.environments.webshop.goods import KINDS, SHIFTED
from agenttuning.environments.webshop.records import NO_LIMIT, Goal, read_product
from agenttuning.errors import ConfigurationError, DataError

OFFICIAL_FIELDS = {"asin", "name", "category", "query", "product_category", "description"}
OFFICIAL_FIELDS |= {"bullet_points", "pricing", "options", "attributes"}


def draw(split, count, seed=0, **settings):
    return list(WebShop(WebShopSettings(**settings)).tasks(split, count, seed))


def goal(task):
    return Goal.model_validate(task.payload["goal"])


@pytest.mark.parametrize("split", SPLITS)
def test_the_first_tasks_are_the_same_whatever_is_asked_for(split):
    assert draw(split, 5) == draw(split, 25)[:5]
    assert draw(split, 5) != draw(split, 5, seed=1)
    assert len({task.id for task in draw(split, 200)}) == 200


def test_catalogues_are_the_same_in_every_process():
    code = (
        "from agenttuning.environments.webshop.generator import records as r; import json; print(json.dumps(r('test')))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert json.loads(run.stdout) == records("test")


def test_splits_share_no_product_no_title_and_no_goal():
    products = {split: generated_catalogue(split).products for split in SPLITS}
    assert len({product.asin for split in SPLITS for product in products[split]}) == sum(map(len, products.values()))
    for part in ("asin", "name"):
        sets = [{getattr(product, part) for product in products[split]} for split in SPLITS]
        assert not (sets[0] & sets[1])
        assert not (sets[0] & sets[2])
        assert not (sets[1] & sets[2])
    for split in SPLITS:
        own = {product.asin for product in products[split]}
        assert all(goal(task).asin in own for seed in range(3) for task in draw(split, 40, seed))
    assert not {kind.family for kind in KINDS} & {kind.family for kind in SHIFTED}


def test_records_have_the_official_layout_and_many_products():
    for split in SPLITS:
        made = records(split)
        assert len(made) == EACH[split] * len(SHIFTED if split == "shifted" else KINDS) > 300
        assert all(set(record) >= OFFICIAL_FIELDS for record in made)
        assert all(len(record["asin"]) == 10 for record in made)


def test_an_instruction_says_word_for_word_what_the_goal_asks():
    for split in SPLITS:
        for task in draw(split, 60):
            text, wanted = task.instruction.lower(), goal(task)
            assert wanted.query in text
            assert all(phrase in text for phrase in (*wanted.attributes, *wanted.options))
            assert wanted.price_upper == NO_LIMIT or f"{wanted.price_upper:.0f}" in text
            product = generated_catalogue(split)[wanted.asin]
            assert product.price <= wanted.price_upper
            assert set(wanted.attributes) <= set(product.attributes)
            assert wanted.asin not in task.instruction
            assert product.name.lower() not in text


def test_shifted_words_its_tasks_in_another_way():
    heads = {split: {" ".join(task.instruction.split()[:2]) for task in draw(split, 80)} for split in SPLITS}
    assert not heads["shifted"] & (heads["train"] | heads["test"])


def test_families_come_in_equal_shares():
    drawn = [task.family for task in draw("train", 12, families=("home", "grocery"))]
    assert {family: drawn.count(family) for family in drawn} == {"home": 6, "grocery": 6}
    assert len({task.family for task in draw("train", 30)}) == 6
    with pytest.raises(ConfigurationError, match=r"environments\.webshop\.settings\.families.*did you mean 'home'"):
        draw("train", 1, families=("homes",))


def test_an_unknown_split_is_refused():
    with pytest.raises(ConfigurationError, match="'dev'"):
        next(generated_tasks("webshop", "dev", 1, 0))
    with pytest.raises(ConfigurationError, match="'dev'"):
        list(WebShop(WebShopSettings(source="official")).tasks("dev", 1, 0))


def test_a_torn_record_is_named():
    record = records("test")[0]
    assert read_product(record, "x").tag.startswith("$")
    for broken in ({**record, "options": None}, {**record, "pricing": ["dear"]}, {"asin": "B1"}):
        with pytest.raises(DataError, match="official layout"):
            read_product(broken, "x")
    assert read_product({**record, "pricing": []}, "x").price == 100.0
    ranged = read_product({**record, "pricing": [10.0, 20.0]}, "x")
    assert (ranged.tag, 10 <= ranged.price <= 20, ranged.price == ranged.price) == ("$10.0 to $20.0", True, True)
