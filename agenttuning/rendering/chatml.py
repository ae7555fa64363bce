r"""ChatML: `<|im_start|>role\ncontent<|im_end|>\n`, optionally with a system turn that the template adds by itself.

SmolLM2, Qwen2.5 and many others write plain conversations this way. The newline after `<|im_end|>` is not trained:
generation stops before it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from agenttuning.rendering.pieces import Piece
from agenttuning.trajectory import Turn

START, END = "<|im_start|>", "<|im_end|>"


@dataclass(frozen=True)
class ChatML:
    """ChatML with what templates vary.

    Attributes:
        default_system: content of the system turn that the template adds where a conversation has none.
        bos: control token before everything, or None.
        trim: whether the template strips contents.
    """

    default_system: str | None = None
    bos: str | None = None
    trim: bool = False
    name: str = "chatml"
    end: str = END

    def pieces(
        self, turns: Sequence[Turn], tools: Sequence[dict[str, Any]] = (), generate: bool = False
    ) -> list[Piece]:
        """Write plain turns down."""
        out = [Piece(self.bos, control=True)] if self.bos else []
        if self.default_system is not None and (not turns or turns[0].role != "system"):
            out += self._turn("system", self.default_system, trained=False)
        for turn in turns:
            content = turn.content.strip() if self.trim else turn.content
            out += self._turn(turn.role, content, trained=bool(turn.loss))
        if generate:
            out += [Piece(START, control=True), Piece("assistant\n")]
        return out

    def _turn(self, role: str, content: str, trained: bool) -> list[Piece]:
        return [
            Piece(START, control=True),
            Piece(f"{role}\n"),
            Piece(content, trained=trained, cut=role == "assistant"),
            Piece(END, control=True, trained=trained),
            Piece("\n"),
        ]


def candidates(opening: str, bos: str | None) -> list[ChatML]:
    """Return the variants that may have written `opening`, the template's text for one user turn."""
    lead = bos if bos and opening.startswith(bos + START) else None
    rest = opening.removeprefix(lead or "")
    if not rest.startswith(START):
        return []
    system = None
    if rest.startswith(f"{START}system\n"):
        system = rest.removeprefix(f"{START}system\n").partition(END)[0]
    return [ChatML(system, lead, trim) for trim in (False, True)]
