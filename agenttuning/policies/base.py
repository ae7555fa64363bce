"""The policy contract: turns in, one reply out.

A policy is shared by all episodes of a worker and holds no state of an episode. One layer owns retries (the
endpoint's client); a policy raises `InfrastructureError` only when its patience is over, `ConfigurationError` when
nothing but the user can help (401, unknown model), and `BudgetExceeded` when the money that the recipe allows is spent.
"""

from dataclasses import dataclass
from typing import Any, Protocol

from agenttuning.trajectory import ToolCall, Turn


@dataclass(frozen=True)
class Reply:
    """One answer of a policy."""

    content: str
    finish_reason: str | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cached_tokens: int | None = None
    """Of the prompt tokens, those that came from the provider's prefix cache."""
    cost: float | None = None
    """Money, where the recipe has prices and the endpoint told the tokens."""
    seconds: float = 0.0
    reasoning: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    token_ids: tuple[int, ...] | None = None
    logprobs: tuple[float, ...] | None = None
    loss: bool = True
    """False for a turn that must never be trained, such as an expert's deliberate mistake."""


class Policy(Protocol):
    """Anything that answers a list of turns."""

    name: str

    @property
    def settings(self) -> dict[str, Any]:
        """What decides the replies (model, temperature, limits): part of a trajectory's identity."""
        ...

    async def act(self, turns: tuple[Turn, ...], seed: int) -> Reply:
        """Answer the turns.

        Raises:
            InfrastructureError: patience is over.
            ConfigurationError: wrong key, unknown model.
            BudgetExceeded: the money is spent.
        """
        ...

    async def aclose(self) -> None:
        """Free connections."""
        ...
