"""The bundled material of the general probe: dialogues with good answers, and instructions that code can check.

Written for this project, by people's standards and not by any model under test, and of another origin than the
mixture's instructions. `general_dialogues.jsonl` holds `{"id", "category", "messages": [{"role", "content"}]}`,
`general_instructions.jsonl` holds `{"id", "prompt", "checks": [{"kind", ...}]}`.
"""

from collections.abc import Sequence
from importlib.resources import files
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from agenttuning.errors import DataError
from agenttuning.progress import say
from agenttuning.trajectory import Role, Turn

DIALOGUES = "general_dialogues.jsonl"
INSTRUCTIONS = "general_instructions.jsonl"


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Message(_Record):
    """One message of a dialogue."""

    role: Role
    content: str


class Dialogue(_Record):
    """A bundled dialogue with a good answer."""

    id: str
    category: str
    messages: tuple[Message, ...]

    def turns(self) -> tuple[Turn, ...]:
        """Return the dialogue as turns, with loss on every assistant turn."""
        loss = {"assistant": True}
        return tuple(Turn(role=m.role, content=m.content, loss=loss.get(m.role)) for m in self.messages)


class Instruction(_Record):
    """A bundled instruction whose answer code can check."""

    id: str
    prompt: str
    checks: tuple[dict[str, Any], ...]
    """At least one; see `agenttuning.evaluation.checks`."""

    @property
    def category(self) -> str:
        """What it asks for first: the kind of its first check."""
        return str(self.checks[0]["kind"])


R = TypeVar("R", bound=_Record)


def bundled_dialogues(count: int) -> list[Dialogue]:
    """Return `count` bundled dialogues, spread evenly over the file: the same for the same count.

    Raises:
        DataError: the installed file is damaged.
    """
    return spread(_read(DIALOGUES, Dialogue), count, "general_dialogues")


def bundled_instructions(count: int) -> list[Instruction]:
    """Return `count` bundled instructions, spread evenly over the file: the same for the same count.

    Raises:
        DataError: the installed file is damaged.
    """
    return spread(_read(INSTRUCTIONS, Instruction), count, "general_instructions")


def spread(records: Sequence[R], count: int, key: str) -> list[R]:
    """Return `count` of the records at even distances, in order; all of them, and says so, where there are fewer."""
    if count > len(records):
        say(f"evaluation.{key} is {count}, but {len(records)} are bundled: using those")
        count = len(records)
    return [records[index * len(records) // count] for index in range(count)]


def _read(name: str, kind: type[R]) -> list[R]:
    text = files("agenttuning.evaluation").joinpath("data", name).read_text(encoding="utf-8")
    try:
        return [kind.model_validate_json(line) for line in text.splitlines() if line.strip()]
    except ValidationError as error:
        raise DataError(f"{name}: damaged ({str(error).splitlines()[0]}); install agenttuning again") from error
