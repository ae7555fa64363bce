"""Trajectories as conversations: the text as it was played, or the same steps as function calls.

Neither invents text. Where a trajectory came from (task, environment, reward, ...) stands in `meta`.
"""

from collections.abc import Sequence
from typing import Any

import orjson

from agenttuning.conversations.openai_messages import to_messages
from agenttuning.trajectory import Conversation, ToolCall, Trajectory, Turn

LICENCE, TEACHER_TERMS = "licence", "teacher_terms"
"""Keys of a trajectory's `diagnostics`, and of its conversation's `meta`: what its text may be used for."""


def conversation_from_trajectory(trajectory: Trajectory, source: str = "trajectories") -> Conversation:
    """Return the trajectory's turns as they were played, under its id.

    The parsed thought and action of a turn are left out: the turn's text, which they were parsed from, says both.
    """
    turns = tuple(turn.model_copy(update={"thought": None, "action": None}) for turn in trajectory.turns)
    return Conversation(id=trajectory.id, source=source, turns=turns, tools=trajectory.tools, meta=_origin(trajectory))


def tool_call_conversation(
    trajectory: Trajectory, source: str = "trajectories", tools: Sequence[dict[str, Any]] = ()
) -> Conversation:
    """Return the trajectory with its structured actions as function calls and the observations as tool turns.

    An assistant turn with an action becomes a call whose content is the thought; the turn that follows it answers
    that call. Turns without an action (the acknowledgement, malformed replies) stay text. The opening message is kept,
    so it still describes the textual grammar.

    Args:
        trajectory: whose turns carry `action`.
        source: name of the source.
        tools: JSON schemas of the functions, where the trajectory has none of its own.
    """
    turns: list[Turn] = []
    open_call: str | None = None
    for index, turn in enumerate(trajectory.turns):
        if turn.role == "assistant" and turn.action is not None and not turn.tool_calls:
            open_call = f"call_{index}"
            arguments = orjson.dumps(turn.action.arguments).decode()
            call = ToolCall(id=open_call, name=turn.action.name, arguments=arguments)
            turns.append(
                Turn(
                    role="assistant",
                    content=turn.thought or "",
                    loss=turn.loss,
                    reasoning=turn.reasoning,
                    tool_calls=(call,),
                )
            )
            continue
        if turn.role == "user" and open_call is not None:
            turns.append(Turn(role="tool", content=turn.content, tool_call_id=open_call))
        else:
            turns.append(turn.model_copy(update={"thought": None, "action": None}))
        open_call = None
    offered = trajectory.tools or tuple(tools)
    return Conversation(id=trajectory.id, source=source, turns=tuple(turns), tools=offered, meta=_origin(trajectory))


def messages_with_tool_calls(trajectory: Trajectory, tools: Sequence[dict[str, Any]] = ()) -> dict[str, Any]:
    """Return `tool_call_conversation` as a record of OpenAI messages.

    Raises:
        DataError: an assistant turn has no loss flag.
    """
    return to_messages(tool_call_conversation(trajectory, tools=tools))


def _origin(trajectory: Trajectory) -> dict[str, Any]:
    # What an imported record said beside its turns comes first: what is known here counts.
    return {
        **trajectory.diagnostics.get("meta", {}),
        "task": trajectory.task.id,
        "environment": trajectory.task.environment,
        "family": trajectory.task.family,
        "attempt": trajectory.attempt,
        "reward": trajectory.reward,
        "outcome": trajectory.outcome.value,
        "policy": trajectory.policy,
        **{key: trajectory.diagnostics[key] for key in (LICENCE, TEACHER_TERMS) if key in trajectory.diagnostics},
    }
