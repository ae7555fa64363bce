"""From a run's stored numbers to what the page's template shows: headline, scores, failures, data, mixture, training.

Pure functions of `Gathered`. A view is None (or empty) where its stage has not run; the template then says so.
"""

from typing import Any

from agenttuning.progress import duration
from agenttuning.report.charts import Interval, Line, bar_chart, interval_chart, line_chart, number, share_chart
from agenttuning.report.gather import MODELS, Gathered, smoothed

Cell = dict[str, Any]

SMOOTHING = 0.05
"""The loss is smoothed over this share of the steps."""


def percent(share: float, digits: int = 1) -> str:
    """Return a share as `58.3 %`, on one line."""
    return f"{100 * share:.{digits}f}\u00a0%"


def interval_text(rate: dict[str, Any]) -> str:
    """Return a rate as `58.3 % [38.8, 75.5]`."""
    return f"{percent(rate['success'])} [{100 * rate['low']:.1f}, {100 * rate['high']:.1f}]"


def headline(g: Gathered) -> list[Cell]:
    """Return the tiles at the top: label, value, note."""
    tiles: list[Cell] = []
    rates = {w: g.held_in[w]["test"]["overall"] for w in MODELS if w in g.held_in}
    rates = {w: r for w, r in rates.items() if r["episodes"]}
    if rates:
        note = " · ".join(f"{w} {interval_text(r)}" for w, r in rates.items())
        value = " → ".join(percent(r["success"], 0) for r in rates.values())
        tiles.append({"label": "Held-in success, unseen test tasks", "value": value, "note": note, "wide": True})
    general = g.summary.get("general") or {}
    if (change := general.get("loss_change")) is not None:
        gap = general["loss_difference"]
        note = f"{gap['value']:+.3f} nats per token [{gap['low']:+.3f}, {gap['high']:+.3f}]"
        tiles.append({"label": "General loss", "value": f"{100 * change:+.1f}\u00a0%", "note": note})
    if g.curation:
        total = g.curation["total"]
        note = f"of {total['collected']:,} collected, {percent(total['ratio'])}"
        tiles.append({"label": "Trajectories kept", "value": f"{total['kept']:,}", "note": note})
    if seconds := g.timings.get("seconds"):
        memory = g.timings.get("peak_memory_bytes")
        note = f"peak memory {memory / 2**30:.1f} GiB" if memory else "over all stages"
        tiles.append({"label": "Time in all", "value": duration(sum(seconds.values())), "note": note})
    return tiles


def scores(g: Gathered, split: str) -> Cell | None:
    """Return chart and table of success by environment for `test` or `shifted`."""
    results = {w: g.held_in[w][split] for w in MODELS if w in g.held_in}
    results = {w: r for w, r in results.items() if r["overall"]["episodes"]}
    if not results:
        return None
    names = list(dict.fromkeys(n for r in results.values() for n in r["by_environment"]))
    rows = [(name, {w: r["by_environment"].get(name) for w, r in results.items()}) for name in names]
    chart_rows = [(name, [_mark(w, f["rate"]) for w, f in found.items() if f]) for name, found in rows]
    chart_rows.append(("all", [_mark(w, r["overall"]) for w, r in results.items()]))
    table = []
    for name, found in rows:
        families = list(dict.fromkeys(f for e in found.values() if e for f in e["families"]))
        table.append(
            {
                "name": name,
                **{w: _score_cells(e) for w, e in found.items() if e},
                "families": [
                    {"name": f, **{w: _rate_text(e["families"].get(f)) for w, e in found.items() if e}}
                    for f in families
                ],
            }
        )
    overall = {"name": "all", **{w: {"rate": interval_text(r["overall"]), **_counts(r)} for w, r in results.items()}}
    label = f"Success rate on {split} tasks by environment, with {_confidence(g)} intervals"
    return {"chart": interval_chart(chart_rows, label), "table": table, "overall": overall, "models": list(results)}


def _mark(which: str, rate: dict[str, Any]) -> Interval:
    told = f"{which}: {interval_text(rate)}, {rate['successes']} of {rate['episodes']} episodes"
    return Interval(which, rate["success"], rate["low"], rate["high"], told)


def _score_cells(found: dict[str, Any]) -> Cell:
    rate = found["rate"]
    return {
        "rate": interval_text(rate),
        "count": f"{rate['successes']}/{rate['episodes']}",
        "turns": f"{found['mean_turns']:.1f}",
        "score": f"{found['mean_score']:.3f}",
    }


def _counts(result: dict[str, Any]) -> Cell:
    overall = result["overall"]
    found = [(e["rate"]["episodes"], e["mean_turns"], e["mean_score"]) for e in result["by_environment"].values()]
    episodes = sum(n for n, _, _ in found)
    return {
        "count": f"{overall['successes']}/{overall['episodes']}",
        "turns": f"{sum(n * t for n, t, _ in found) / episodes:.1f}",
        "score": f"{sum(n * s for n, _, s in found) / episodes:.3f}",
    }


def _rate_text(rate: dict[str, Any] | None) -> str:
    return f"{rate['successes']}/{rate['episodes']}" if rate else "–"


def _confidence(g: Gathered) -> str:
    return next((f"{100 * r['confidence']:g} %" for r in g.held_in.values()), "95 %")


def verdict(g: Gathered) -> str | None:
    """Return the comparison of base and tuned in one sentence, as the intervals allow it."""
    part = g.summary.get("held_in") or {}
    gap = part.get("difference")
    if gap is None:
        return None
    span = f"{100 * gap['value']:+.1f} points [{100 * gap['low']:+.1f}, {100 * gap['high']:+.1f}]"
    if not part["overlap"]:
        return f"Tuning changed success by {span}; the two intervals do not overlap."
    return f"Tuning changed success by {span}; the two intervals overlap, so more episodes are needed to be sure."


def failures(g: Gathered) -> Cell | None:
    """Return the heat table of primary failure modes by environment and model."""
    columns = [
        (name, which, g.held_in[which]["test"]["by_environment"][name])
        for name in dict.fromkeys(n for r in g.held_in.values() for n in r["test"]["by_environment"])
        for which in MODELS
        if which in g.held_in and name in g.held_in[which]["test"]["by_environment"]
    ]
    if not columns:
        return None
    totals: dict[str, int] = {}
    for _, _, found in columns:
        for mode, count in found["failures"].items():
            totals[mode] = totals.get(mode, 0) + count
    modes = sorted(totals, key=lambda m: (-totals[m], m))
    rows: list[Cell] = [
        {"name": mode.replace("_", " "), "cells": [_heat(f["failures"].get(mode, 0), f) for _, _, f in columns]}
        for mode in modes
    ]
    rows.append({"name": "solved", "solved": True, "cells": [_heat(f["rate"]["successes"], f) for _, _, f in columns]})
    groups: dict[str, int] = {}
    for name, _, _ in columns:
        groups[name] = groups.get(name, 0) + 1
    return {"rows": rows, "groups": list(groups.items()), "models": [w for _, w, _ in columns]}


def _heat(count: int, found: dict[str, Any]) -> Cell:
    episodes = found["rate"]["episodes"]
    return {"count": count, "share": round(100 * count / episodes) if episodes else 0}


def general(g: Gathered) -> Cell | None:
    """Return the general probe: loss table, success chart, and success by what was asked."""
    if not g.general:
        return None
    found = {w: g.general[w] for w in MODELS if w in g.general}
    asked = {w: r for w, r in found.items() if r["success"]["episodes"]}
    chart = None
    if asked:
        marks = [_mark(w, r["success"]) for w, r in asked.items()]
        chart = interval_chart([("all", marks)], "Success on verifiable instructions", last_is_total=False)
    kinds = list(dict.fromkeys(k for r in asked.values() for k in r["by_category"]))
    return {
        "losses": [
            {
                "name": w,
                "mean": f"{r['loss']['mean']:.4f}",
                "tokens": f"{r['loss']['tokens']:,}",
                "dtype": r["loss"]["dtype"],
            }
            for w, r in found.items()
            if r["loss"]
        ],
        "difference": (g.summary.get("general") or {}).get("loss_difference"),
        "change": (g.summary.get("general") or {}).get("loss_change"),
        "dialogues": next((len(r["loss"]["dialogues"]) for r in found.values() if r["loss"]), 0),
        "chart": chart,
        "models": list(asked),
        "kinds": [
            {"name": k.replace("_", " "), **{w: _rate_text(r["by_category"].get(k)) for w, r in asked.items()}}
            for k in kinds
        ],
        "instructions": next((r["success"]["episodes"] for r in asked.values()), 0),
    }


def collected(g: Gathered) -> Cell | None:
    """Return the paper's Table 1 for this run: what was collected, kept and dropped by which rule."""
    if not g.curation:
        return None
    rules = [r for r in g.curation["rules"]]
    environments = g.curation["environments"]
    families = g.curation.get("families", {})
    rows = [
        {**_group(name, group, rules), "families": [_group(f, x, rules) for f, x in families.get(name, {}).items()]}
        for name, group in environments.items()
    ]
    return {"rules": rules, "rows": rows, "total": _group("total", g.curation["total"], rules)}


def _group(name: str, group: dict[str, Any], rules: list[str]) -> Cell:
    return {
        "name": name,
        "tasks": f"{group['tasks']:,}",
        "collected": f"{group['collected']:,}",
        "kept": f"{group['kept']:,}",
        "ratio": percent(group["ratio"]),
        "share": round(100 * group["ratio"], 1),
        "turns": f"{group['mean_turns']:.2f}",
        "dropped": [group["dropped"].get(rule, 0) for rule in rules],
        "outcomes": ", ".join(f"{o.replace('_', ' ')} {n}" for o, n in group["outcomes"].items()),
    }


def mixture(g: Gathered) -> Cell | None:
    """Return what each source holds, and what the training drew of it."""
    held = (g.mixture or {}).get("sources", {})
    drawn = (g.plan or {}).get("mixture", {})
    if not held and not drawn:
        return None
    asked = _asked_shares(g)
    rows = []
    for name in dict.fromkeys([*held, *drawn]):
        have, took = held.get(name, {}), drawn.get(name, {})
        rows.append(
            {
                "name": name,
                "asked": percent(asked[name]) if name in asked else "–",
                "held": count(have.get("items")),
                "tokens": count(have.get("tokens")),
                "supervised": count(have.get("supervised")),
                "drawn": count(took.get("items")),
                "item_share": percent(took["item_share"]) if took else "–",
                "epochs": f"{took['epochs']:.2f}" if took else "–",
            }
        )
    bars = []
    for what, key in (("items", "items"), ("tokens", "tokens"), ("trained tokens", "supervised")):
        if drawn and all(key in source for source in drawn.values()):
            bars.append((what, [(name, float(source[key])) for name, source in drawn.items()]))
    return {
        "rows": rows,
        "chart": share_chart(bars, "Share of each source in what was trained on") if bars else None,
        "sources": list(drawn),
        "packing": (g.plan or {}).get("packing_efficiency"),
        "deviation": _deviation(g, asked),
    }


def _asked_shares(g: Gathered) -> dict[str, float]:
    sources = g.recipe.get("mixture", {}).get("sources", {})
    whole = sum(s["weight"] for s in sources.values()) or 1.0
    return {name: s["weight"] / whole for name, s in sources.items()}


def _deviation(g: Gathered, asked: dict[str, float]) -> float | None:
    """Return how many items any source ever was away from its share of all items so far, over all steps."""
    worst = None
    for step in g.metrics:
        counts = {name: int(step[f"items/{name}"]) for name in asked if f"items/{name}" in step}
        if counts and len(counts) == len(asked):
            whole = sum(counts.values())
            worst = max(worst or 0.0, *(abs(c - asked[name] * whole) for name, c in counts.items()))
    return worst


def count(value: float | None) -> str:
    """Return a number of things as `1,234`; a dash where it is not known."""
    return "–" if value is None else f"{value:,}"


def training(g: Gathered) -> Cell | None:
    """Return the charts of the training and its figures."""
    if not g.metrics:
        return None
    loss = _series(g, "loss")
    window = max(1, round(SMOOTHING * len(loss)))
    lines = [Line("raw", loss), Line("main", smoothed(loss, window))]
    charts: list[Cell] = [
        {"drawing": line_chart(lines, "step", "loss (nats per trained token)", "Training loss by step")}
    ]
    sources = [name for name in _asked_shares(g) if _series(g, f"loss/{name}")]
    if len(sources) > 1:
        parts = [Line(f"s{i % 6}", smoothed(_series(g, f"loss/{n}"), window)) for i, n in enumerate(sources)]
        drawing = line_chart(parts, "step", "loss by source (nats per trained token)", "Training loss by source")
        charts.append({"drawing": drawing, "sources": sources})
    for key, name in _PANELS:
        if points := _series(g, key):
            drawing = line_chart([Line("main", points)], "step", name, f"{name} by step", from_zero=True)
            charts.append({"drawing": drawing})
    facts = [
        (name.removesuffix("_bytes").replace("supervised", "trained").replace("_", " "), _fact(name, value))
        for name, value in g.training.items()
        if name != "steps"
    ]
    return {
        "charts": charts,
        "window": window,
        "steps": int(g.metrics[-1]["step"]),
        "facts": [(name, text) for name, text in facts if text is not None],
        "notes": g.training.get("notes", []),
    }


_PANELS = (
    ("learning_rate", "learning rate"),
    ("grad_norm", "gradient norm"),
    ("tokens_per_second", "tokens per second"),
)


def _series(g: Gathered, key: str) -> list[tuple[float, float]]:
    return [(float(m["step"]), float(m[key])) for m in g.metrics if isinstance(m.get(key), int | float)]


def _fact(name: str, value: Any) -> str | None:
    """Return a figure of the training's summary for people; None for what is shown elsewhere."""
    if isinstance(value, str):
        return value
    if not isinstance(value, int | float):
        return None
    if name.endswith("_bytes"):
        return f"{value / 2**30:.1f} GiB"
    if name == "seconds":
        return duration(value)
    if name.endswith("efficiency"):
        return percent(value)
    return f"{value:,}" if isinstance(value, int) else number(value)


def timing(g: Gathered) -> Cell | None:
    """Return where the time went."""
    seconds = g.timings.get("seconds")
    if not seconds:
        return None
    rows = [(stage, float(s), duration(s)) for stage, s in seconds.items()]
    memory = g.timings.get("peak_memory_bytes")
    return {
        "chart": bar_chart(rows, "Wall time by stage"),
        "total": duration(sum(seconds.values())),
        "memory": f"{memory / 2**30:.1f} GiB" if memory else None,
    }


def asked(g: Gathered) -> Cell | None:
    """Return what the recipe asked for, in short."""
    r = g.recipe
    if not r:
        return None
    keys = ("train_tasks", "test_tasks", "shifted_tasks", "reward_threshold")
    policy, train = r.get("policy", {}), r.get("training", {})
    teacher = (
        "the environments' experts" if policy.get("kind") == "expert" else str(policy.get("model") or "the base model")
    )
    facts = [
        ("base model", str(r.get("model", {}).get("path"))),
        ("teacher", teacher),
        ("steps", f"{train.get('steps')} of {train.get('items_per_step')} items"),
        ("learning rate", number(float(train.get("learning_rate", 0)))),
        ("packed row", f"{train.get('row_tokens')} tokens"),
        ("workers", f"{train.get('workers')}, ZeRO-{train.get('zero_stage')}"),
        ("seed", str(r.get("run", {}).get("seed"))),
    ]
    return {
        "facts": facts,
        "environments": [{"name": n, **{k: e.get(k, "–") for k in keys}} for n, e in r.get("environments", {}).items()],
    }
