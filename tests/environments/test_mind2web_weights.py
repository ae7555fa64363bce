import json
import math
from collections import defaultdict

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_mind2web_records import record

from agenttuning.environments.mind2web import Mind2Web, ranker, ranking, weights
from agenttuning.environments.mind2web.bundle import recorded, recorded_scores
from agenttuning.environments.mind2web.environment import Mind2WebSettings
from agenttuning.environments.mind2web.features import KINDS, NAMES, features
from agenttuning.environments.mind2web.records import checked, sample_id
from agenttuning.errors import ConfigurationError, DataError

WORDS = ("Save", "Open", "Close", "Print", "Undo")


def named(rows, numbers, wanted):
    return {name: value for name, value in zip(NAMES, rows[numbers.index(wanted)], strict=True) if value}


@pytest.fixture(scope="module")
def records():
    """Five tasks, each named by its button."""
    found = []
    for place, word in enumerate(WORDS):
        data = record(WORDS, right=place, name=f"r{place}")
        data["confirmed_task"] = f"{word} the file"
        found.append(checked(data, "x"))
    return found


def form(previous, operation, typed=""):
    """The second action of a task on a form: a field, a box in its label, a button and a line of text."""
    page = (
        '<html backend_node_id="1">'
        f'<input backend_node_id="2" placeholder="Town"{typed} />'
        '<label backend_node_id="3"><input backend_node_id="4" type="checkbox" />'
        '<text backend_node_id="5">Direct</text></label>'
        '<button backend_node_id="6"><text backend_node_id="7">Find trains</text></button>'
        '<p backend_node_id="8"><text backend_node_id="9">Trains run daily</text></p></html>'
    )
    tags = {"2": "input", "3": "label", "4": "input", "6": "button", "8": "p"}
    found = [{"tag": tag, "backend_node_id": number, "attributes": "{}"} for number, tag in tags.items()]
    action = {
        "action_uid": "a2",
        "operation": {"op": "CLICK", "original_op": "CLICK", "value": ""},
        "cleaned_html": page,
        "pos_candidates": [found[3]],
        "neg_candidates": [*found[:3], found[4]],
    }
    given = {**record(), "confirmed_task": "Find direct trains from York", "action_reprs": [previous, operation]}
    return checked({**given, "actions": [action, action]}, "x")


def test_features_say_what_an_element_is_what_was_done_and_what_comes_next():
    numbers, rows = features(form("[input]  Town -> TYPE: York", "x -> CLICK", ' input_value="York"'), 1)
    assert set(numbers) == {"2", "3", "4", "6", "8"}
    field, box, button = (named(rows, numbers, number) for number in ("2", "4", "6"))
    assert field["field"] == field["field after TYPE"] == field["filled in"] == field["the last"] == 1.0
    assert field["acted on before"] == field["acted on last"] == 1.0
    assert box["box"] == box["next"] == box["inside a control"] == 1.0
    assert box["words of that control"] == pytest.approx(named(rows, numbers, "3")["own words"])
    assert button["button after TYPE"] == button["second next"] == button["name in the task"] == 1.0
    assert "text" in named(rows, numbers, "8")
    assert "before the last" not in {name for number in numbers for name in named(rows, numbers, number)}


def test_before_the_first_action_nothing_is_near_it():
    numbers, rows = features(form("[input]  Town -> TYPE: York", "x -> CLICK"), 0)
    for number in numbers:
        found = named(rows, numbers, number)
        assert not any("after" in name or "last" in name or "next" in name or "acted" in name for name in found)
        assert sum(found.get(kind, 0.0) for kind in KINDS) == 1.0


def test_a_nameless_element_is_not_taken_for_the_nameless_last_one():
    data = record(("", "Save", ""), right=1)
    data = {**data, "action_reprs": ["[button]   -> CLICK", "x -> CLICK"], "actions": data["actions"] * 2}
    numbers, rows = features(checked(data, "x"), 1)
    assert not any("acted on last" in named(rows, numbers, number) for number in numbers)


def test_features_do_not_read_which_candidate_is_right():
    data = [record(WORDS, right=place) for place in range(len(WORDS))]
    found = [features(checked(item, "x"), 0) for item in data]
    assert all(item == found[0] for item in found)


@given(st.lists(st.text("ab -:>[]", max_size=12), min_size=1, max_size=4))
def test_any_text_of_an_action_before_gives_finite_features(texts):
    data = record(WORDS)
    data = {**data, "action_reprs": texts, "actions": data["actions"] * len(texts)}
    for row in features(checked(data, "x"), len(texts) - 1)[1]:
        assert len(row) == len(NAMES)
        assert all(math.isfinite(value) for value in row)


def test_training_puts_right_elements_first_and_is_the_same_each_time(records):
    first, second = (weights.dumped(weights.learned(weights.examples(records))) for _ in range(2))
    assert first == second
    found = weights.by_weights(weights.read_weights(first, "x"))
    assert ranking.recall(found, records, (1,))[1] == 1.0


def test_nothing_to_learn_from_says_so():
    with pytest.raises(DataError, match="no action to learn from"):
        weights.learned([])


@pytest.mark.parametrize("text", ["[]", "{}", '{"weights": {"words": "x"}}', "no json"])
def test_a_file_of_another_shape_is_refused(tmp_path, text):
    path = tmp_path / "a.weights.json"
    path.write_text(text)
    with pytest.raises(DataError, match="not a file of weights"):
        weights.load_ranker(path)


def test_weights_of_another_version_are_refused():
    with pytest.raises(DataError, match=r"not those of this version \(.*colour.*train the ranker anew"):
        weights.read_weights(b'{"weights": {"colour": 1}}', "x")


def test_the_program_trains_scores_validates_and_measures(records, tmp_path, capsys):
    for split in ("train", "test_website"):
        (tmp_path / split).mkdir()
        items = [item.model_dump(mode="json") | {"website": f"site{n % 2}"} for n, item in enumerate(records)]
        (tmp_path / split / f"{split}_0.json").write_text(json.dumps(items))
    given = ["--root", str(tmp_path)]
    out, scores = tmp_path / "own.weights.json", tmp_path / "scores.json"
    assert ranker.main(["train", str(out), *given]) == 0
    assert ranker.main(["score", str(scores), "--weights", str(out), *given]) == 0
    assert ranker.main(["measure", "--scores", str(scores), *given]) == 0
    assert ranker.main(["validate", *given]) == 0
    printed = capsys.readouterr().out
    assert "learned on 5 actions" in printed
    assert "5 actions scored" in printed
    assert "test_website bm25" in printed
    assert "without site0: trained" in printed
    looked_up = ranking.from_scores(ranking.load_scores(scores), "x")(records[0], 0)
    assert looked_up == pytest.approx(weights.load_ranker(out)(records[0], 0), abs=10**-ranker.DIGITS)


def test_the_program_says_what_is_missing(tmp_path, capsys):
    assert ranker.main(["train", str(tmp_path / "weights.json")]) == 2
    assert ranker.main(["train", str(tmp_path / "a.weights.json"), "--root", str(tmp_path)]) == 2
    assert ranker.main(["measure", "--scores", str(tmp_path / "none.json")]) == 2
    said = capsys.readouterr().err
    assert "NAME.weights.json" in said
    assert "no train records" in said
    assert "is not there" in said


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["score", "x", "--scores", "y"], "score takes no --scores"),
        (["measure", "--top", "5"], "measure takes no --top"),
        (["measure", "x"], "measure takes no FILE"),
        (["measure", "--weights", "x", "--scores", "y"], "not both"),
        (["train", "x", "--weights", "y"], "train takes no --weights"),
        (["validate", "--top", "5"], "validate takes no --top"),
    ],
)
def test_an_option_that_a_verb_does_not_read_is_refused(arguments, told, capsys):
    with pytest.raises(SystemExit) as ended:
        ranker.main(arguments)
    assert ended.value.code == 2
    assert told in capsys.readouterr().err


def test_the_stored_scores_are_those_of_the_stored_weights():
    for _, item in recorded()[::40]:
        place = len(item.actions) - 1
        stored = recorded_scores()[sample_id(item, item.actions[place])]
        found = weights.trained()(item, place)
        assert stored == pytest.approx({number: found[number] for number in stored}, abs=10**-ranker.DIGITS)


def test_the_trained_ranker_is_better_than_the_baseline_on_every_split():
    trained = ranking.from_scores(recorded_scores(), "x")
    by_split = defaultdict(list)
    for split, item in recorded():
        by_split[split].append(item)
    by_split["train"] = by_split["train"][::6]
    for split, items in by_split.items():
        base, found = (ranking.recall(one, items, (5, 10, 50)) for one in (ranking.bm25, trained))
        assert all(found[k] >= base[k] for k in base), split
        assert found[5] > base[5] + 0.1, split


def test_official_files_are_ranked_by_the_trained_ranker_unless_told_otherwise(tmp_path):
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "train_0.json").write_text(json.dumps([record(WORDS)]))

    def pool(**given):
        settings = Mind2WebSettings(source="official", path=str(tmp_path), top_k=2, **given)
        return set(next(Mind2Web(settings).tasks("train", 1, 0)).payload["pool"])

    numbers, rows = features(checked(record(WORDS), "x"), 0)
    heaviest = {**dict.fromkeys(NAMES, 0.0), "own words": -1.0}
    (tmp_path / "odd.weights.json").write_bytes(weights.dumped(heaviest))
    assert "0" in pool()
    assert "0" in pool(ranker="bm25")
    assert len(pool(ranker=str(tmp_path / "odd.weights.json"))) == 2
    assert len(rows) == len(numbers) == len(WORDS)
    with pytest.raises(ConfigurationError, match="use trained, bm25"):
        pool(ranker=str(tmp_path / "gone.weights.json"))
