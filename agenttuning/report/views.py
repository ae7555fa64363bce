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
    """Return a share as `58.3 %`."""
    return f"{100 * share:.{digits}f} %"


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
        tiles.append({"label": "General loss", "value": f"{100 * change:+.1f} %", "note": note})
    if g.curation:
        total = g.curation["total"]
        note = f"of {total['collected']:,} collected, {percent(total['ratio'])}"
        tiles.append({"label": "Trajectories kept", "value": f"{total['kept']:,}", "note": note})
    if seconds := g.summary.get("seconds"):
        memory = g.summary.get("peak_memory_bytes")
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
    rows = [
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
    asked = g.recipe.get("mixture", {}).get("sources", {})
    weights = sum(s["weight"] for s in asked.values()) or 1.0
    rows = []
    for name in dict.fromkeys([*held, *drawn]):
        have, took = held.get(name, {}), drawn.get(name, {})
        rows.append(
            {
                "name": name,
                "asked": percent(asked[name]["weight"] / weights) if name in asked else "–",
                "held": _count(have.get("items")),
                "tokens": _count(have.get("tokens")),
                "supervised": _count(have.get("supervised")),
                "drawn": _count(took.get("items")),
                "item_share": percent(took["item_share"]) if took else "–",
                "token_share": percent(took["token_share"]) if took else "–",
                "epochs": f"{took['epochs']:.2f}" if took else "–",
            }
        )
    chart = None
    if drawn:
        bars = [(what, [(n, float(s[key])) for n, s in drawn.items()]) for what, key in _SHARES if _has(drawn, key)]
        chart = share_chart(bars, "Share of each source in what was trained on")
    return {"rows": rows, "chart": chart, "sources": list(drawn), "packing": (g.plan or {}).get("packing_efficiency")}


_SHARES = (("items", "items"), ("tokens", "tokens"), ("trained tokens", "supervised"))


def _has(drawn: dict[str, Any], key: str) -> bool:
    return all(key in source for source in drawn.values())


def _count(value: int | None) -> str:
    return "–" if value is None else f"{value:,}"


def training(g: Gathered) -> Cell | None:
    """Return the charts of the training and its figures."""
    if not g.metrics:
        return None
    loss = _series(g, "loss")
    window = max(1, round(SMOOTHING * len(loss)))
    charts = [
        line_chart(
            [Line("raw", loss), Line("main", smoothed(loss, window))],
            "step",
            "loss (nats per trained token)",
            "Training loss by step",
        )
    ]
    for key, name, zero in _PANELS:
        if points := _series(g, key):
            charts.append(line_chart([Line("main", points)], "step", name, f"{name} by step", from_zero=zero))
    facts = (
        [("steps", f"{int(g.metrics[-1]['step']):,}"), ("last loss", f"{smoothed(loss, window)[-1][1]:.4f}")]
        if loss
        else []
    )
    facts += [(n.replace("_", " "), _fact(v)) for n, v in g.training.items() if isinstance(v, int | float | str)]
    return {"charts": charts, "window": window, "facts": list(dict(facts).items())}


_PANELS = (
    ("learning_rate", "learning rate", True),
    ("grad_norm", "gradient norm", True),
    ("tokens_per_second", "tokens per second", True),
)


def _series(g: Gathered, key: str) -> list[tuple[float, float]]:
    return [(float(m["step"]), float(m[key])) for m in g.metrics if isinstance(m.get(key), int | float)]


def _fact(value: float | str) -> str:
    if isinstance(value, str | bool):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else number(value)


def timing(g: Gathered) -> Cell | None:
    """Return where the time went."""
    seconds = g.summary.get("seconds")
    if not seconds:
        return None
    rows = [(stage, float(s), duration(s)) for stage, s in seconds.items()]
    memory = g.summary.get("peak_memory_bytes")
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
    return {"facts": facts, "environments": [{"name": n, **e} for n, e in r.get("environments", {}).items()]}
