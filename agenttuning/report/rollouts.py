"""What a report says of the rollouts: chances over several attempts, tokens and money, and failures of the world.

Views as in `agenttuning.report.views`: pure functions of `Gathered`, None where there is nothing to show.
"""

from typing import Any

from agenttuning.report.gather import Gathered
from agenttuning.report.views import Cell, count, percent


def costs(g: Gathered) -> Cell | None:
    """Return what generation used: tokens and money by environment and for each kept trajectory."""
    found = g.generation
    if not any(found.get("tokens", {}).values()):
        return None
    rows = [
        {
            "name": name,
            "tokens": f"{tokens:,}",
            "tokens_per_kept": count(found["tokens_per_kept"].get(name)),
            "cost": _money(found["cost"].get(name)),
            "cost_per_kept": _money(found["cost_per_kept"].get(name)),
        }
        for name, tokens in found["tokens"].items()
    ]
    return {"rows": rows, "spent": _money(found.get("spent") or None)}


def attempts(g: Gathered) -> Cell | None:
    """Return the unbiased pass@k by environment, where tasks were played several times."""
    found: dict[str, dict[str, float]] = g.generation.get("pass_at") or {}
    if not found:
        return None
    ks = sorted({k for chances in found.values() for k in chances}, key=int)
    best = g.generation.get("best", {})
    rows = [
        {
            "name": name,
            "chances": [percent(chances[k]) if k in chances else "–" for k in ks],
            "best": f"{best[name]:.3f}" if name in best else "–",
        }
        for name, chances in found.items()
    ]
    return {"ks": ks, "rows": rows}


def retried(g: Gathered) -> Cell | None:
    """Return the infrastructure failures by environment and kind; those of no one environment come last."""
    if "retried" not in g.generation:
        return None
    found: dict[str, dict[str, Any]] = g.generation["retried"]
    kinds = sorted({kind for counts in found.values() for kind in counts})
    ordered = sorted(found.items(), key=lambda item: (item[0] == "all", item[0]))
    rows = [
        {"name": "requests and actors" if name == "all" else name, "counts": [counts.get(kind, 0) for kind in kinds]}
        for name, counts in ordered
    ]
    return {"kinds": kinds, "rows": rows, "total": sum(sum(counts.values()) for counts in found.values())}


def _money(value: float | None) -> str:
    return "–" if value is None else f"{value:,.4g}"
