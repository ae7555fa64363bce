"""Train the ranker, score records with it, and measure recall: `python -m agenttuning.environments.mind2web.ranker`.

    ranker train [--out DIR] [--epochs N]     train on the train records; the encoder goes to the machine's cache
    ranker score FILE [--encoder DIR] [--top N]   write the scores of all splits to FILE (.json or .json.xz)
    ranker measure [--encoder DIR | --scores FILE]   recall@10 and @50 on every split; without either, of BM25

`--root FOLDER` takes records in Mind2Web's format in place of those that come with the package. A recipe then names
the encoder's directory or, faster, the file of scores as `environments.mind2web.settings.ranker`.
"""

import argparse
import json
import lzma
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from agenttuning.environments.mind2web import ranking
from agenttuning.environments.mind2web.bundle import recorded
from agenttuning.environments.mind2web.ranking import Ranker, candidates
from agenttuning.environments.mind2web.records import SPLITS, Record, has_split, load, sample_id
from agenttuning.errors import AgentTuningError
from agenttuning.machine import cache_directory

AT = (1, 5, 10, 50)


def default_directory() -> Path:
    """Return where the trained encoder is kept on this machine."""
    return cache_directory() / "mind2web" / "encoder"


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
            found[sample_id(record, action)] = {number: round(values[number], 6) for number in kept}
    return found


def table(name: str, records: Sequence[Record], ranker: Ranker) -> str:
    """Return one line with the recall of a ranker on some records, which `name` names."""
    steps = sum(len(record.actions) for record in records)
    sizes = sum(len(candidates(action)) for record in records for action in record.actions)
    found = ranking.recall(ranker, records, AT)
    shares = "  ".join(f"R@{k} {share:.3f}" for k, share in found.items())
    return f"{name:20} {steps:5} actions, {sizes / max(steps, 1):5.1f} candidates  {shares}"


def main(arguments: Sequence[str]) -> int:
    """Run one of the verbs."""
    parser = argparse.ArgumentParser(prog="ranker", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("verb", choices=["train", "score", "measure"])
    parser.add_argument("file", nargs="?", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--encoder", type=Path)
    parser.add_argument("--scores", type=Path)
    parser.add_argument("--root", type=Path)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--top", type=int)
    given = parser.parse_args(arguments)
    if given.verb == "score" and given.file is None:
        parser.error("score needs the FILE to write")
    try:
        _run(given)
    except AgentTuningError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def _run(given: argparse.Namespace) -> None:
    records = records_by_split(given.root)
    started = time.monotonic()
    if given.verb == "train":
        from agenttuning.environments.mind2web.encoder import pretrained, train

        out = given.out or default_directory()
        encoder = train(
            records["train"], given.encoder or pretrained(), given.epochs, seed=0, said=partial(print, flush=True)
        )
        encoder.save(out)
        print(f"{out} written in {time.monotonic() - started:.0f} s")
        return
    rankers = _rankers(given)
    if given.verb == "score":
        *_, ranker = rankers.values()
        scores = {key: values for part in records.values() for key, values in score(part, ranker, given.top).items()}
        data = json.dumps({"scores": scores}, separators=(",", ":")).encode()
        given.file.write_bytes(lzma.compress(data, preset=9) if given.file.suffix == ".xz" else data)
        print(f"{given.file}: {len(scores)} actions scored in {time.monotonic() - started:.0f} s")
        return
    for split, part in records.items():
        for name, ranker in rankers.items():
            print(table(f"{split} {name}", part, ranker), flush=True)


def _rankers(given: argparse.Namespace) -> dict[str, Ranker]:
    """Return the rankers to measure by name, the one to score with last."""
    if given.scores is not None:
        return {"scores": ranking.from_scores(ranking.load_scores(given.scores), str(given.scores))}
    if given.verb == "measure" and given.encoder is None:
        return {"bm25": ranking.bm25}
    from agenttuning.environments.mind2web.encoder import Encoder, by_cosine, trained

    encoder = Encoder(given.encoder or default_directory())
    return {"cosine": by_cosine(encoder), "trained": trained(encoder)}


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
