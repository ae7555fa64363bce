import json
import lzma
import pickle
import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agenttuning.environments.mind2web import bundle, ranking
from agenttuning.environments.mind2web.records import checked, entries, fetch, has_split, load, sample_id
from agenttuning.errors import ConfigurationError, DataError


def record(words=("Save", "Open", "Close"), right=0, name="r1"):
    """A record of one click, in the published form."""
    page = "".join(
        f'<button backend_node_id="{n}"><text backend_node_id="t{n}">{w}</text></button>' for n, w in enumerate(words)
    )
    found = [{"tag": "button", "backend_node_id": str(n), "attributes": "{}"} for n in range(len(words))]
    action = {
        "action_uid": "a1",
        "raw_html": "<html>",
        "operation": {"op": "CLICK", "original_op": "CLICK", "value": ""},
        "cleaned_html": f'<html backend_node_id="h">{page}</html>',
        "pos_candidates": [{**found[right], "is_original_target": True, "is_top_level_target": True}],
        "neg_candidates": [candidate for n, candidate in enumerate(found) if n != right],
    }
    return {
        "annotation_id": name,
        "website": "shop",
        "domain": "Shopping",
        "subdomain": "General",
        "confirmed_task": "Save the file",
        "action_reprs": ["[button]  Save -> CLICK"],
        "actions": [action],
    }


def write(folder, split, data, number=0):
    (folder / split).mkdir(exist_ok=True)
    path = folder / split / f"{split}_{number}.json"
    path.write_text(data if isinstance(data, str) else json.dumps(data))
    return path


def test_files_are_read_in_the_order_of_their_numbers(tmp_path):
    for number in (10, 2, 0):
        write(tmp_path, "train", [record(name=f"r{number}")], number)
    assert [item.annotation_id for item in load(tmp_path, "train")] == ["r0", "r2", "r10"]
    assert has_split(tmp_path, "train")
    assert not has_split(tmp_path, "test_task")


def test_some_records_are_fetched_each_file_once(tmp_path, monkeypatch):
    for number in range(3):
        write(tmp_path, "train", [record(name=f"r{number}.{place}") for place in range(4)], number)
    found = list(entries(tmp_path, "train"))
    assert [(entry.path.name, entry.number) for entry in found[3:5]] == [("train_0.json", 3), ("train_1.json", 0)]
    assert {(entry.website, entry.actions) for entry in found} == {("shop", 1)}
    read = []
    whole = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: read.append(path.name) or whole(path))
    wanted = [found[9], found[0], found[10]]
    assert {entry: item.annotation_id for entry, item in fetch(wanted)} == dict(
        zip(wanted, ("r2.1", "r0.0", "r2.2"), strict=True)
    )
    assert sorted(read) == ["train_0.json", "train_2.json"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"confirmed_task": None}, r"train_0.json, record 0: confirmed_task"),
        ({"actions": []}, "actions: List should have at least 1|actions: Tuple should have at least 1"),
        ({"action_reprs": []}, "0 action_reprs for 1 actions"),
        ({"actions": [{"action_uid": "x"}]}, r"record 0: actions.0.operation: Field required"),
    ],
)
def test_a_record_of_another_shape_is_named(tmp_path, change, message):
    write(tmp_path, "train", [{**record(), **change}])
    with pytest.raises(DataError, match=message):
        list(load(tmp_path, "train"))


def test_an_unknown_operation_is_named(tmp_path):
    data = record()
    data["actions"][0]["operation"]["op"] = "HOVER"
    write(tmp_path, "train", [data])
    with pytest.raises(DataError, match=r"actions.0.operation.op: Input should be 'CLICK', 'TYPE' or 'SELECT'"):
        list(load(tmp_path, "train"))


@pytest.mark.parametrize(("text", "message"), [("{", "not JSON"), ('{"a": 1}', "JSON list of records, not dict")])
def test_a_file_of_another_shape_is_named(tmp_path, text, message):
    write(tmp_path, "train", text)
    with pytest.raises(DataError, match=message):
        list(load(tmp_path, "train"))


def test_missing_files_say_where_they_belong(tmp_path):
    with pytest.raises(ConfigurationError, match=r"no Mind2Web files in .*test_domain"):
        list(load(tmp_path, "test_domain"))


def test_bm25_puts_the_shared_word_first_and_a_rarer_word_higher():
    scores = ranking.bm25_scores(["save", "file"], [["save"], ["file"], ["file", "menu"], ["menu"]])
    assert scores[0] > scores[1] > scores[2] > scores[3] == 0.0


@given(
    st.lists(st.lists(st.sampled_from("abcd"), max_size=6), min_size=1, max_size=8), st.lists(st.sampled_from("abcd"))
)
def test_bm25_scores_are_positive_where_a_word_is_shared(texts, query):
    for text, score in zip(texts, ranking.bm25_scores(query, texts), strict=True):
        assert (score > 0) == bool(set(text) & set(query))


def test_bm25_ranks_a_record():
    item = checked(record(("Open", "Close", "Save")), "x")
    ranked = ranking.order(ranking.bm25(item, 0), ranking.candidates(item.actions[0]))
    assert ranked[0] == "2"
    assert ranking.recall(ranking.bm25, [item], (1, 3)) == {1: 0.0, 3: 1.0}


@pytest.mark.parametrize("suffix", [".json", ".pkl", ".json.xz"])
def test_scores_are_read_from_a_file(tmp_path, suffix):
    item = checked(record(), "x")
    key = sample_id(item, item.actions[0])
    path = tmp_path / f"scores{suffix}"
    values = {"0": 0.1, "1": 0.9, "2": -3.5}
    if suffix == ".pkl":
        numbers = {node: np.float32(value) for node, value in values.items()}
        path.write_bytes(pickle.dumps({"scores": {key: numbers}, "ranks": {key: {"1": 0}}}))
    else:
        data = json.dumps({"scores": {key: values}}).encode()
        path.write_bytes(lzma.compress(data) if suffix.endswith(".xz") else data)
    ranker = ranking.from_scores(ranking.load_scores(path), str(path))
    assert ranking.order(ranker(item, 0), ranking.candidates(item.actions[0])) == ["1", "0", "2"]
    with pytest.raises(DataError, match="no scores for other_a1"):
        ranker(checked(record(name="other"), "x"), 0)


def test_a_pickle_that_would_run_code_is_refused(tmp_path):
    path = tmp_path / "scores.pkl"
    path.write_bytes(b"cposix\nsystem\n(S'touch " + str(tmp_path / "ran").encode() + b"'\ntR.")
    with pytest.raises(DataError, match=r"posix\.system, which is neither a number nor a container"):
        ranking.load_scores(path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["scores.json", "scores.json.xz", "scores.pkl"])
@pytest.mark.parametrize("text", ["[]", "{}", '{"scores": {"a": 1}}', "no json"])
def test_a_score_file_of_another_shape_is_refused(tmp_path, text, name):
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(DataError, match="not a file of scores"):
        ranking.load_scores(path)


def test_what_is_packed_comes_back_in_the_published_form():
    page = '<html><a box="1,2,3,4"><text>Go</text></a><a box="5,6,7,8"><text>Stop</text></a></html>'
    packed = {key: value for key, value in record().items() if key != "actions"}
    action = {
        "action_uid": "a",
        "operation": {"op": "CLICK", "original_op": "CLICK", "value": ""},
        "page": 0,
        "positives": ["4"],
    }
    ((split, item),) = bundle.unpack(bundle.dump([{"split": "test", **packed, "actions": [action]}], [page]))
    (found,) = item.actions
    assert split == "test"
    assert [c.backend_node_id for c in found.pos_candidates] == ["4"]
    assert found.pos_candidates[0].is_original_target
    assert json.loads(found.pos_candidates[0].attributes)["bounding_box_rect"] == "5,6,7,8"
    assert [c.backend_node_id for c in found.neg_candidates] == ["2"]
    assert "box" not in found.cleaned_html
    assert 'backend_node_id="5"' in found.cleaned_html


def test_shuffled_words_do_not_change_a_ranking():
    words = ["Open", "Close", "Save", "Print"]
    tops = set()
    for seed in range(5):
        shuffled = random.Random(seed).sample(words, len(words))
        item = checked(record(shuffled), "x")
        tops.add(shuffled[int(ranking.order(ranking.bm25(item, 0), ranking.candidates(item.actions[0]))[0])])
    assert tops == {"Save"}
