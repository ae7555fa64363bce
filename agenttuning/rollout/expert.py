"""The environments' experts as policies: they play through the same text as any model.

The expert's generator runs beside its environment (see `EnvironmentHost.move`), also where that is another process;
its move is formatted by the environment and parsed again like any reply. So an expert that its environment cannot
read is found out at once.
"""

from collections.abc import Awaitable, Callable
from typing import Any

from agenttuning.environments.base import Environment
from agenttuning.policies.base import Reply
from agenttuning.recipe import PolicySpec
from agenttuning.rollout.isolation import Seat
from agenttuning.trajectory import Turn

Act = Callable[[tuple[Turn, ...], int], Awaitable[Reply]]
"""What answers the turns of one episode: `Policy.act`, or an expert bound to its seat."""

EXPERT = "expert"
"""The name of the expert as a policy."""


def expert_act(seat: Seat, episode_seed: int) -> Act:
    """Return what plays `seat`'s episode by its environment's expert, seeded for the whole episode."""

    async def act(turns: tuple[Turn, ...], seed: int) -> Reply:
        move = await seat.move(episode_seed)
        return Reply(content=move.text, finish_reason="stop", loss=move.loss)

    return act


def identity(spec: PolicySpec) -> tuple[str, dict[str, Any]]:
    """Return the name and the settings of a policy that are part of a trajectory's identity."""
    if spec.kind == "expert":
        return EXPERT, {"mistake_rate": spec.mistake_rate}
    sampling = {"temperature": spec.temperature, "top_p": spec.top_p, "max_tokens": spec.max_tokens}
    return str(spec.model), {"model": spec.model, **sampling}


def environment_settings(cls: type[Environment], settings: dict[str, Any], spec: PolicySpec) -> dict[str, Any]:
    """Return an environment's settings, with the expert's `mistake_rate` where it has the field and none is given."""
    if spec.kind == "expert" and "mistake_rate" in cls.Settings.model_fields:
        return {"mistake_rate": spec.mistake_rate, **settings}
    return settings
