"""Recorded trajectories from elsewhere: the published AgentInstruct, AgentBench run logs, OpenAI messages.

Each record becomes a `Trajectory` in segments, which curation reads like played ones. Thought and action are read from
the reply's text or its tool call; the turns stay as they are, so an export gives the records back. What a record does
not say is not invented: AgentInstruct holds what its authors kept, so its reward is 1; a run log without a reward gets
0 and says so, unless the caller names one. `diagnostics` keep where the reward comes from, the licence and the terms.

AgentInstruct: `{"conversations": [{"from", "loss", "value"}], "id": "os_0"}`. AgentBench: see `agentbench`.
Messages: `{"messages": [...], "tools": [...], "id", "environment", "reward", "outcome", "policy", "family", ...}`; the
keys beside the messages are what curation writes there, so that its own files read back as what they were.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from types import MappingProxyType
from typing import Any, Literal, get_args

from agenttuning.conversations.agentbench import failure_of, is_summary, number, read_run
from agenttuning.conversations.agentinstruct import from_agentinstruct
from agenttuning.conversations.openai_messages import from_messages
from agenttuning.conversations.replies import PLAIN, split_turn
from agenttuning.conversations.sources import source_records
from agenttuning.conversations.trajectories import LICENCE, TEACHER_TERMS
from agenttuning.errors import ConfigurationError, DataError
from agenttuning.progress import say
from agenttuning.storage import Store
from agenttuning.storage.segments import commit_segment
from agenttuning.trajectory import Conversation, Outcome, Task, Trajectory

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
    failed: Counter[str] = field(default_factory=Counter)
    """Runs of a log that were not played to an end, by the log's reason; they are left out."""

    def as_dict(self) -> dict[str, Any]:
        """Return the report as JSON values."""
        return {name: dict(value) if isinstance(value, Counter) else value for name, value in vars(self).items()}


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
    found = trajectories_of(path, options, report.failed)
    for place, some in enumerate(iter(lambda: list(islice(found, SEGMENT)), [])):
        commit_segment(target, "import", place, some)
        for t in some:
            report.trajectories += 1
            report.environments[t.task.environment] += 1
            report.formats[t.diagnostics[IMPORTED]] += 1
            report.without_reward += t.diagnostics[REWARD_FROM] == "unknown"
    if report.failed:
        told = ", ".join(f"{reason} {count}" for reason, count in report.failed.most_common())
        if not report.trajectories:
            raise DataError(f"import: {path} holds runs that failed alone ({told}); name the directory of other logs")
        say(f"import: {report.failed.total()} runs failed and are left out: {told}")
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


def trajectories_of(path: str, options: ImportOptions, failed: Counter[str] | None = None) -> Iterator[Trajectory]:
    """Yield the trajectories of every record below `path`, each under an id of its own; see `import_trajectories`.

    Runs that a log says have failed are counted in `failed` by reason.
    """
    seen: Counter[str] = Counter()
    for file, place, record in source_records(path, "import"):
        if is_summary(record):
            continue
        if (reason := failure_of(record)) is not None:
            if failed is not None:
                failed[reason] += 1
            continue
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
    reward, source = number(record.get("reward")), "record"
    if reward is None:
        reward = options.reward if options.reward is not None else (1.0 if form == "agentinstruct" else None)
        source = "option" if options.reward is not None else "published as kept" if reward is not None else "unknown"
    policy = options.policy or str(record.get("policy") or record.get("model") or "published")
    task = str(record.get("task") or form)
    origin = _Origin(form, task, environment, policy, source, _outcome(record), _text(record, "family") or "imported")
    terms = {key: text for key in (LICENCE, TEACHER_TERMS) if (text := _text(record, key))}
    return _trajectory(conversation, origin, reward, options, terms)


def _outcome(record: Mapping[str, Any]) -> Outcome:
    """Return how a record says that its episode ended; without a word it completed.

    Raises:
        DataError: no such outcome.
    """
    given = record.get("outcome")
    if given is None:
        return Outcome.COMPLETED
    if given not in set(Outcome):
        raise DataError(f"outcome {given!r}: write one of {', '.join(Outcome)}, or leave the key out")
    return Outcome(given)


def _text(record: Mapping[str, Any], key: str) -> str | None:
    given = record.get(key)
    return given if isinstance(given, str) and given else None


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
    run = read_run(record, file, options.split)
    name = re.split(r"[-_]", run.task)[0].lower()
    environment = options.environment or ENVIRONMENTS.get(name, name)
    if not environment:
        raise DataError(f"run {record.get('index')}: the path does not name the task; name it with --environment")
    reward, source = run.reward, "log"
    if reward is None:
        reward, source = options.reward, "option" if options.reward is not None else "unknown"
    # Without the agent's name, so that several agents' runs of one problem are attempts at one task.
    task, policy = f"{run.task}_{record.get('index')}", options.policy or run.agent or "published"
    origin = _Origin("agentbench", task, environment, policy, source, run.outcome)
    return _trajectory(run.conversation, origin, reward, options)


@dataclass(frozen=True)
class _Origin:
    """Where a record is from."""

    form: Format
    task: str
    """With the instruction it tells tasks apart; a record's own id does not, or no two records were duplicates."""
    environment: str
    policy: str
    reward_from: str
    outcome: Outcome
    family: str = "imported"


def _trajectory(
    conversation: Conversation,
    origin: _Origin,
    reward: float | None,
    options: ImportOptions,
    terms: Mapping[str, str] = MappingProxyType({}),
) -> Trajectory:
    # Beside tool calls a plain text is the model's last word, not the textual grammar of the environment.
    grammar = PLAIN if any(turn.tool_calls for turn in conversation.turns) else origin.environment
    turns = tuple(split_turn(grammar, turn) if turn.loss else turn for turn in conversation.turns)
    first = next((index for index, turn in enumerate(turns) if turn.loss), 1)
    shown = next((t.content for t in reversed(turns[:first]) if t.role == "user"), turns[0].content if turns else "")
    diagnostics: dict[str, Any] = {IMPORTED: origin.form, REWARD_FROM: origin.reward_from}
    given = {LICENCE: options.licence, TEACHER_TERMS: options.teacher_terms}
    diagnostics |= {**terms, **{key: value for key, value in given.items() if value is not None}}
    if conversation.meta:
        diagnostics["meta"] = conversation.meta
    task = Task(
        environment=origin.environment,
        split=options.split,
        instruction=shown,
        payload={"imported": origin.task},
        family=origin.family,
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
        outcome=origin.outcome,
        policy=origin.policy,
        steps=sum(1 for turn in turns if turn.loss),
        diagnostics=diagnostics,
    )
