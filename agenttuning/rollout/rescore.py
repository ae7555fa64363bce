"""`rescore`: run the graders again over stored trajectories, so that a mended grader costs no inference.

An environment grades from the task and the stored evidence alone. Where the grade differs, the segment is written anew
with its other trajectories as they are, and the next seal names the new segment in place of the old one
(`agenttuning.storage.index`). So the change is whole or not at all, the old segments stay as they were written, and
every reader sees the new rewards. What changed is kept in `rescored/e<epoch>.parquet`.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from agenttuning.environments.base import environment_class
from agenttuning.errors import ConfigurationError, DataError
from agenttuning.rollout.given import grade_of
from agenttuning.storage import Store
from agenttuning.storage.index import Entry, entries_table, epoch_name, seal, segment_names
from agenttuning.storage.lease import Lease
from agenttuning.storage.segments import commit_segment, read_segment
from agenttuning.trajectory import UNGRADED, Outcome, Trajectory

RESCORED = "rescored"
GRADER = "grader"
"""Key of `Trajectory.versions`: the environment's version whose grader gave the reward, where it graded later."""

CHANGES_SCHEMA = pa.schema(
    [(name, pa.string()) for name in ("id", "environment", "task", "old_version", "new_version")]
    + [(name, pa.float64()) for name in ("old_reward", "new_reward", "old_score", "new_score")]
)


@dataclass
class RescoreReport:
    """What the graders say now."""

    graded: dict[str, int] = field(default_factory=dict)
    """Trajectories by environment."""
    changed: dict[str, int] = field(default_factory=dict)
    """Of them, those with another reward or score."""
    gained: dict[str, int] = field(default_factory=dict)
    """Of the changed, those that reach their environment's threshold now and did not before."""
    lost: dict[str, int] = field(default_factory=dict)
    """The other way round."""
    changes: list[dict[str, Any]] = field(default_factory=list)
    """One row each, as in `CHANGES_SCHEMA`."""

    def lines(self) -> list[str]:
        """Return the report for people, one line an environment."""
        return [
            f"{name}: {count} graded again, {self.changed.get(name, 0)} changed "
            f"({self.gained.get(name, 0)} now succeed, {self.lost.get(name, 0)} no longer do)"
            for name, count in sorted(self.graded.items())
        ]


def rescore(
    store: Store,
    thresholds: dict[str, float],
    *,
    write: bool = True,
    on_progress: Callable[[int, int], None] | None = None,
) -> RescoreReport:
    """Grade every stored trajectory again.

    Args:
        store: the directory of a stage's trajectories.
        thresholds: reward from which on an episode is kept, by environment, for the report.
        write: store the new rewards; else only say what would change.
        on_progress: called with segments read and in all.

    Raises:
        ConfigurationError: an environment is not installed, or another driver is at work in `store`.
        DataError: nothing is stored, or a grader cannot grade what is stored; names the trajectory.
    """
    report = RescoreReport()
    if not write:
        for _ in _graded(store, thresholds, report, on_progress):
            pass
        return report
    with Lease(store, "rescoring") as lease:
        before = seal(store, lease.epoch)
        writer, replaced, entries = epoch_name(lease.epoch, RESCORED), list[str](), list[Entry]()
        for name, trajectories, changed in _graded(store, thresholds, report, on_progress):
            if changed:
                replaced.append(name)
                entries += commit_segment(store, writer, len(replaced), trajectories, folder=RESCORED)
        if report.changes:
            table = pa.Table.from_pylist(report.changes, schema=CHANGES_SCHEMA)
            store.write_table(f"{RESCORED}/{epoch_name(lease.epoch, 'changes')}.parquet", table)
            others = before.filter(pc.invert(pc.is_in(before.column("segment"), pa.array(replaced, pa.string()))))
            after = pa.concat_tables([others, entries_table(entries)])
            lease.release_into(lambda epoch: seal(store, epoch, after))
    return report


def rescored_segments(store: Store) -> list[str]:
    """Return the names of the segments that count in place of others, graded anew."""
    return [name for name in segment_names(store) if name.startswith(f"{RESCORED}/")]


def _graded(
    store: Store,
    thresholds: dict[str, float],
    report: RescoreReport,
    on_progress: Callable[[int, int], None] | None,
) -> Any:
    """Yield each segment's name, its trajectories as graded now (each id once), and whether any changed."""
    names = segment_names(store)
    if not names:
        raise DataError(f"{store.uri}: no trajectories are stored here; run `agenttuning generate` first")
    seen: set[str] = set()
    for done, name in enumerate(names, start=1):
        old = [t for t in read_segment(store, name) if t.id not in seen]
        seen.update(t.id for t in old)
        new = [_regrade(t) for t in old]
        for before, after in zip(old, new, strict=True):
            _count(report, before, after, thresholds)
        yield name, new, any(b is not a for b, a in zip(old, new, strict=True))
        if on_progress is not None:
            on_progress(done, len(names))


def _regrade(trajectory: Trajectory) -> Trajectory:
    """Return the trajectory as graded now: itself where nothing changed."""
    if not trajectory.evidence:
        return trajectory
    cls = environment_class(trajectory.task.environment)
    try:
        grade = grade_of(cls.grade(trajectory.task, trajectory.evidence))
    except Exception as error:
        raise DataError(
            f"trajectory {trajectory.id}: the grader of {cls.name!r} (version {cls.version}) cannot read its evidence "
            f"({type(error).__name__}: {error}); let `grade` accept what earlier versions stored, or play it again"
        ) from error
    ungraded = trajectory.diagnostics.get(UNGRADED)
    if ungraded is None and (grade.reward, grade.score) == (trajectory.reward, trajectory.score):
        return trajectory
    update: dict[str, Any] = {"reward": grade.reward, "score": grade.score}
    update["versions"] = {**trajectory.versions, GRADER: cls.version}
    if ungraded is not None:
        update["outcome"] = Outcome(ungraded)
        update["diagnostics"] = {k: v for k, v in trajectory.diagnostics.items() if k not in (UNGRADED, "last_error")}
    return trajectory.model_copy(update=update)


def _count(report: RescoreReport, old: Trajectory, new: Trajectory, thresholds: dict[str, float]) -> None:
    name = old.task.environment
    report.graded[name] = report.graded.get(name, 0) + 1
    if new is old:
        return
    if name not in thresholds:
        raise ConfigurationError(
            f"environments: trajectories of {name!r} are stored, which the recipe lacks; add environments.{name}"
        )
    report.changed[name] = report.changed.get(name, 0) + 1
    was, now = old.reward >= thresholds[name], new.reward >= thresholds[name]
    if was != now:
        side = report.gained if now else report.lost
        side[name] = side.get(name, 0) + 1
    graded_by = old.versions.get(GRADER, old.versions.get("environment", ""))
    report.changes.append(
        {
            "id": old.id, "environment": name, "task": old.task.id,
            "old_version": graded_by, "new_version": new.versions[GRADER],
            "old_reward": old.reward, "new_reward": new.reward, "old_score": old.score, "new_score": new.score,
        }
    )  # fmt: skip
