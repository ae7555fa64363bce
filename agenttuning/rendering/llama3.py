r"""Llama-3: `<|start_header_id|>role<|end_header_id|>\n\ncontent<|eot_id|>` after one `<|begin_of_text|>`.

Contents are stripped. Llama-3.1 and later put dates and tool rules into the system turn: their templates are
rendered by `template.py`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from agenttuning.rendering.pieces import Piece
from agenttuning.trajectory import Turn

START, MIDDLE, END = "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"


@dataclass(frozen=True)
class Llama3:
    """Llama-3 with the tokenizer's name of the first token."""

    bos: str = "<|begin_of_text|>"
    name: str = "llama-3"
    end: str = END

    def pieces(
        self, turns: Sequence[Turn], tools: Sequence[dict[str, Any]] = (), generate: bool = False
    ) -> list[Piece]:
        """Write plain turns down."""
        out = [Piece(self.bos, control=True)]
        for turn in turns:
            trained = bool(turn.loss)
            out += self._header(turn.role)
            out.append(Piece(turn.content.strip(), trained=trained, cut=turn.role == "assistant"))
            out.append(Piece(END, control=True, trained=trained))
        return [*out, *self._header("assistant")] if generate else out

    def _header(self, role: str) -> list[Piece]:
        return [Piece(START, control=True), Piece(role), Piece(MIDDLE, control=True), Piece("\n\n")]


def candidates(opening: str, bos: str | None) -> list[Llama3]:
    """Return the variants that may have written `opening`, the template's text for one user turn."""
    return [Llama3(bos)] if bos and opening.startswith(bos + START) else []
