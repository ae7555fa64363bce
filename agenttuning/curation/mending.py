"""What a recipe may do with a bad turn instead of dropping its trajectory: cut before it, or mask it."""

from typing import Literal

from agenttuning.trajectory import Trajectory

How = Literal["drop", "cut", "mask"]


def mended(trajectory: Trajectory, turns: tuple[int, ...], how: How) -> Trajectory | None:
    """Return the trajectory cut before the first of `turns`, or with all of them masked; None where nothing is left.

    A cut trajectory ends with the last agent turn before the bad one. A masked turn stays in the context and carries
    no loss. What has no trained turn left, and every trajectory for `drop`, is None.
    """
    if how == "drop" or not turns:
        return None
    if how == "cut":
        end = min(turns)
        while end and trajectory.turns[end - 1].role != "assistant":
            end -= 1
        calls = tuple(call for call in trajectory.calls if call.turn < end)
        result = trajectory.model_copy(update={"turns": trajectory.turns[:end], "calls": calls})
    else:
        bad = set(turns)
        kept = (t.model_copy(update={"loss": False}) if i in bad else t for i, t in enumerate(trajectory.turns))
        result = trajectory.model_copy(update={"turns": tuple(kept)})
    return result if any(turn.loss for turn in result.turns) else None
