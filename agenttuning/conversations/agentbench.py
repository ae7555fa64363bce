"""AgentBench's run logs: one run a line of `<agent>/<task>/runs.jsonl`.

A line is `{"index", "error", "info", "output": {"status", "result", "history": [{"role", "content"}]}}`. Runs that the
harness could not play to an end stand in `error.jsonl` beside it with their `error`; `overall.json` sums the runs up.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from agenttuning.conversations.openai_messages import from_messages
from agenttuning.errors import ConfigurationError, DataError
from agenttuning.trajectory import Conversation, Outcome, Turn

_OUTCOMES = {
    "completed": Outcome.COMPLETED,
    "agent context limit": Outcome.CONTEXT_LIMIT,
    "agent validation failed": Outcome.INVALID_ACTION,
    "agent invalid action": Outcome.INVALID_ACTION,
    "task limit reached": Outcome.STEP_LIMIT,
    "task error": Outcome.ENVIRONMENT_FAILURE,
}
_EVALUATION_TASK = re.compile(r"[-_](std|standard|dev|test|ext)$")
_OPENAI_ROLES = ("assistant", "tool", "system", "developer")
_REWARDS = ("reward", "result", "success", "score", "is_correct", "won")
_ACKNOWLEDGED = re.compile(r"^(ok\b|i've understood|understood\b)", re.IGNORECASE)
_NEW_PROBLEM = re.compile(r"^(Now, I will start a new problem|A new question:)")


@dataclass(frozen=True)
class Run:
    """One run of a log."""

    conversation: Conversation
    agent: str
    task: str
    """AgentBench's name of the task, such as `dbbench-train`; empty where the path is shorter."""
    reward: float | None
    outcome: Outcome


def is_summary(record: Mapping[str, Any]) -> bool:
    """Whether a record is a log's `overall.json` and no run."""
    return {"total", "validation"} <= record.keys() and "output" not in record


def failure_of(record: Mapping[str, Any]) -> str | None:
    """Return why a run of a log failed; None for one that was played, and for records of other formats."""
    error = record.get("error")
    return str(error)[:80] if error and "index" in record and "output" in record else None


def read_run(record: Mapping[str, Any], file: str, split: str) -> Run:
    """Read one run.

    Args:
        record: the line.
        file: its path, which names agent and task.
        split: what the run's task shall be called.

    Raises:
        ConfigurationError: a run of an evaluation task as a train task.
        DataError: no history, or one that is not a user's and an agent's texts.
    """
    output = record.get("output")
    if not isinstance(output, Mapping) or not isinstance(output.get("history"), list):
        raise DataError(f"run {record.get('index')}: has neither a history nor an error; delete that line")
    agent, task = _log_place(file)
    if split == "train" and _EVALUATION_TASK.search(task):
        raise ConfigurationError(
            f"import: {file} is a log of {task!r}, an evaluation task of AgentBench; what learns from it cannot be "
            "measured on it. Give --split test to store it for looking at: curation learns from train tasks only"
        )
    item = f"{agent}_{task}_{record.get('index')}".strip("_")
    history = [entry for entry in output["history"] if not _reward_entry(entry)]
    if any(isinstance(entry, Mapping) and entry.get("role") in _OPENAI_ROLES for entry in history):
        conversation = from_messages({"messages": history, "id": item, "tools": output.get("tools")}, "imported")
    else:
        conversation = Conversation(id=item, source="imported", turns=_history(history, item))
    outcome = _OUTCOMES.get(str(output.get("status")), Outcome.POLICY_FAILURE)
    return Run(conversation, agent, task, _log_reward(output), outcome)


def _log_place(file: str) -> tuple[str, str]:
    """Return agent and task of `.../<agent>/<task>/runs.jsonl`; empty where the path is shorter."""
    parts = [part for part in file.split("/")[:-1] if part not in (".", "")]
    return (parts[-2] if len(parts) > 1 else "", parts[-1] if parts else "")


def _history(history: list[Any], item: str) -> tuple[Turn, ...]:
    """Return a log's turns: acknowledgements and the worked example before the problem carry no loss."""
    turns: list[Turn] = []
    for place, entry in enumerate(history):
        role, text = (entry.get("role"), entry.get("content")) if isinstance(entry, Mapping) else (None, None)
        if role not in ("user", "agent") or not isinstance(text, str):
            raise DataError(f"run {item!r}, turn {place}: not a user's or an agent's text: {str(entry)[:60]!r}")
        if role == "user" and _NEW_PROBLEM.match(text):
            turns = [t.model_copy(update={"loss": False}) if t.role == "assistant" else t for t in turns]
        trained = None if role == "user" else not (len(turns) == 1 and _ACKNOWLEDGED.match(text))
        turns.append(Turn(role="user" if role == "user" else "assistant", content=text, loss=trained))
    return tuple(turns)


def _reward_entry(entry: Any) -> bool:
    """Whether an entry of a history is no turn but the reward of the turn before (AgentBench's function calling)."""
    return isinstance(entry, Mapping) and "role" not in entry and "reward" in entry


def _log_reward(output: Mapping[str, Any]) -> float | None:
    """Return a log's reward: of its result, else of the last entry of its history that is one."""
    result = output.get("result")
    found = [number(result.get(key)) for key in _REWARDS] if isinstance(result, Mapping) else [number(result)]
    found += [number(entry["reward"]) for entry in reversed(output["history"]) if _reward_entry(entry)]
    return next((reward for reward in found if reward is not None), None)


def number(value: Any) -> float | None:
    """Return a reward from 0 to 1; None for what is no number."""
    return min(1.0, max(0.0, float(value))) if isinstance(value, bool | int | float) else None
