import math
from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agenttuning.environments.webshop.search import HITS, STOP_WORDS, Analyzer, Index

WORDS = ["lamp", "desk", "oak", "red", "blue", "cup", "tea", "pot"]
TEXTS = st.lists(st.lists(st.sampled_from(WORDS), max_size=8).map(" ".join), min_size=1)


def by_the_formula(texts, query, k1=0.9, b=0.4):
    """Return BM25 scores as Lucene defines them (without the factor k1 + 1)."""
    analyze = Analyzer()
    documents = [analyze(text) for text in texts]
    mean = sum(map(len, documents)) / len(documents)
    scores = [0.0] * len(documents)
    for word in analyze(query):
        holding = sum(word in document for document in documents)
        idf = math.log(1 + (len(documents) - holding + 0.5) / (holding + 0.5))
        for number, document in enumerate(documents):
            count = Counter(document)[word]
            scores[number] += idf * count / (count + k1 * (1 - b + b * len(document) / mean)) if count else 0.0
    return scores


@settings(deadline=None)
@given(TEXTS.filter(lambda texts: any(texts)), st.sampled_from(["lamp", "red desk", "tea tea pot", "oak cup blue"]))
def test_hits_come_in_the_order_of_lucenes_formula(texts, query):
    scores = by_the_formula(texts, query)
    found = list(Index(texts).search(query))
    assert set(found) <= {number for number, score in enumerate(scores) if score > 0}
    assert len(found) == min(HITS, sum(score > 0 for score in scores))
    for first, second in pairwise(found):
        assert scores[first] >= scores[second] - 1e-5


def test_words_are_split_and_stemmed_as_lucene_does():
    analyze = Analyzer()
    assert analyze("The women's Running-Shoes, size 7.5") == ["women", "run", "shoe", "size", "7.5"]
    assert analyze("wi-fi a.b 3,000 x_1 it's") == ["wi", "fi", "a.b", "3,000", "x_1"]
    assert len(STOP_WORDS) == 33
    assert analyze(" ".join(STOP_WORDS)) == []


def test_equal_hits_keep_their_order_and_there_are_at_most_fifty():
    index = Index(["green tea"] * 80)
    assert list(index.search("tea")) == list(range(HITS))
    assert list(index.search("tea", limit=3)) == [0, 1, 2]


@pytest.mark.parametrize("query", ["", "the of", "zebra", "?!"])
def test_a_query_without_a_known_word_finds_nothing(query):
    assert list(Index(["green tea", "desk lamp"]).search(query)) == []
