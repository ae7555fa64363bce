"""Train the ranker, score records with it, and measure recall: `python -m agenttuning.environments.mind2web.ranker`.

    ranker train FILE.weights.json    learn weights on the train records
    ranker validate                   recall on sites, then on forms of task, that were left out of training
    ranker score FILE [--top N]       write the scores of all splits to FILE (.json or .json.xz)
    ranker measure                    recall on every split

`measure` compares BM25, the baseline, with the trained ranker, with `--weights FILE` in place of those that come with
the package, or with `--scores FILE`. `--root FOLDER` takes records in Mind2Web's format in place of the package's. A
recipe then names weights or scores as `environments.mind2web.settings.ranker`.
"""

import argparse
import json
import lzma
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from agenttuning.environments.mind2web import ranking, weights
from agenttuning.environments.mind2web.bundle import recorded
from agenttuning.environments.mind2web.ranking import Ranker, candidates
from agenttuning.environments.mind2web.records import SPLITS, Record, has_split, load, sample_id
from agenttuning.errors import AgentTuningError, ConfigurationError
from agenttuning.trajectory import content_hash

AT = (1, 5, 10, 50)
FOLDS = 5
DIGITS = 3
TAKES = {"train": {"file"}, "validate": set(), "score": {"file", "weights", "top"}, "measure": {"weights", "scores"}}
"""What each verb reads beside `--root`."""


def records_by_split(root: Path | None) -> dict[str, list[Record]]:
    """Return the records of every split: those of `root`, or those that come with the package."""
    if root is not None:
        return {split: list(load(root, split)) for split in SPLITS if has_split(root, split)}
    found: dict[str, list[Record]] = {}
    for split, record in recorded():
        found.setdefault(split, []).append(record)
    return found


def score(records: Sequence[Record], ranker: Ranker, top: int | None = None) -> dict[str, dict[str, float]]:
    """Return the scores of every action's candidates, or of the first `top`, as a file of scores has them."""
    found = {}
    for record in records:
        for place, action in enumerate(record.actions):
            values = ranker(record, place)
            kept = ranking.order(values, candidates(action))[:top]
            found[sample_id(record, action)] = {number: round(values[number], DIGITS) for number in kept}
    return found


def table(name: str, records: Sequence[Record], ranker: Ranker) -> str:
    """Return one line with the recall of a ranker on some records, which `name` names."""
    steps = sum(len(record.actions) for record in records)
    sizes = sum(len(candidates(action)) for record in records for action in record.actions)
    found = ranking.recall(ranker, records, AT)
    shares = "  ".join(f"R@{k} {share:.3f}" for k, share in found.items())
    return f"{name:32} {steps:5} actions, {sizes / max(steps, 1):5.1f} candidates  {shares}"


def form(record: Record) -> str:
    """Return which fifth of the forms a task belongs to: its site and what is done on it, without the values."""
    done = [text.rpartition(" -> ")[0] for text in record.action_reprs[:2]]
    return f"tasks {int(content_hash([record.website, *done]), 16) % FOLDS + 1} of {FOLDS}"


def validate(records: Sequence[Record], part: Callable[[Record], str], said: Callable[[str], None]) -> None:
    """Say for every part of the records how a ranker does there that was trained on all other parts."""
    parts = sorted({part(record) for record in records})
    examples = {name: weights.examples([record for record in records if part(record) == name]) for name in parts}
    for name in parts:
        others = [example for other in parts if other != name for example in examples[other]]
        found = {"bm25": ranking.bm25, "trained": weights.by_weights(weights.learned(others))}
        for kind, ranker in found.items():
            said(table(f"without {name}: {kind}", [record for record in records if part(record) == name], ranker))


def main(arguments: Sequence[str]) -> int:
    """Run one of the verbs."""
    parser = argparse.ArgumentParser(prog="ranker", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("verb", choices=["train", "validate", "score", "measure"])
    parser.add_argument("file", nargs="?", type=Path)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--scores", type=Path)
    parser.add_argument("--root", type=Path)
    parser.add_argument("--top", type=int)
    given = parser.parse_args(arguments)
    if given.verb in {"train", "score"} and given.file is None:
        parser.error(f"{given.verb} needs the FILE to write")
    for name in ("file", "weights", "scores", "top"):
        if getattr(given, name) is not None and name not in TAKES[given.verb]:
            parser.error(f"{given.verb} takes no {'FILE' if name == 'file' else f'--{name}'}")
    if given.weights and given.scores:
        parser.error("measure takes --weights or --scores, not both")
    try:
        _run(given)
    except AgentTuningError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def _run(given: argparse.Namespace) -> None:
    records, started = records_by_split(given.root), time.monotonic()
    if given.verb in {"train", "validate"} and "train" not in records:
        raise ConfigurationError(f"{given.root} has no train records: put the published train_*.json into its train/")
    if given.verb == "train":
        if not given.file.name.endswith(weights.ENDING):
            raise ConfigurationError(f"{given.file}: a file of weights is called NAME{weights.ENDING}")
        found = weights.examples(records["train"])
        given.file.write_bytes(weights.dumped(weights.learned(found)))
        print(f"{given.file}: learned on {len(found)} actions in {time.monotonic() - started:.0f} s")
    elif given.verb == "validate":
        for by in (lambda record: record.website, form):
            validate(records["train"], by, lambda line: print(line, flush=True))
    elif given.verb == "score":
        ranker = weights.load_ranker(given.weights) if given.weights else weights.trained()
        scores = {key: values for part in records.values() for key, values in score(part, ranker, given.top).items()}
        data = json.dumps({"scores": scores}, separators=(",", ":")).encode()
        given.file.write_bytes(lzma.compress(data, preset=9) if given.file.suffix == ".xz" else data)
        print(f"{given.file}: {len(scores)} actions scored in {time.monotonic() - started:.0f} s")
    else:
        path = given.scores or given.weights
        other = weights.load_ranker(path) if path else weights.trained()
        for split, part in records.items():
            for name, ranker in {"bm25": ranking.bm25, "trained": other}.items():
                print(table(f"{split} {name}", part, ranker), flush=True)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
