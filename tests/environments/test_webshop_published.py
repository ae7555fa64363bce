import json
import lzma
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_webshop_expert import played

from agenttuning.environments.webshop import WebShop, WebShopSettings, published
from agenttuning.environments.webshop.generator import records
from agenttuning.environments.webshop.goals import SPLITS, Asked, official_goals, official_split, synthetic_goals
from agenttuning.environments.webshop.published import json_list, published_catalogue
from agenttuning.environments.webshop.records import read_product
from agenttuning.errors import DataError

PUBLISHED = Path(__file__).parents[3] / "shared" / "data"


def some(count=40):
    """Return records with instructions, as the official catalogue has them for some products."""
    made = records("test")[:count]
    for number, record in enumerate(made):
        if number % 2 == 0:
            attributes = record["attributes"][:2]
            record["instruction"] = f"Find me {', '.join(attributes)} {record['query']}"
            record["instruction_attributes"] = attributes
        if number % 10 == 0:
            value = next(iter(record["options"].values()))[0]
            record["human_instructions"] = [
                {
                    "instruction": f"hi, a {record['query']} that is {record['attributes'][0]}, in {value}.",
                    "instruction_attributes": record["attributes"][:1],
                    "instruction_options": [value],
                }
            ]
    return made


def write_compact(root, made):
    (root / "webshop").mkdir(parents=True, exist_ok=True)
    path = root / "webshop" / "products_1k.jsonl.xz"
    path.write_bytes(lzma.compress("".join(json.dumps(record) + "\n" for record in made).encode()))
    return path


def write_official(folder, made):
    """Write records as WebShop's own files."""
    folder.mkdir(parents=True, exist_ok=True)
    items = [
        {
            "asin": record["asin"],
            "name": record["name"],
            "category": record["category"],
            "query": f" {record['query'].upper()} ",
            "product_category": record["product_category"],
            "full_description": record["description"],
            "small_description": record["bullet_points"],
            "pricing": " - ".join(f"${price:,}" for price in record["pricing"]),
            "customization_options": {
                name.upper(): [{"value": value.upper().replace(" | ", "/"), "image": None} for value in values]
                for name, values in record["options"].items()
            }
            | {"empty": None},
            "images": ["x"],
        }
        for record in made
    ]
    double = [items[0], {**items[1], "asin": "nan"}, {**items[1], "asin": "B1234567890"}]
    (folder / "items_shuffle.json").write_text(json.dumps(items + double, indent=1))
    known = {
        record["asin"]: {key: record.get(key) for key in ("attributes", "instruction", "instruction_attributes")}
        for record in made
    }
    (folder / "items_ins_v2.json").write_text(json.dumps(known))
    people = {record["asin"]: record["human_instructions"] for record in made if "human_instructions" in record}
    (folder / "items_human_ins.json").write_text(json.dumps(people))


def official(root=None, **settings):
    return WebShop(WebShopSettings(source="official", **settings), str(root) if root else None)


def test_both_layouts_give_the_same_products_and_goals(tmp_path):
    made = some()
    write_official(tmp_path / "full", made)
    small, full = published_catalogue(write_compact(tmp_path, made)), published_catalogue(tmp_path / "full")
    for one, two in zip(small.products, full.products, strict=True):
        assert (one.asin, one.name, one.query, one.pricing, one.bullets) == (
            two.asin,
            two.name,
            two.query,
            two.pricing,
            two.bullets,
        )
        assert (dict(one.options), one.attributes, one.wishes) == (dict(two.options), two.attributes, two.wishes)
    for people in (False, True):
        goals = official_goals(small.products, people)
        assert goals == official_goals(full.products, people)
        assert len({(asked.instruction, asked.goal.options) for asked in goals}) == len(goals)
    assert published_catalogue(tmp_path / "full") is full


def test_a_product_gives_one_goal_for_each_combination_of_its_options():
    product = read_product(some(1)[0], "x")
    goals = list(synthetic_goals(product))
    count = 1
    for values in product.options.values():
        count *= len(values)
    assert len(goals) == count
    assert len({asked.goal.price_upper for asked in goals}) == 1
    name = min(product.options)
    assert goals[0].instruction.startswith(f"{product.instruction} with {name}: {product.options[name][0]}")
    assert goals[0].instruction.endswith(f"price lower than {goals[0].goal.price_upper:.2f} dollars")


def test_splits_are_webshops_own_and_share_no_goal(tmp_path):
    write_compact(tmp_path, [record for record in records("train")[:400] if len(record["options"]) < 3])
    made = [dict(record) for record in records("train")]
    for record in made:
        record["instruction"], record["instruction_attributes"] = f"Find me {record['query']}", record["attributes"][:1]
    write_compact(tmp_path, made)
    drawn = {}
    for name, environment, split in (
        ("train", official(tmp_path), "train"),
        ("test", official(tmp_path), "test"),
        ("dev", official(tmp_path, test_split="dev"), "test"),
    ):
        drawn[name] = {json.dumps([task.payload, task.instruction]) for task in environment.tasks(split, 100_000, 0)}
    assert (len(drawn["test"]), len(drawn["dev"])) == (500, 1000)
    assert len(drawn["train"]) > 1000
    assert not (drawn["test"] & drawn["train"])
    assert not (drawn["dev"] & drawn["train"])
    assert not (drawn["test"] & drawn["dev"])
    tasks = list(official(tmp_path).tasks("train", 10, 0))
    assert tasks == list(official(tmp_path).tasks("train", 20, 0))[:10]
    assert tasks != list(official(tmp_path).tasks("train", 10, 1))


def test_train_has_each_sentence_once_and_none_of_the_other_splits():
    product = read_product(some(1)[0], "x")
    goal = next(synthetic_goals(product)).goal
    said = [f"goal {number}" for number in range(1600)]
    said[1500], said[1501], said[1503] = said[0], said[700], said[1502]
    goals = [Asked(text, goal) for text in said]
    assert [asked.instruction for asked in official_split(goals, "train")] == [said[1502], *said[1504:]]
    assert [asked.instruction for asked in official_split(goals, "test")] == said[:500]
    assert [asked.instruction for asked in official_split(goals, "dev")] == said[500:1500]


def test_the_full_catalogue_is_played_by_its_path(tmp_path):
    write_official(tmp_path / "full", some())
    with official(catalogue=str(tmp_path / "full"), goals="human") as environment:
        tasks = list(environment.tasks("test", 10, 0))
        assert {task.family for task in tasks} == {"human"}
        assert all(played(environment, task, seed)[1] == 1.0 for seed, task in enumerate(tasks))
        assert not list(environment.tasks("shifted", 10, 0))


@given(st.lists(st.dictionaries(st.text(max_size=3), st.text() | st.integers(), max_size=3)), st.integers(1, 9))
def test_a_list_is_read_in_pieces_as_it_is_at_once(items, piece):
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(published, "PIECE", piece)
        path = Path(folder) / "items.json"
        path.write_text(json.dumps(items, indent=piece % 3 or None), encoding="utf-8")
        assert list(json_list(path)) == items


def test_missing_torn_and_foreign_files_are_refused_with_the_reason(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        list(official(tmp_path).tasks("train", 1, 0))
    path = write_compact(tmp_path, some(4))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="fetch it again"):
        list(official(tmp_path).tasks("train", 1, 0))
    path.write_bytes(lzma.compress(b'{"asin": "B1"}\n'))
    with pytest.raises(DataError, match="official layout"):
        list(official(tmp_path).tasks("train", 1, 0))
    path.write_bytes(lzma.compress(b""))
    with pytest.raises(DataError, match="no product"):
        list(official(tmp_path).tasks("train", 1, 0))
    folder = tmp_path / "full"
    folder.mkdir()
    with pytest.raises(DataError, match=r"items_ins_v2\.json"):
        published_catalogue(folder)
    write_official(folder, some(4))
    items = (folder / "items_shuffle.json").read_text()
    for text, message in (
        (items[:-40], "not complete"),
        ("{}", "not a JSON list"),
        ("[1]", "holds int"),
        ('[{"asin": "B1"}]', "'B1'|B1 is not"),
    ):
        (folder / "items_shuffle.json").write_text(text)
        with pytest.raises(DataError, match=message):
            published_catalogue(folder)
    (folder / "items_ins_v2.json").write_text("[]")
    with pytest.raises(DataError, match="not a JSON object"):
        published_catalogue(folder)


@pytest.mark.data
def test_the_official_goals_are_all_there_and_are_met():
    if not (PUBLISHED / "webshop").is_dir():
        pytest.skip(f"no published WebShop data in {PUBLISHED}/webshop")
    with official(PUBLISHED) as environment:
        catalogue = published_catalogue(PUBLISHED / published.SMALL)
        goals = official_goals(catalogue.products, people=False)
        assert (len(catalogue.products), len(goals), len(goals[SPLITS["train"]])) == (1000, 6910, 5410)
        train, test = list(environment.tasks("train", 60, 7)), list(environment.tasks("test", 500, 7))
        assert not {task.id for task in train} & {task.id for task in test}
        assert len(list(environment.tasks("shifted", 100, 0))) == 13
        rewards = [played(environment, task, seed)[1] for seed, task in enumerate([*train, *test[:20]])]
        assert sum(rewards) / len(rewards) >= 0.95
