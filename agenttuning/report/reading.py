"""Which episodes a report shows whole, and how: base and tuned on the same task, and what was learned from.

For each environment one task that tuning won, one that the tuned model failed, and one kept train trajectory with its
trained turns marked. The choice is by rule, not by taste: among the candidates the one of median length, so that
neither the easiest nor the longest stands for all.
"""

from collections.abc import Sequence
from typing import Any

from agenttuning.report.gather import Gathered
from agenttuning.trajectory import Trajectory, Turn

LONGEST = 3000
"""Characters of one turn that are shown."""
SUCCESS = 1.0 - 1e-9

Reading = dict[str, Any]


def readings(g: Gathered) -> list[Reading]:
    """Return the episodes to show by environment: `{"environment", "items": [{"title", "note", "columns"}]}`."""
    base, tuned = ({t.task.id: t for t in g.episodes.get(w, []) if t.task.split == "test"} for w in ("base", "tuned"))
    learned = g.episodes.get("kept") or g.episodes.get("collected") or []
    everything = [*base.values(), *tuned.values(), *learned]
    shown = []
    for name in dict.fromkeys(t.task.environment for t in everything):
        items = [*_compared(name, base, tuned)]
        if (source := _median([t for t in learned if t.task.environment == name], least=3)) is not None:
            note = "Marked turns carry loss; the others are read, never learned."
            items.append(
                {"title": "A trajectory to learn from", "note": note, "opening": [], "columns": [_column(source)]}
            )
        if items:
            shown.append({"environment": name, "items": items})
    return shown


def _compared(name: str, base: dict[str, Trajectory], tuned: dict[str, Trajectory]) -> list[Reading]:
    after = [t for t in tuned.values() if t.task.environment == name]
    won = [t for t in after if _solved(t) and not (t.task.id in base and _solved(base[t.task.id]))]
    lost = [t for t in after if not _solved(t)]
    chosen = [("Solved after tuning", _median(won, least=3)), ("Failed after tuning", _median(lost))]
    if not after:
        chosen = [("The base model", _median([t for t in base.values() if t.task.environment == name]))]
    items = []
    for title, trajectory in chosen:
        if trajectory is not None:
            pair = [base[trajectory.task.id]] if trajectory.task.id in base else []
            items.append(_side_by_side(title, [*pair, trajectory] if after else [trajectory]))
    return items


def _side_by_side(title: str, episodes: list[Trajectory]) -> Reading:
    """Show episodes of one task in columns; the turns that all begin with are shown once."""
    common = 0
    first = episodes[0].turns
    while all(len(t.turns) > common and t.turns[common] == first[common] for t in episodes):
        common += 1
    if len(episodes) == 1:
        common = next((i for i, t in enumerate(episodes[0].turns) if t.role == "assistant" and t.loss is not False), 0)
    names = ["base", "tuned"] if len(episodes) == 2 else [""]
    task = episodes[0].task
    return {
        "title": title,
        "note": f"{task.family} · {task.id}",
        "opening": [_turn(t, False) for t in episodes[0].turns[:common]],
        "columns": [_column(t, common, name) for name, t in zip(names, episodes, strict=True)],
    }


def _column(t: Trajectory, start: int = 0, name: str = "") -> Reading:
    return {
        "name": name,
        "solved": _solved(t),
        "outcome": t.outcome.value.replace("_", " "),
        "reward": f"{t.reward:g}",
        "steps": t.steps,
        "family": t.task.family,
        "policy": t.policy,
        "turns": [_turn(turn, not name) for turn in t.turns[start:]],
    }


def _turn(turn: Turn, mark: bool) -> Reading:
    text = turn.content
    if len(text) > LONGEST:
        text = f"{text[:LONGEST]}\n… ({len(text) - LONGEST:,} more characters)"
    return {"role": turn.role, "text": text, "trained": turn.loss if mark and turn.role == "assistant" else None}


def _median(found: Sequence[Trajectory], least: int = 0) -> Trajectory | None:
    """Return the one of median length, among those of at least `least` steps where there are any."""
    ordered = sorted([t for t in found if t.steps >= least] or found, key=lambda t: (t.steps, t.task.id, t.id))
    return ordered[len(ordered) // 2] if ordered else None


def _solved(t: Trajectory) -> bool:
    return t.reward >= SUCCESS
