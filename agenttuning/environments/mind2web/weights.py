"""The trained ranker: one weight for each feature of a candidate, learned on recorded actions.

The score of a candidate is the sum of its features by their weights. Learning maximises the likelihood of the right
candidates among those of their page (softmax), with a small penalty on the weights: a convex problem, so its answer
depends on the records alone. Weights are kept as JSON, `{"weights": {feature: weight}}`.
"""

import json
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path

import orjson

from agenttuning.environments.mind2web.features import NAMES, features
from agenttuning.environments.mind2web.ranking import Ranker, Scores, from_scores, load_scores
from agenttuning.environments.mind2web.records import Record
from agenttuning.errors import DataError

FILE = "ranker.weights.json"
"""Learned on the `train` tasks that come with the package."""
ENDING = ".weights.json"
PENALTY = 1e-3
STEPS = 150

Example = tuple[list[list[float]], list[bool]]
"""Features of an action's candidates, and which of them are right."""
Weights = Mapping[str, float]


def by_weights(weights: Weights) -> Ranker:
    """Return the ranker with these weights."""
    values = [weights[name] for name in NAMES]

    def ranker(record: Record, place: int) -> Scores:
        numbers, rows = features(record, place)
        scores = (sum(weight * value for weight, value in zip(values, row, strict=True) if value) for row in rows)
        return dict(zip(numbers, scores, strict=True))

    return ranker


@cache
def trained() -> Ranker:
    """Return the ranker with the weights that come with the package."""
    return by_weights(read_weights(files(__package__).joinpath(FILE).read_bytes(), FILE))


def load_ranker(path: Path) -> Ranker:
    """Return the ranker of a file of weights (`NAME.weights.json`) or of scores (see `ranking`).

    Raises:
        ConfigurationError: there is no such file.
        DataError: it is neither.
    """
    if path.name.endswith(ENDING) and path.is_file():
        return by_weights(read_weights(path.read_bytes(), path.name))
    return from_scores(load_scores(path), str(path))


def read_weights(data: bytes, name: str) -> dict[str, float]:
    """Read a file of weights.

    Raises:
        DataError: it is none, or its features are not those of this version.
    """
    try:
        found = {str(key): float(value) for key, value in orjson.loads(data)["weights"].items()}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"{name}: not a file of weights ({error}); it must hold weights by feature") from error
    if set(found) != set(NAMES):
        odd = ", ".join(sorted(set(found) ^ set(NAMES)))
        raise DataError(f"{name}: its features are not those of this version ({odd}); train the ranker anew")
    return found


def dumped(weights: Weights) -> bytes:
    """Return the bytes of a file of weights."""
    return (json.dumps({"weights": weights}, indent=1) + "\n").encode()


def examples(records: Sequence[Record]) -> list[Example]:
    """Return what is learned from: the actions of some records that have a right candidate and others."""
    found = []
    for record in records:
        for place, action in enumerate(record.actions):
            numbers, rows = features(record, place)
            positives = {candidate.backend_node_id for candidate in action.pos_candidates}
            right = [number in positives for number in numbers]
            if any(right) and not all(right):
                found.append((rows, right))
    return found


def learned(given: Sequence[Example]) -> dict[str, float]:
    """Return the weights learned from examples.

    Raises:
        DataError: there is no example.
    """
    import torch

    if not given:
        raise DataError("no action to learn from: the train records have none with right and wrong candidates")
    counts = torch.tensor([len(rows) for rows, _ in given])
    page = torch.repeat_interleave(torch.arange(len(given)), counts)
    values = torch.tensor([row for rows, _ in given for row in rows], dtype=torch.float64)
    right = torch.tensor([mark for _, marks in given for mark in marks])
    weights = torch.zeros(len(NAMES), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([weights], max_iter=STEPS, line_search_fn="strong_wolfe")

    def total(scores: torch.Tensor, pages: torch.Tensor) -> torch.Tensor:
        highest = torch.full((len(given),), -torch.inf, dtype=torch.float64)
        highest = highest.scatter_reduce(0, pages, scores.detach(), "amax")
        return highest + torch.zeros_like(highest).index_add(0, pages, (scores - highest[pages]).exp()).log()

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        scores = values @ weights
        found = (total(scores, page) - total(scores[right], page[right])).mean() + PENALTY * (weights**2).sum()
        found.backward()  # type: ignore[no-untyped-call]
        return found

    optimizer.step(loss)  # type: ignore[no-untyped-call]
    return {name: round(weight, 4) for name, weight in zip(NAMES, weights.tolist(), strict=True)}
