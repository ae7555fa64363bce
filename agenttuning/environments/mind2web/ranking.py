"""Rankers: which candidates of a page come into the pool. BM25, the baseline, or scores from a file.

A file of scores keeps, as Mind2Web does, a score for every candidate of every action, under the key
`<annotation_id>_<action_uid>`: as JSON, `{"scores": {key: {backend_node_id: score}}}`, also packed (`.json.xz`), or as
the published pickle, which is read with an unpickler that knows numbers and containers only. Candidates without a score
come last.
"""

import io
import lzma
import math
import pickle
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element

import orjson

from agenttuning.environments.mind2web import dom
from agenttuning.environments.mind2web.records import ActionRecord, Candidate, Record, sample_id
from agenttuning.errors import ConfigurationError, DataError

Scores = Mapping[str, float]
"""Score of each candidate by its id; the higher, the earlier."""
Ranker = Callable[[Record, int], Scores]
"""Scores of the candidates of one action of a record, by the action's place."""

K1, B = 1.2, 0.75
_UNREADABLE = (
    KeyError, TypeError, ValueError, AttributeError, EOFError, pickle.UnpicklingError, lzma.LZMAError,
)  # fmt: skip
_WORD = re.compile(r"[^\W_]+")


def candidates(action: ActionRecord) -> tuple[Candidate, ...]:
    """Return all candidates of an action: right ones and others, in the order of the page where ids tell it."""
    found = (*action.pos_candidates, *action.neg_candidates)
    return tuple(sorted(found, key=lambda c: (len(c.backend_node_id), c.backend_node_id)))


def query_text(record: Record, place: int) -> str:
    """Return what a candidate is compared with: the task, and the last actions before this one."""
    previous = record.action_reprs[max(place - 3, 0) : place]
    return " ".join([record.confirmed_task, *previous])


def documents(root: Element, found: Sequence[Candidate]) -> list[tuple[str, str]]:
    """Return what a ranker reads of each candidate: itself, and what is around it."""
    elements = dom.by_id(root)
    parents = {child: parent for parent in root.iter() for child in parent}
    shown = []
    for candidate in found:
        number = candidate.backend_node_id
        element = elements.get(number)
        if element is None:
            element = dom.candidate_element(candidate.tag, candidate.attributes, number)
        shown.append(dom.described(element, parents))
    return shown


def bm25(record: Record, place: int) -> Scores:
    """Score the candidates of an action by BM25 of their texts, the page's candidates being the collection.

    What an element says itself counts twice as much as what is around it.
    """
    action = record.actions[place]
    found = candidates(action)
    shown = documents(dom.parse(action.cleaned_html, sample_id(record, action)), found)
    texts = [words(f"{own} {own} {around}") for own, around in shown]
    scores = bm25_scores(words(query_text(record, place)), texts)
    return {candidate.backend_node_id: score for candidate, score in zip(found, scores, strict=True)}


def bm25_scores(query: Sequence[str], texts: Sequence[Sequence[str]]) -> list[float]:
    """Return the BM25 score (Lucene's form) of every text for a query."""
    counts = [Counter(text) for text in texts]
    mean = sum(len(text) for text in texts) / max(len(texts), 1) or 1.0
    weights = {}
    for word in set(query):
        having = sum(word in count for count in counts)
        weights[word] = math.log(1 + (len(texts) - having + 0.5) / (having + 0.5))
    scores = []
    for text, count in zip(texts, counts, strict=True):
        norm = K1 * (1 - B + B * len(text) / mean)
        scores.append(sum(weight * count[word] / (count[word] + norm) for word, weight in weights.items()))
    return scores


def words(text: str) -> list[str]:
    """Return the lower-case words of a text, with the commonest endings taken off."""
    return [_stem(word) for word in _WORD.findall(text.lower())]


def _stem(word: str) -> str:
    for ending in ("ing", "ed", "es", "s"):
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            return word.removesuffix(ending)
    return word


def from_scores(scores: Mapping[str, Scores], where: str) -> Ranker:
    """Return the ranker that looks scores up."""

    def ranker(record: Record, place: int) -> Scores:
        key = sample_id(record, record.actions[place])
        if key not in scores:
            raise DataError(f"{where}: no scores for {key}; score these records too (see the module `ranker`)")
        return scores[key]

    return ranker


def load_scores(path: Path) -> dict[str, dict[str, float]]:
    """Read a file of scores (`.pkl`: the published form; else JSON).

    Raises:
        ConfigurationError: there is no such file.
        DataError: it is not as the module says.
    """
    if not path.is_file():
        raise ConfigurationError(
            f"environments.mind2web.settings.ranker: {path} is not there; use trained, bm25, or a file of "
            "weights or of scores (python -m agenttuning.environments.mind2web.ranker makes both)"
        )
    return read_scores(path.read_bytes(), path.name)


def read_scores(data: bytes, name: str) -> dict[str, dict[str, float]]:
    """Read the bytes of a file of scores, whose form its name's end tells: `.pkl`, `.xz` (packed JSON), else JSON.

    Raises:
        DataError: they are not as the module says.
    """
    try:
        if name.endswith(".pkl"):
            found = _Plain(io.BytesIO(data)).load()
        else:
            found = orjson.loads(lzma.decompress(data) if name.endswith(".xz") else data)
        return {
            str(key): {str(node): float(score) for node, score in scores.items()}
            for key, scores in found["scores"].items()
        }
    except _UNREADABLE as error:
        raise DataError(f"{name}: not a file of scores ({error}); it must hold scores by action and element") from error


class _Plain(pickle.Unpickler):
    """Reads containers and numbers; refuses everything that could run code."""

    def find_class(self, module: str, name: str) -> Any:
        """Return NumPy's scalar types, which the published file may hold, and nothing else."""
        if module in {"numpy", "numpy.core.multiarray", "numpy._core.multiarray"} and name in {"dtype", "scalar"}:
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"it holds a {module}.{name}, which is neither a number nor a container")


def order(scores: Scores, found: Sequence[Candidate]) -> list[str]:
    """Return the candidates' ids, best first; equal scores in the given order, what has no score last."""
    return sorted((candidate.backend_node_id for candidate in found), key=lambda number: -scores.get(number, -math.inf))


def recall(ranker: Ranker, records: Sequence[Record], at: Sequence[int]) -> dict[int, float]:
    """Return for each k the share of actions that have a right candidate among the first k."""
    hits, total = Counter[int](), 0
    for record in records:
        for place, action in enumerate(record.actions):
            ranked = order(ranker(record, place), candidates(action))
            right = {candidate.backend_node_id for candidate in action.pos_candidates}
            first = next((rank for rank, number in enumerate(ranked) if number in right), math.inf)
            total += 1
            for k in at:
                hits[k] += first < k
    return {k: hits[k] / max(total, 1) for k in at}
