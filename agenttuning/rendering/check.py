"""Compare a renderer with the tokenizer's own `apply_chat_template`, token by token, on given conversations.

Where the two differ on purpose nothing is compared, and the reason is counted: control tokens spelled inside a content
(text here, control tokens there), and replies that begin with white space which the template would join with its
generation prompt.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from agenttuning.errors import DataError
from agenttuning.rendering.pieces import needs_template
from agenttuning.rendering.renderer import Renderer
from agenttuning.rendering.template import apply, encode_message, special_tokens
from agenttuning.trajectory import Conversation


@dataclass(frozen=True)
class CheckResult:
    """What a check found.

    Attributes:
        equal: conversations whose tokens are all equal.
        different: for each other one, its id and the first position that differs.
        not_checked: reasons and how often each kept a conversation from being compared.
    """

    equal: int = 0
    different: tuple[tuple[str, int], ...] = ()
    not_checked: dict[str, int] = field(default_factory=dict)

    def __str__(self) -> str:
        parts = [f"{self.equal} equal to the chat template"]
        if self.different:
            first = ", ".join(f"{name} at token {at}" for name, at in self.different[:3])
            parts.append(f"{len(self.different)} different ({first})")
        parts += [f"{count} not checked: {reason}" for reason, count in sorted(self.not_checked.items())]
        return "; ".join(parts)


def check_renderer(renderer: Renderer, tokenizer: Any, conversations: Iterable[Conversation]) -> CheckResult:
    """Render every conversation both ways and compare the ids.

    Raises:
        DataError: the renderer cannot express a conversation; the message names it.
    """
    equal, different, skipped = 0, list[tuple[str, int]](), Counter[str]()
    specials = special_tokens(tokenizer)
    for conversation in conversations:
        turns = conversation.turns
        try:
            ours = renderer.render(turns, conversation.tools).ids.tolist()
        except DataError as error:
            raise DataError(f"conversation {conversation.id}: {error}") from error
        if any(special in turn.content for turn in turns for special in specials):
            skipped["a content spells a control token, which stays text here"] += 1
            continue
        try:
            messages = [encode_message(turn, number) for number, turn in enumerate(turns)]
            text = apply(tokenizer, messages, conversation.tools, False)
        except DataError as error:
            skipped[str(error)] += 1
            continue
        theirs = tokenizer(text, add_special_tokens=False)["input_ids"]
        if ours == theirs:
            equal += 1
        elif any(t.role == "assistant" and t.content[:1].isspace() for t in turns) and not needs_template(turns, ()):
            skipped["a reply begins with white space, which is kept apart from the generation prompt"] += 1
        else:
            at = next((i for i, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), None)
            different.append((conversation.id, min(len(ours), len(theirs)) if at is None else at))
    return CheckResult(equal, tuple(different), dict(skipped))
