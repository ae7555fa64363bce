"""Assemble `summary.json`, the numbers of a run for other tools, and the final table that the terminal shows.

    {"run", "confidence",
     "held_in":  {"base": RATE, "tuned": RATE, "difference": INTERVAL, "overlap": bool,
                  "by_environment": {name: {"base": SCORES, "tuned": SCORES}}},
     "shifted":  the same for the shifted tasks,
     "general":  {"base_loss", "tuned_loss", "loss_difference": INTERVAL, "loss_change": share of the base's,
                  "base_success", "tuned_success", "base_interval": [low, high], "tuned_interval": [low, high],
                  "dialogues", "instructions"},
     "failures": {"base": {name: {mode: episodes}}, "tuned": ...},
     "trajectories": {"collected", "kept"}, "seconds": {stage: s}, "peak_memory_bytes"}

RATE is `{"success", "low", "high", "episodes", "successes"}`, SCORES a RATE with `mean_turns` and `mean_score`,
INTERVAL `{"value", "low", "high"}` of tuned minus base. What has not run yet is null. Everything is computed from
`evaluation/*/held_in.json`, `evaluation/*/general.json`, `curated/report.json` and `timings.json`.
"""

from typing import Any

from agenttuning.evaluation.general import GENERAL, GeneralResult
from agenttuning.evaluation.held_in import HELD_IN, HeldInResult, SplitResult
from agenttuning.evaluation.scoring import Rate, difference, overlap, paired_bootstrap
from agenttuning.progress import duration
from agenttuning.storage import Store

MODELS = ("base", "tuned")


def load_held_in(run: Store, which: str) -> HeldInResult | None:
    """Return the held-in result of the `base` or the `tuned` model, or None where it has not run."""
    store = run.child("evaluation", which)
    return HeldInResult.model_validate(store.read_json(HELD_IN)) if store.exists(HELD_IN) else None


def load_general(run: Store, which: str) -> GeneralResult | None:
    """Return the general probe of the `base` or the `tuned` model, or None where it has not run."""
    store = run.child("evaluation", which)
    return GeneralResult.model_validate(store.read_json(GENERAL)) if store.exists(GENERAL) else None


def assemble_summary(run: Store) -> dict[str, Any]:
    """Return the summary of a run directory, with null for what has not run."""
    held_in = {which: load_held_in(run, which) for which in MODELS}
    general = {which: load_general(run, which) for which in MODELS}
    some = next((r for r in [*held_in.values(), *general.values()] if r is not None), None)
    timings = run.read_json("timings.json") if run.exists("timings.json") else {}
    return {
        "run": run.uri.partition("?")[0].rsplit("/", 1)[-1],
        "confidence": some.confidence if some else None,
        "held_in": _compare({w: r.test for w, r in held_in.items() if r}),
        "shifted": _compare({w: r.shifted for w, r in held_in.items() if r}),
        "general": _general(general["base"], general["tuned"]),
        "failures": {w: _failures(r.test) if r else None for w, r in held_in.items()},
        "trajectories": _trajectories(run),
        "seconds": timings.get("seconds", {}),
        "peak_memory_bytes": timings.get("peak_memory_bytes"),
    }


def _compare(splits: dict[str, SplitResult]) -> dict[str, Any]:
    overall = {which: split.overall for which, split in splits.items() if split.overall.episodes}
    both = len(overall) == len(MODELS)
    environments = list(dict.fromkeys(name for split in splits.values() for name in split.by_environment))
    return {
        **{which: overall[which].model_dump() if which in overall else None for which in MODELS},
        "difference": _interval(difference(overall["tuned"], overall["base"])) if both else None,
        "overlap": overlap(overall["base"], overall["tuned"]) if both else None,
        "by_environment": {n: {w: _scores(splits.get(w), n) for w in MODELS} for n in environments},
    }


def _scores(split: SplitResult | None, environment: str) -> dict[str, Any] | None:
    if split is None or environment not in split.by_environment:
        return None
    found = split.by_environment[environment]
    return {**found.rate.model_dump(), "mean_turns": found.mean_turns, "mean_score": found.mean_score}


def _failures(split: SplitResult) -> dict[str, dict[str, int]]:
    return {name: result.failures for name, result in split.by_environment.items()}


def _general(base: GeneralResult | None, tuned: GeneralResult | None) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for which, result in (("base", base), ("tuned", tuned)):
        asked = result is not None and result.success.episodes > 0
        found[f"{which}_loss"] = result.loss.mean if result and result.loss else None
        found[f"{which}_success"] = result.success.success if result and asked else None
        found[f"{which}_interval"] = [result.success.low, result.success.high] if result and asked else None
    some = tuned or base
    found["dialogues"] = len(some.loss.dialogues) if some and some.loss else 0
    found["instructions"] = some.success.episodes if some else 0
    found["loss_difference"] = found["loss_change"] = None
    if base and tuned and base.loss and tuned.loss:
        theirs = {d.id: d for d in tuned.loss.dialogues}
        pairs = [(d, theirs[d.id]) for d in base.loss.dialogues if d.id in theirs]
        if pairs:
            before, after = [b.loss for b, _ in pairs], [t.loss for _, t in pairs]
            found["loss_difference"] = _interval(
                paired_bootstrap(before, after, [b.tokens for b, _ in pairs], base.confidence)
            )
            found["loss_change"] = tuned.loss.mean / base.loss.mean - 1
    return found


def _trajectories(run: Store) -> dict[str, int | None]:
    if not run.exists("curated/report.json"):
        return {"collected": None, "kept": None}
    total = run.read_json("curated/report.json")["total"]
    return {"collected": total["collected"], "kept": total["kept"]}


def _interval(values: tuple[float, float, float]) -> dict[str, float]:
    return dict(zip(("value", "low", "high"), values, strict=True))


def final_table(summary: dict[str, Any]) -> str:
    """Return the table that ends a run: success of base and tuned with intervals, failures, the general probe."""
    lines: list[str] = []
    for title, part in (("held-in test tasks", summary["held_in"]), ("shifted test tasks", summary["shifted"])):
        if any(part[which] for which in MODELS):
            lines += [*_section(title, part, summary["confidence"]), ""]
    if not lines:
        lines += ["evaluation: not run yet", ""]
    lines += _failure_lines(summary["failures"])
    lines += _general_lines(summary["general"])
    trajectories = summary["trajectories"]
    if trajectories["collected"] is not None:
        lines.append(f"trajectories  {trajectories['collected']} collected, {trajectories['kept']} kept")
    if summary["seconds"]:
        spent = ", ".join(f"{stage} {duration(s)}" for stage, s in summary["seconds"].items())
        lines.append(f"time          {spent}; {duration(sum(summary['seconds'].values()))} in all")
    if summary["peak_memory_bytes"]:
        lines.append(f"peak memory   {summary['peak_memory_bytes'] / 2**30:.1f} GiB")
    return "\n".join(lines).rstrip()


def _section(title: str, part: dict[str, Any], confidence: float) -> list[str]:
    rows = [[title, f"base [{confidence:.0%}]", f"tuned [{confidence:.0%}]", "episodes"]]
    for name, scores in part["by_environment"].items():
        rows.append([name, *(_cell(scores[w]) for w in MODELS), _episodes(scores)])
    rows.append(["all", *(_cell(part[w]) for w in MODELS), _episodes(part)])
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    text = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    rule = "-" * max(map(len, text))
    return [text[0], rule, *text[1:-1], rule, text[-1]]


def _cell(scores: dict[str, Any] | None) -> str:
    if scores is None:
        return "not run"
    return Rate(**{key: scores[key] for key in Rate.model_fields}).text()


def _episodes(scores: dict[str, Any]) -> str:
    counts = list(dict.fromkeys(str(scores[w]["episodes"]) for w in MODELS if scores[w]))
    return " / ".join(counts)


def _failure_lines(failures: dict[str, Any]) -> list[str]:
    lines = []
    for which in MODELS:
        for name, counts in (failures[which] or {}).items():
            told = ", ".join(f"{mode.replace('_', ' ')} {count}" for mode, count in counts.items()) or "none"
            lines.append(f"failures of {which:5} in {name}: {told}")
    return [*lines, ""] if lines else []


def _general_lines(general: dict[str, Any]) -> list[str]:
    lines = []
    if general["base_loss"] is not None or general["tuned_loss"] is not None:
        line = f"general loss     {_number(general['base_loss'])} -> {_number(general['tuned_loss'])}"
        if (gap := general["loss_difference"]) is not None:
            line += (
                f" ({general['loss_change']:+.1%}; difference {gap['value']:+.4f} "
                f"[{gap['low']:+.4f}, {gap['high']:+.4f}], {general['dialogues']} dialogues)"
            )
        lines.append(line)
    if general["base_success"] is not None or general["tuned_success"] is not None:
        told = [_share(general[f"{w}_success"], general[f"{w}_interval"]) for w in MODELS]
        lines.append(f"general success  {told[0]} -> {told[1]} ({general['instructions']} instructions)")
    return [*lines, ""] if lines else []


def _number(value: float | None) -> str:
    return "not run" if value is None else f"{value:.4f}"


def _share(value: float | None, interval: list[float] | None) -> str:
    if value is None or interval is None:
        return "not run"
    return f"{100 * value:.1f} % [{100 * interval[0]:.1f}, {100 * interval[1]:.1f}]"
