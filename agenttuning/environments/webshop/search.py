"""Product search: BM25 as Lucene computes it (k1 0.9, b 0.4) over stemmed words, with `bm25s`.

Text is split into words as Lucene's standard tokenizer does for Latin script, loses possessive endings and the 33 stop
words, and is stemmed by Porter. Equal scores keep the catalogue's order.
"""

import re
import threading
from collections.abc import Iterable, Sequence

import bm25s
import numpy as np
import Stemmer

_STOP_WORDS_TEXT = """
a an and are as at be but by for if in into is it no not of on or such that the their then there these they this to
was will with
"""
STOP_WORDS = frozenset(_STOP_WORDS_TEXT.split())
"""Lucene's English stop words."""
HITS = 50
"""Products that one search finds at most."""

_WORD = re.compile(r"\w+(?:(?:(?<=[^\W\d_])['’.:·](?=[^\W\d_])|(?<=\d)['’.,;](?=\d))\w+)*")
_POSSESSIVE = re.compile(r"['’]s$")


class Analyzer:
    """Text to stems. Not for two threads at once."""

    def __init__(self) -> None:
        self._stemmer = Stemmer.Stemmer("porter")
        self._stems: dict[str, str] = {}

    def __call__(self, text: str) -> list[str]:
        """Return the stems of a text's words, in order."""
        stems = (self._stem(word) for word in _WORD.findall(text.lower()))
        return [stem for stem in stems if stem]

    def _stem(self, word: str) -> str:
        if word not in self._stems:
            bare = _POSSESSIVE.sub("", word)
            self._stems[word] = "" if bare in STOP_WORDS else self._stemmer.stemWord(bare)
        return self._stems[word]


class Index:
    """A searchable list of texts. Safe to search from several threads.

    Args:
        texts: one a document, in the catalogue's order.
    """

    def __init__(self, texts: Iterable[str]) -> None:
        self._analyzer = Analyzer()
        self._lock = threading.Lock()
        self._bm25 = bm25s.BM25(method="lucene", k1=0.9, b=0.4)
        self._bm25.index([self._analyzer(text) for text in texts], show_progress=False)

    def search(self, query: str, limit: int = HITS) -> Sequence[int]:
        """Return the numbers of the best documents that share a word with the query, the best first."""
        with self._lock:
            known = self._bm25.get_tokens_ids(self._analyzer(query))
            if not known:
                return []
            scores = self._bm25.get_scores(known)
        found = np.flatnonzero(scores > 0)
        if len(found) > limit:
            least = np.partition(scores[found], -limit)[-limit]
            found = found[scores[found] >= least]
        best: list[int] = found[np.argsort(-scores[found], kind="stable")][:limit].tolist()
        return best
