"""Contamination of evaluation splits by training text, by the method of the AgentTuning and Llama 2 papers.

A token of an evaluation sample is contaminated when it lies in a span that also stands in the training text. A span
begins with `MATCH` tokens without a mismatch; from there on up to `SKIPS` tokens may differ, one for one, and it ends
with a match. The contamination of a sample is the share of its tokens that are contaminated; that of a split is the
mean over its samples. Tokens are words and punctuation marks in lower case, not those of a model.

Prompt text is excluded. Of a trajectory, what stands before the turn that shows the task is not compared. Of a split,
a window of `MATCH` tokens that more than a tenth of its samples share (and at least `PROMPT_SAMPLES` of them) is prompt
text and begins no span.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from agenttuning.curation.words import Hashes, ngrams, token_hashes, tokens

MATCH = 10
"""Tokens at the beginning of a span that must be equal."""
SKIPS = 4
"""Tokens of a span that may differ."""
PROMPT_SHARE = 0.1
PROMPT_SAMPLES = 3

Span = tuple[int, int, int]
"""Sample number, first token, end token (exclusive)."""


@dataclass(frozen=True)
class EvaluationIndex:
    """The tokens of all evaluation samples and the windows that can begin a span. Holds arrays only."""

    splits: tuple[str, ...]
    """Name of each split."""
    split_of: npt.NDArray[np.int32]
    """Split number of each sample."""
    bounds: npt.NDArray[np.int64]
    """First token of each sample in `hashes`, and the end of the last; shape (samples + 1,)."""
    hashes: Hashes
    windows: Hashes
    """Hashes of the windows that can begin a span, sorted."""
    places: npt.NDArray[np.int64]
    """Where in `hashes` each window stands."""

    @property
    def samples(self) -> int:
        """Number of evaluation samples."""
        return len(self.split_of)

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Return what `from_arrays` takes back."""
        names = ("split_of", "bounds", "hashes", "windows", "places")
        return {"splits": np.array(self.splits, dtype=np.str_), **{name: getattr(self, name) for name in names}}

    @staticmethod
    def from_arrays(arrays: Mapping[str, npt.NDArray[Any]]) -> "EvaluationIndex":
        """Return the index that was stored as `arrays`."""
        given = {name: array for name, array in arrays.items() if name != "splits"}
        return EvaluationIndex(splits=tuple(map(str, arrays["splits"])), **given)


def build_index(splits: Mapping[str, Iterable[str]]) -> EvaluationIndex:
    """Return the index of evaluation splits, given as the texts of their samples by name."""
    pieces: list[Hashes] = []
    split_of: list[int] = []
    windows: list[Hashes] = []
    places: list[npt.NDArray[np.int64]] = []
    position = 0
    for number, texts in enumerate(splits.values()):
        first = len(pieces)
        pieces += [token_hashes(tokens(text)) for text in texts]
        split_of += [number] * (len(pieces) - first)
        starts = [ngrams(piece, MATCH) for piece in pieces[first:]]
        prompt = _prompt_windows(starts)
        for piece, found in zip(pieces[first:], starts, strict=True):
            own = ~np.isin(found, prompt)
            windows.append(found[own])
            places.append(position + np.flatnonzero(own))
            position += len(piece)
    together = np.concatenate([np.empty(0, np.uint64), *windows])
    order = np.argsort(together, kind="stable")
    lengths = [len(piece) for piece in pieces]
    return EvaluationIndex(
        splits=tuple(splits),
        split_of=np.array(split_of, np.int32),
        bounds=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        hashes=np.concatenate([np.empty(0, np.uint64), *pieces]),
        windows=together[order],
        places=np.concatenate([np.empty(0, np.int64), *places])[order],
    )


def _prompt_windows(starts: Sequence[Hashes]) -> Hashes:
    """Return the windows that so many samples share that they are the split's prompt."""
    each = np.concatenate([np.empty(0, np.uint64), *(np.unique(found) for found in starts)])
    values, counts = np.unique(each, return_counts=True)
    shared = (counts >= PROMPT_SAMPLES) & (counts > PROMPT_SHARE * len(starts))
    return np.asarray(values[shared], np.uint64)


def contaminated_spans(text: Hashes, index: EvaluationIndex) -> list[Span]:
    """Return the spans of evaluation samples that stand in a training text, merged and in order.

    Args:
        text: token hashes of the training text.
        index: of the evaluation splits.
    """
    found = ngrams(text, MATCH)
    if not len(found) or not len(index.windows):
        return []
    left = np.searchsorted(index.windows, found, side="left")
    hits = np.flatnonzero(index.windows[np.minimum(left, len(index.windows) - 1)] == found)
    spans: list[Span] = []
    for start in map(int, hits):
        for slot in range(int(left[start]), len(index.windows)):
            if index.windows[slot] != found[start]:
                break
            place = int(index.places[slot])
            sample = int(np.searchsorted(index.bounds, place, side="right")) - 1
            end = place + _length(text[start:], index.hashes[place : index.bounds[sample + 1]])
            origin = int(index.bounds[sample])
            spans.append((sample, place - origin, end - origin))
    return _merged(spans)


def _length(text: Hashes, sample: Hashes) -> int:
    """Return the length of the span that begins with `MATCH` equal tokens."""
    count = min(len(text), len(sample))
    equal = text[:count] == sample[:count]
    wrong = np.flatnonzero(~equal[MATCH:]) + MATCH
    if len(wrong) > SKIPS:
        equal = equal[: wrong[SKIPS]]
    return int(np.flatnonzero(equal)[-1]) + 1


def _merged(spans: list[Span]) -> list[Span]:
    merged: list[Span] = []
    for sample, start, end in sorted(set(spans)):
        if merged and merged[-1][0] == sample and start <= merged[-1][2]:
            merged[-1] = (sample, merged[-1][1], max(end, merged[-1][2]))
        else:
            merged.append((sample, start, end))
    return merged


def worst_sample(spans: Iterable[Span], index: EvaluationIndex) -> tuple[int, float]:
    """Return the sample that a text contaminates most, and the contaminated share of its tokens; (-1, 0.0) for none."""
    covered: dict[int, int] = {}
    for sample, start, end in spans:
        covered[sample] = covered.get(sample, 0) + end - start
    shares = {s: n / float(index.bounds[s + 1] - index.bounds[s]) for s, n in covered.items()}
    worst = max(shares, key=lambda s: (shares[s], -s), default=-1)
    return worst, shares.get(worst, 0.0)


class Tally:
    """The contamination of each split by many texts together."""

    def __init__(self, index: EvaluationIndex) -> None:
        self._index = index
        self._touched = np.zeros(len(index.hashes), np.bool_)

    def add(self, spans: Iterable[Span]) -> None:
        """Mark the contaminated tokens of one text."""
        for sample, start, end in spans:
            origin = self._index.bounds[sample]
            self._touched[origin + start : origin + end] = True

    def rates(self) -> dict[str, dict[str, float]]:
        """Return, by split, `samples`, mean `rate`, and the shares of samples with at least 20 % and 80 %."""
        index = self._index
        total = np.concatenate([[0], np.cumsum(self._touched)])
        lengths = np.diff(index.bounds)
        shares = np.diff(total[index.bounds]) / np.maximum(lengths, 1)
        result = {}
        for number, name in enumerate(index.splits):
            own = shares[index.split_of == number]
            told = {"rate": own, "over_20": own >= 0.2, "over_80": own >= 0.8}
            means = {key: round(float(np.mean(v)), 4) if len(own) else 0.0 for key, v in told.items()}
            result[name] = {"samples": float(len(own)), **means}
        return result
