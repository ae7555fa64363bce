"""Llama-2-chat: `<s>[INST] user [/INST] assistant </s>`, one pair of `<s>` and `</s>` per exchange.

The family's own rules: contents are stripped, the system turn goes inside the first user turn, user and assistant
alternate, and there is no generation prompt. The spaces around the assistant's text belong to what the model
generates, so they are trained with it. `[INST]` and `<<SYS>>` are plain text in this family, not control tokens, so
nothing can tell them from the same letters inside a content.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from agenttuning.errors import DataError
from agenttuning.rendering.pieces import Piece
from agenttuning.trajectory import Turn


@dataclass(frozen=True)
class Llama2:
    """Llama-2-chat with the tokenizer's names of `<s>` and `</s>`."""

    bos: str = "<s>"
    end: str = "</s>"
    default_system: str | None = None
    name: str = "llama-2-chat"

    def pieces(
        self, turns: Sequence[Turn], tools: Sequence[dict[str, Any]] = (), generate: bool = False
    ) -> list[Piece]:
        """Write plain turns down.

        Raises:
            DataError: the turns do not alternate, or a generation prompt is asked for after an assistant turn.
        """
        system = turns[0].content if turns and turns[0].role == "system" else self.default_system
        rest = turns[1:] if turns and turns[0].role == "system" else turns
        out: list[Piece] = []
        for number, turn in enumerate(rest):
            expected = "assistant" if number % 2 else "user"
            if turn.role != expected:
                raise DataError(
                    f"{self.name}: after an optional system turn, user and assistant alternate; turn "
                    f"{number + len(turns) - len(rest)} is {turn.role!r} where {expected!r} is due. Merge or drop turns"
                )
            if turn.role == "user":
                content = turn.content
                if number == 0 and system is not None:
                    content = f"<<SYS>>\n{system}\n<</SYS>>\n\n{content}"
                out += [Piece(self.bos, control=True), Piece(f"[INST] {content.strip()} [/INST]")]
            else:
                trained = bool(turn.loss)
                out.append(Piece(f" {turn.content.strip()} ", trained=trained, cut=True))
                out.append(Piece(self.end, control=True, trained=trained))
        if not out:
            raise DataError(f"{self.name}: a conversation needs a user turn")
        if generate and rest[-1].role != "user":
            raise DataError(f"{self.name}: a reply can only follow a user turn")
        return out


def candidates(opening: str, bos: str | None, eos: str | None) -> list[Llama2]:
    """Return the variants that may have written `opening`, the template's text for one user turn."""
    if not bos or not eos or not opening.startswith(f"{bos}[INST] "):
        return []
    system = None
    if opening.startswith(f"{bos}[INST] <<SYS>>\n"):
        system = opening.partition("<<SYS>>\n")[2].partition("\n<</SYS>>")[0]
    return [Llama2(bos, eos, system)]
