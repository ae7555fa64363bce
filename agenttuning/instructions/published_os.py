"""Validates AgentBench's published Operating System tasks and writes what was found.

    python -m agenttuning.instructions.published_os DATA_ROOT VERDICTS.json [source ...]

The verdicts are what `environments/operating_system/verdicts.json` holds: for each record that was dropped its
reason, by the hash of its content, and for the reader its place and a detail.
"""

import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import orjson

from agenttuning.environments.operating_system import OperatingSystem, OperatingSystemSettings
from agenttuning.environments.operating_system.published import Published, published_records
from agenttuning.instructions.shell_trials import ShellTrials
from agenttuning.instructions.validation import Reason, validate
from agenttuning.progress import Progress

SOURCES = ("agentbench", "agentbench_dev")


def validate_published(data_root: str, sources: Iterable[str] = SOURCES) -> dict[str, Any]:
    """Try every record of the sources; return counts, kept keys and dropped ones with their reasons."""
    found: dict[str, Any] = {"counts": {}, "checks": {}, "dropped": {}, "unproven": {}, "details": {}}
    for source in sources:
        settings = OperatingSystemSettings(source="agentbench", validated=False)
        records = published_records(data_root, source)
        with (
            OperatingSystem(settings, data_root) as environment,
            Progress(source, len(records), "records tried") as bar,
        ):
            trials = ShellTrials(environment)
            counts: Counter[str] = Counter()
            checks: dict[str, Counter[str]] = {}
            for number, record in enumerate(records, start=1):
                reason, detail = _try(record, trials)
                counts[reason or "kept"] += 1
                checks.setdefault(_check(record), Counter())[reason or "kept"] += 1
                if reason is not None:
                    found["unproven" if reason == Reason.UNPROVEN else "dropped"][record.key] = reason
                    found["details"][record.key] = {"record": record.name, "reason": reason, "detail": detail}
                bar.update(number)
        found["counts"][source] = dict(counts)
        found["checks"][source] = {check: dict(counter) for check, counter in sorted(checks.items())}
    return found


def _try(record: Published, trials: ShellTrials) -> tuple[str | None, str]:
    if record.task is None:
        return Reason.UNPLAYABLE.value, record.problem or ""
    verdict = validate(record.task, trials)
    return (verdict.reason.value if verdict.reason else None), verdict.detail


def _check(record: Published) -> str:
    if record.task is None:
        return "unplayable"
    expect = record.task.payload["expect"]
    kind = str(expect.get("rule", "check scripts"))
    return f"{kind}, known answer" if "answer" in expect else kind


if __name__ == "__main__":
    root, target, *named = sys.argv[1:]
    result = validate_published(root, named or SOURCES)
    Path(target).write_bytes(orjson.dumps(result, option=orjson.OPT_INDENT_2) + b"\n")
