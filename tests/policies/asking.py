"""How tests ask through a policy."""

import asyncio
import time
from typing import Any

from agenttuning.policies.base import Reply
from agenttuning.policies.budget import Limits, Reading
from agenttuning.policies.endpoint import EndpointPolicy
from agenttuning.policies.sharing import Sharing, local_link
from agenttuning.policies.spending import Spending
from agenttuning.trajectory import Turn

ASK = (Turn(role="user", content="What is 6 times 7?"),)


def ask(policy: EndpointPolicy, turns: tuple[Turn, ...] = ASK, seed: int = 1) -> Reply:
    """Ask once, and close the policy."""

    async def once() -> Reply:
        try:
            return await policy.act(turns, seed)
        finally:
            await policy.aclose()

    return asyncio.run(once())


def ask_many(policy: EndpointPolicy, count: int) -> list[Any]:
    """Ask at the same time, and close the policy; what is raised is returned."""

    async def many() -> list[Any]:
        try:
            return await asyncio.gather(*(policy.act(ASK, i) for i in range(count)), return_exceptions=True)
        finally:
            await policy.aclose()

    return asyncio.run(many())


class Shared:
    """The run's shared state in this process, called as a Ray actor is."""

    def __init__(self, limits: Limits | None = None, spending: Spending | None = None) -> None:
        self.sharing = Sharing(limits or Limits(), spending=spending)
        self.exchange = self
        self.remote = local_link(self.sharing)

    def read(self) -> Reading:
        """Return the state of the budget now."""
        return self.sharing.read(time.monotonic())
