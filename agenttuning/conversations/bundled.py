"""The bundled instructions that a base model answers itself: the default general source of the mixture.

Written for this project, under its licence. Most are one user turn, some are two: the model answers the first, then
the second. Answers are meant to be short.
"""

import random
from functools import cache
from importlib.resources import files

from pydantic import BaseModel, ConfigDict, ValidationError

from agenttuning.errors import ConfigurationError, DataError

INSTRUCTIONS = "instructions.jsonl"


class Instruction(BaseModel):
    """What a user says, turn by turn, without the answers."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    category: str
    turns: tuple[str, ...]
    """One or two user turns."""


@cache
def all_instructions() -> tuple[Instruction, ...]:
    """Return every bundled instruction in the file's order.

    Raises:
        DataError: the installed file is damaged.
    """
    text = files("agenttuning.conversations").joinpath("data", INSTRUCTIONS).read_text(encoding="utf-8")
    try:
        return tuple(Instruction.model_validate_json(line) for line in text.rstrip("\n").split("\n"))
    except ValidationError as error:
        raise DataError(f"{INSTRUCTIONS}: damaged ({str(error).splitlines()[0]}); install agenttuning again") from error


def bundled_instructions(count: int, seed: int = 0) -> tuple[Instruction, ...]:
    """Return the first `count` bundled instructions in an order that `seed` decides.

    Raises:
        ConfigurationError: there are fewer than `count`.
    """
    order = list(all_instructions())
    if count > len(order):
        raise ConfigurationError(
            f"mixture.self_answers.count is {count}, but {len(order)} instructions are bundled; "
            "lower it, or add a source of kind sharegpt"
        )
    random.Random(f"instructions {seed}").shuffle(order)
    return tuple(order[:count])
