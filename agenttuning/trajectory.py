"""The nouns every room speaks: Task, Turn, Action, Trajectory, Outcome, Conversation.

All are immutable pydantic models that serialise to JSON and back without loss. Nothing here knows of an
environment, a policy or a file.
"""

import hashlib
from enum import StrEnum
from functools import cached_property
from typing import Annotated, Any, Literal

import orjson
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, FiniteFloat

SCHEMA_VERSION = 1

Role = Literal["system", "user", "assistant", "tool"]


def content_hash(value: Any, length: int = 16) -> str:
    """Return the first `length` hexadecimal digits of the SHA-256 of `value` as canonical JSON."""
    data = orjson.dumps(value, option=orjson.OPT_SORT_KEYS | orjson.OPT_NON_STR_KEYS)
    return hashlib.sha256(data).hexdigest()[:length]


class Noun(BaseModel):
    """Base of the stored records: immutable, no unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Task(Noun):
    """One thing to do in one environment. Equal content gives an equal id."""

    environment: str
    split: str
    """`train`, `test`, or `shifted` (test tasks whose wording and schema or layout no train task has)."""
    instruction: str
    """What the agent is asked, as the environment words it."""
    payload: dict[str, Any] = Field(default_factory=dict)
    """All the environment needs to set the task up and to grade it. JSON only."""
    family: str = "default"
    """The generator or source that made it, for reports by family."""
    origin: str = "generated"
    """`generated`, `dataset`, `derived` or `self-instructed`."""
    difficulty: float | None = None
    """How hard it is, from 0 to 1, where known. Measured on the task, not part of what it is: the id is without it."""

    @cached_property
    def id(self) -> str:
        """`<environment>_<content hash>`."""
        return f"{self.environment}_{content_hash(self.model_dump(mode='json', exclude={'difficulty'}))}"


class Action(Noun):
    """A structured action, so that one trajectory can be rendered as ReAct text or as function calls."""

    name: str
    arguments: dict[str, Any] = Field(default_factory=dict)


class ToolCall(Noun):
    """A function call as OpenAI messages carry it; `arguments` is the raw JSON text."""

    id: str
    name: str
    arguments: str


class Turn(Noun):
    """One message. `loss` is true or false for assistant turns and null for all others (AgentInstruct's format)."""

    role: Role
    content: str
    loss: bool | None = None
    thought: str | None = None
    action: Action | None = None
    reasoning: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None
    name: str | None = None


class Outcome(StrEnum):
    """How an episode ended. Infrastructure failures are retried and are no outcome of a stored episode."""

    COMPLETED = "completed"
    INVALID_ACTION = "invalid_action"
    STEP_LIMIT = "step_limit"
    CONTEXT_LIMIT = "context_limit"
    REPETITION = "repetition"
    REFUSED = "refused"
    ENVIRONMENT_FAILURE = "environment_failure"
    POLICY_FAILURE = "policy_failure"


class Call(Noun):
    """What a policy really saw and gave in one request."""

    turn: int
    """Index in the trajectory's turns of the assistant turn that the call produced."""
    visible: tuple[int, ...] | None = None
    """Indices of the turns that were sent; None means all turns before `turn`."""
    edit: str | None = None
    """Name of the edit when the sent turns differ from the transcript (for example `trimmed`)."""
    finish_reason: str | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    seconds: float = 0.0
    token_ids: tuple[int, ...] | None = None
    logprobs: tuple[float, ...] | None = None
    tokenizer: str | None = None


UNGRADED = "ungraded"
"""Key of `Trajectory.diagnostics`: the outcome that an episode would have had if its grader had given a grade."""

Points = Annotated[FiniteFloat, BeforeValidator(lambda given: 0.0 if given is None else given)]
"""What a grader gave. A NaN was stored as null once; such an episode counts as failed, and its segment is read."""


class Trajectory(Noun):
    """One finished episode, with everything that grading, curation and rendering need later."""

    id: str
    task: Task
    attempt: int
    turns: tuple[Turn, ...]
    tools: tuple[dict[str, Any], ...] = ()
    evidence: dict[str, Any] = Field(default_factory=dict)
    """What the environment hands the grader when it closes. JSON only."""
    reward: Points
    score: Points
    outcome: Outcome
    policy: str
    settings: dict[str, Any] = Field(default_factory=dict)
    seed: int = 0
    versions: dict[str, str] = Field(default_factory=dict)
    """Versions of environment and prompt: pins what a number means."""
    seconds: float = 0.0
    steps: int = 0
    calls: tuple[Call, ...] = ()
    diagnostics: dict[str, Any] = Field(default_factory=dict)
    """`malformed` (count), `last_error`, `truncated_observations` and what else curation reads."""
    schema_version: int = SCHEMA_VERSION


def trajectory_id(task: Task, policy: str, settings: dict[str, Any], attempt: int) -> str:
    """Identity of an attempt: the content hash of task, policy, its settings and the attempt's number."""
    return f"{task.environment}_{content_hash([task.id, policy, settings, attempt])}"


UNFINISHED = "unfinished"
"""Key of `Conversation.meta`: true where the last turn is the beginning of a reply, whose end must not be trained."""


class Conversation(Noun):
    """A list of turns to train on, whatever it came from."""

    id: str
    source: str
    turns: tuple[Turn, ...]
    tools: tuple[dict[str, Any], ...] = ()
    meta: dict[str, Any] = Field(default_factory=dict)
