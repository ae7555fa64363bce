"""Contamination by the paper's method: spans, their budget of mismatches, prompt text, and rates of splits."""

from pathlib import Path

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agenttuning.curation.contamination import (
    MATCH,
    EvaluationIndex,
    Tally,
    build_index,
    contaminated_spans,
    worst_sample,
)
from agenttuning.curation.evaluation_sets import evaluation_splits
from agenttuning.curation.words import token_hashes, tokens
from agenttuning.errors import ConfigurationError, DataError
from agenttuning.recipe import validate_recipe
from agenttuning.trajectory import Task

SAMPLE = [f"w{n}" for n in range(30)]
PUBLISHED = Path(__file__).parents[3] / "shared" / "data" / "knowledgegraph"


def spans(text: list[str], sample: list[str] = SAMPLE):
    return contaminated_spans(token_hashes(text), build_index({"test": [" ".join(sample)]}))


def changed(*places: int) -> list[str]:
    return [f"x{n}" if n in places else word for n, word in enumerate(SAMPLE)]


def test_ten_equal_tokens_begin_a_span_and_nine_do_not():
    assert spans(["a", *SAMPLE[3:13], "b"]) == [(0, 3, 13)]
    assert spans(["a", *SAMPLE[3:12], "b"]) == []


def test_four_tokens_of_a_span_may_differ_and_a_fifth_ends_it():
    assert spans(changed(12, 14, 16, 18)) == [(0, 0, 30)]
    assert spans(changed(12, 14, 16, 18, 20)) == [(0, 0, 20)]


def test_no_token_of_the_first_ten_differs_nor_the_last():
    assert spans(changed(5)) == [(0, 6, 30)]
    assert spans(changed(29)) == [(0, 0, 29)]
    assert spans(changed(27, 28, 29)) == [(0, 0, 27)]


def test_words_are_compared_without_case_and_punctuation_is_a_token():
    sample = "Find the largest file of this directory, and count its lines."
    index = build_index({"test": [sample]})
    assert contaminated_spans(token_hashes(tokens(sample.upper())), index) == [(0, 0, 13)]
    assert contaminated_spans(token_hashes(tokens(sample.replace(",", ""))), index) == []


def test_what_many_samples_share_is_prompt_text_and_begins_no_span():
    prompt = " ".join(f"p{n}" for n in range(12))
    samples = [f"{prompt} " + " ".join(f"s{number}w{n}" for n in range(12)) for number in range(5)]
    index = build_index({"test": samples})
    assert contaminated_spans(token_hashes(tokens(prompt)), index) == []
    assert contaminated_spans(token_hashes(tokens(samples[2])), index) == [(2, 3, 24)]


def test_the_worst_sample_and_the_rates_of_splits():
    index = build_index({"one": [" ".join(SAMPLE), "other words"], "two": [" ".join(f"v{n}" for n in range(20))]})
    found = contaminated_spans(token_hashes([*SAMPLE[:15], "z", *(f"v{n}" for n in range(20))]), index)
    assert worst_sample(found, index) == (2, 1.0)
    assert worst_sample([], index) == (-1, 0.0)
    tally = Tally(index)
    tally.add(found)
    tally.add(found)
    assert tally.rates() == {
        "one": {"samples": 2.0, "rate": 0.25, "over_20": 0.5, "over_80": 0.0},
        "two": {"samples": 1.0, "rate": 1.0, "over_20": 1.0, "over_80": 1.0},
    }


def test_an_index_is_given_back_by_its_arrays():
    index = build_index({"one": [" ".join(SAMPLE)], "none": []})
    again = EvaluationIndex.from_arrays(index.arrays())
    assert again.splits == ("one", "none")
    assert contaminated_spans(token_hashes(SAMPLE), again) == [(0, 0, 30)]
    assert Tally(again).rates()["none"] == {"samples": 0.0, "rate": 0.0, "over_20": 0.0, "over_80": 0.0}


words = st.lists(st.sampled_from("abcdefg"), max_size=40)


@given(words, words)
def test_a_span_obeys_every_bound_of_the_method(text, sample):
    for _, start, end in spans(text, sample):
        assert 0 <= start < end <= len(sample)
        assert end - start >= MATCH
        first = sample[start : start + MATCH]
        assert any(text[n : n + MATCH] == first for n in range(len(text)))


@given(words, st.integers(0, 30), st.integers(MATCH, 25), words)
def test_what_was_copied_is_found_whole(before, start, length, after):
    copied = SAMPLE[start : start + length]
    found = spans([*before, *copied, *after])
    if len(copied) < MATCH:
        assert found == []
    else:
        assert found == [(0, start, start + len(copied))]


def with_set(path, **more):
    return validate_recipe({"curation": {"evaluation_sets": {"bench": {"path": str(path), **more}}}})


def test_evaluation_sets_are_read_from_files_and_own_tasks_join(tmp_path):
    lines = [{"question": "Who?", "choices": ["a", "b"], "n": 3}, {"question": "What?", "choices": []}]
    (tmp_path / "t.jsonl").write_bytes(b"".join(orjson.dumps(line) + b"\n" for line in lines))
    assert evaluation_splits(with_set(tmp_path / "t.jsonl")) == {"bench": ["Who?\na\nb", "What?"]}
    mine = [Task(environment="os", split="test", instruction="Count.")]
    chosen = evaluation_splits(with_set(tmp_path / "t.jsonl", fields=["question"]), mine)
    assert chosen == {"bench": ["Who?", "What?"], "os/test": ["Count."]}


def test_an_evaluation_set_that_cannot_be_compared_is_an_error(tmp_path):
    (tmp_path / "t.jsonl").write_text('{"a": 1, "b": "text"}\n')
    with pytest.raises(DataError, match=r"without q; its keys are a, b.*evaluation_sets\.bench\.fields"):
        evaluation_splits(with_set(tmp_path / "t.jsonl", fields=["q"]))
    with pytest.raises(ConfigurationError, match=r"curation\.evaluation_sets\.bench\.path"):
        evaluation_splits(with_set(tmp_path / "none.jsonl"))


@pytest.mark.skipif(not PUBLISHED.is_dir(), reason="AgentBench's questions are not beside the repository")
def test_a_published_train_file_that_holds_its_dev_questions_is_found_out():
    trained = orjson.loads((PUBLISHED / "agentbench_kg_kg_rl_all.json").read_bytes())
    index = build_index(evaluation_splits(with_set(PUBLISHED / "agentbench_kg_dev.json", fields=["question"])))
    tally = Tally(index)
    for record in trained:
        tally.add(contaminated_spans(token_hashes(tokens(record["question"])), index))
    # 13 of the 20 dev questions stand in the train file; one of them has nine tokens.
    assert tally.rates() == {"bench": {"samples": 20.0, "rate": 0.6, "over_20": 0.6, "over_80": 0.6}}
