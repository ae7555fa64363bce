"""Recorded trajectories from elsewhere: the published AgentInstruct, AgentBench run logs, OpenAI messages.

Each record becomes a `Trajectory` in segments, which curation reads like played ones. Thought and action are read from
the reply's text or its tool call; the turns stay as they are, so an export gives the records back. What a record does
not say is not invented: AgentInstruct holds what its authors kept, so its reward is 1; a run log without a reward gets
0 and says so, unless the caller names one. `diagnostics` keep where the reward comes from, the licence and the terms.

AgentInstruct: `{"conversations": [{"from", "loss", "value"}], "id": "os_0"}`. AgentBench: `runs.jsonl` with one
`{"index", "output": {"status", "result", "history": [{"role", "content"}]}}` a line, below `<agent>/<task>/`.
Messages: `{"messages": [...], "tools": [...], "id", "environment", "reward"}`.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Literal, get_args

from agenttuning.conversations.agentinstruct import from_agentinstruct
from agenttuning.conversations.openai_messages import from_messages
from agenttuning.conversations.replies import PLAIN, split_turn
from agenttuning.conversations.sources import source_records
from agenttuning.conversations.trajectories import LICENCE, TEACHER_TERMS
from agenttuning.errors import ConfigurationError, DataError
from agenttuning.storage import Store
from agenttuning.storage.segments import commit_segment
from agenttuning.trajectory import Conversation, Outcome, Task, Trajectory, Turn

Format = Literal["auto", "agentinstruct", "agentbench", "messages"]
FORMATS: tuple[Format, ...] = get_args(Format)
IMPORTED = "imported"
"""Key of `diagnostics` that names the format a trajectory was imported from."""
REWARD_FROM = "reward_from"
SEGMENT = 200
"""Trajectories of one segment."""

ENVIRONMENTS = {
    "os": "os",
    "db": "db",
    "dbbench": "db",
    "kg": "kg",
    "knowledgegraph": "kg",
    "alfworld": "alfworld",
    "webshop": "webshop",
    "mind2web": "mind2web",
    "m2w": "mind2web",
}
"""This package's name of an environment, by the prefix of a published id or of an AgentBench task."""

_OUTCOMES = {
    "completed": Outcome.COMPLETED,
    "agent context limit": Outcome.CONTEXT_LIMIT,
    "agent validation failed": Outcome.INVALID_ACTION,
    "agent invalid action": Outcome.INVALID_ACTION,
    "task limit reached": Outcome.STEP_LIMIT,
    "task error": Outcome.ENVIRONMENT_FAILURE,
}
_EVALUATION_TASK = re.compile(r"[-_](std|standard|dev|test|ext)$")
_REWARDS = ("reward", "result", "success", "score", "is_correct", "won")
_ACKNOWLEDGED = re.compile(r"^(ok\b|i've understood|understood\b)", re.IGNORECASE)
_NEW_PROBLEM = re.compile(r"^(Now, I will start a new problem|A new question:)")


@dataclass(frozen=True)
class ImportOptions:
    """What the records do not say.

    Attributes:
        form: the format, or `auto`: by the records' keys.
        environment: where all records are from; None: by their ids, the `environment` key, or the log's directory.
        split: of the tasks. Only `train` is learned from.
        policy: who played; None: what the records or the log's directory say, else `published`.
        reward: of records that have none; None: 1 for AgentInstruct, else 0.
        licence: of the records' text.
        teacher_terms: under which the teacher's text may be trained on.
    """

    form: Format = "auto"
    environment: str | None = None
    split: str = "train"
    policy: str | None = None
    reward: float | None = None
    licence: str | None = None
    teacher_terms: str | None = None


@dataclass
class ImportReport:
    """What was imported."""

    trajectories: int = 0
    environments: Counter[str] = field(default_factory=Counter)
    formats: Counter[str] = field(default_factory=Counter)
    without_reward: int = 0
    """Records whose reward is not known: it was set to 0, and the rule `reward` will drop them."""

    def as_dict(self) -> dict[str, Any]:
        """Return the report as JSON values."""
        return {**vars(self), "environments": dict(self.environments), "formats": dict(self.formats)}


def import_trajectories(path: str, target: Store, options: ImportOptions) -> ImportReport:
    """Read every record below `path` and store it as a trajectory in `target`.

    Args:
        path: a file, a directory or a URI of JSON, JSON lines or Parquet, or a hub id.
        target: directory that gets `segments/`.
        options: what the records do not say.

    Raises:
        ConfigurationError: no such place; or an evaluation task of AgentBench without a word about its split.
        DataError: a record that its format refuses, or whose environment nobody names; with its place.
    """
    report = ImportReport()
    found = trajectories_of(path, options)
    for number, some in enumerate(iter(lambda: list(islice(found, SEGMENT)), [])):
        commit_segment(target, "import", number, some)
        for t in some:
            report.trajectories += 1
            report.environments[t.task.environment] += 1
            report.formats[t.diagnostics[IMPORTED]] += 1
            report.without_reward += t.diagnostics[REWARD_FROM] == "unknown"
    return report


def known_format(name: str) -> Format:
    """Return the format of that name.

    Raises:
        ConfigurationError: no such format.
    """
    for form in FORMATS:
        if form == name:
            return form
    raise ConfigurationError(f"--format must be one of {', '.join(FORMATS)} (got {name!r})")


def name_of(path: str) -> str:
    """Return a directory's name for what is imported from `path`."""
    last = path.rstrip("/").rsplit("/", 1)[-1].split("?")[0]
    return re.sub(r"[^A-Za-z0-9._-]+", "-", last.rsplit(".", 1)[0] if "." in last[1:] else last) or "data"


def trajectories_of(path: str, options: ImportOptions) -> Iterator[Trajectory]:
    """Yield the trajectories of every record below `path`, each under an id of its own; see `import_trajectories`."""
    seen: Counter[str] = Counter()
    for file, place, record in source_records(path, "import"):
        try:
            trajectory = _from_record(record, file, options)
        except DataError as error:
            raise DataError(f"{file}, {place}: {error}") from error
        seen[trajectory.id] += 1
        if (count := seen[trajectory.id]) > 1:
            trajectory = trajectory.model_copy(update={"id": f"{trajectory.id}-{count}"})
        yield trajectory


def _from_record(record: Mapping[str, Any], file: str, options: ImportOptions) -> Trajectory:
    form = options.form if options.form != "auto" else _form_of(record)
    if form == "agentbench":
        return _agentbench(record, file, options)
    read = from_agentinstruct if form == "agentinstruct" else from_messages
    conversation = read(record, "imported")
    environment = options.environment or _environment(record, conversation.id)
    reward, source = _number(record.get("reward")), "record"
    if reward is None:
        reward = options.reward if options.reward is not None else (1.0 if form == "agentinstruct" else None)
        source = "option" if options.reward is not None else "published as kept" if reward is not None else "unknown"
    policy = options.policy or str(record.get("policy") or record.get("model") or "published")
    origin = _Origin(form, form, environment, policy, source)
    return _trajectory(conversation, origin, reward, Outcome.COMPLETED, options)


def _form_of(record: Mapping[str, Any]) -> Format:
    if isinstance(record.get("conversations"), list):
        return "agentinstruct"
    if isinstance(record.get("messages"), list):
        return "messages"
    if "output" in record and "index" in record:
        return "agentbench"
    raise DataError(
        f"no known format: the keys are {', '.join(record)}; expected `conversations` (AgentInstruct), `messages` "
        "(OpenAI) or `index` and `output` (AgentBench's runs.jsonl)"
    )


def _environment(record: Mapping[str, Any], item: str) -> str:
    given = record.get("environment")
    if isinstance(given, str) and given:
        return given
    prefix = item.rpartition("_")[0]
    if prefix in ENVIRONMENTS:
        return ENVIRONMENTS[prefix]
    raise DataError(
        f"item {item!r}: neither its id nor a key `environment` says where it was played; name it with --environment"
    )


def _agentbench(record: Mapping[str, Any], file: str, options: ImportOptions) -> Trajectory:
    output = record.get("output")
    if not isinstance(output, Mapping) or not isinstance(output.get("history"), list):
        raise DataError(f"run {record.get('index')}: has no history (error: {record.get('error')}); delete that line")
    agent, task = _log_place(file)
    if options.split == "train" and _EVALUATION_TASK.search(task):
        raise ConfigurationError(
            f"import: {file} is a log of {task!r}, an evaluation task of AgentBench; what learns from it cannot be "
            "measured on it. Give --split test to store it for looking at: curation learns from train tasks only"
        )
    name = re.split(r"[-_]", task)[0].lower()
    environment = options.environment or ENVIRONMENTS.get(name, name)
    if not environment:
        raise DataError(f"run {record.get('index')}: the path does not name the task; name it with --environment")
    item = f"{agent}_{task}_{record.get('index')}".strip("_")
    history = [entry for entry in output["history"] if not _reward_entry(entry)]
    if any(isinstance(entry, Mapping) and entry.get("role") in ("assistant", "tool", "system") for entry in history):
        conversation = from_messages({"messages": history, "id": item, "tools": output.get("tools")}, "imported")
    else:
        conversation = Conversation(id=item, source="imported", turns=_history(history, item))
    reward, source = _log_reward(output), "log"
    if reward is None:
        reward, source = options.reward, "option" if options.reward is not None else "unknown"
    outcome = _OUTCOMES.get(str(output.get("status")), Outcome.POLICY_FAILURE)
    policy = options.policy or agent or "published"
    # Without the agent's name, so that several agents' runs of one problem are attempts at one task.
    origin = _Origin("agentbench", f"{task}_{record.get('index')}", environment, policy, source)
    return _trajectory(conversation, origin, reward, outcome, options)


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
    found = [_number(result.get(key)) for key in _REWARDS] if isinstance(result, Mapping) else [_number(result)]
    found += [_number(entry["reward"]) for entry in reversed(output["history"]) if _reward_entry(entry)]
    return next((reward for reward in found if reward is not None), None)


def _number(value: Any) -> float | None:
    return min(1.0, max(0.0, float(value))) if isinstance(value, bool | int | float) else None


@dataclass(frozen=True)
class _Origin:
    """Where a record is from."""

    form: Format
    task: str
    """With the instruction it tells tasks apart; a record's own id does not, or no two records were duplicates."""
    environment: str
    policy: str
    reward_from: str


def _trajectory(
    conversation: Conversation, origin: _Origin, reward: float | None, outcome: Outcome, options: ImportOptions
) -> Trajectory:
    # Beside tool calls a plain text is the model's last word, not the textual grammar of the environment.
    grammar = PLAIN if any(turn.tool_calls for turn in conversation.turns) else origin.environment
    turns = tuple(split_turn(grammar, turn) if turn.loss else turn for turn in conversation.turns)
    first = next((index for index, turn in enumerate(turns) if turn.loss), 1)
    shown = next((t.content for t in reversed(turns[:first]) if t.role == "user"), turns[0].content if turns else "")
    diagnostics: dict[str, Any] = {IMPORTED: origin.form, REWARD_FROM: origin.reward_from}
    given = {LICENCE: options.licence, TEACHER_TERMS: options.teacher_terms}
    diagnostics |= {key: value for key, value in given.items() if value is not None}
    if conversation.meta:
        diagnostics["meta"] = conversation.meta
    task = Task(
        environment=origin.environment,
        split=options.split,
        instruction=shown,
        payload={"imported": origin.task},
        family="imported",
        origin="dataset",
    )
    return Trajectory(
        id=conversation.id,
        task=task,
        attempt=0,
        turns=turns,
        tools=conversation.tools,
        reward=reward or 0.0,
        score=reward or 0.0,
        outcome=outcome,
        policy=origin.policy,
        steps=sum(1 for turn in turns if turn.loss),
        diagnostics=diagnostics,
    )
