"""What a template family is: turns in, a flat list of pieces out.

A piece is a stretch of text that is either one control token of the template or plain text that never becomes one,
and it knows whether it is trained. Families are pure text; tokenising is `renderer.py`'s, so that ids and mask come
from the same pass.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from agenttuning.errors import DataError
from agenttuning.trajectory import Turn


@dataclass(frozen=True)
class Piece:
    """A stretch of a rendered conversation."""

    text: str
    control: bool = False
    """The text is one control token. Plain text stays plain, whatever it spells."""
    trained: bool = False
    cut: bool = False
    """No token may reach over the start of this piece: here the model starts to generate."""


@dataclass(frozen=True)
class Rendered:
    """Token ids int32 [T] and the loss mask bool [T]: true where the token is a training target."""

    ids: npt.NDArray[np.int32]
    mask: npt.NDArray[np.bool_]


class Family(Protocol):
    """One way of writing conversations down."""

    @property
    def name(self) -> str:
        """Name for messages and reports."""
        ...

    @property
    def end(self) -> str:
        """The control token that ends an assistant turn."""
        ...

    def pieces(
        self, turns: Sequence[Turn], tools: Sequence[dict[str, Any]] = (), generate: bool = False
    ) -> list[Piece]:
        """Write `turns` down, with the generation prompt at the end when `generate`.

        Raises:
            DataError: the family cannot express a turn.
        """
        ...


def needs_template(turns: Sequence[Turn], tools: Sequence[dict[str, Any]]) -> str | None:
    """Say what goes beyond plain system, user and assistant text, or None where nothing does."""
    if tools:
        return "tools are offered"
    for number, turn in enumerate(turns):
        if turn.role == "tool":
            return f"turn {number} has the role `tool`"
        if turn.tool_calls:
            return f"turn {number} has tool calls"
        if turn.reasoning:
            return f"turn {number} has reasoning apart from its content"
        if turn.name:
            return f"turn {number} has a speaker's name"
    return None


def check_loss(turns: Sequence[Turn]) -> None:
    """Refuse what no family may train.

    Raises:
        DataError: there is no turn, or a turn that is not the assistant's asks for loss.
    """
    if not turns:
        raise DataError("a conversation needs at least one turn")
    for number, turn in enumerate(turns):
        if turn.loss and turn.role != "assistant":
            raise DataError(f"turn {number}: only assistant turns are trained, got loss=true on {turn.role!r}")


def message(turn: Turn) -> dict[str, Any]:
    """Return a plain turn as the message that chat templates read."""
    return {"role": turn.role, "content": turn.content}
