"""Failure modes of episodes, as code: what went wrong, told from the stored trajectory alone.

The paper shows how often agents fail by invalid actions, by short-term and long-term repetition and by refusing to
answer, but not the rules. These are the rules here:

- invalid action: a reply that the parser refused, or an episode that ended on such replies.
- action error: a well-formed action that failed (an SQL error, an inadmissible command), as the environment said.
- short-term repetition: the same reply three times in a row (the paper's harness ends an episode there).
- long-term repetition: the same action with the same result three times, not all in a row.
- refusal: an episode that ended on one, or without any action and with a reply worded as one.
- cut reply: a reply that reached the token limit.

`signs` lists everything seen in an episode, successful or not; `primary_mode` names the one reason a failed
episode is counted under, so that a table's columns add up to its failed episodes.
"""

from collections import Counter
from collections.abc import Iterable
from enum import StrEnum

from agenttuning.curation.rules import Played, played
from agenttuning.rollout.text_checks import is_refusal
from agenttuning.trajectory import Outcome, Trajectory

SUCCESS_REWARD = 1.0 - 1e-9
"""An episode succeeds at full reward; curation thresholds do not enter a score."""
REPEATS = 3
"""How often a reply or a step recurs before it counts as repetition (the paper's rule for a row)."""


class FailureMode(StrEnum):
    """Why an episode failed."""

    WRONG_RESULT = "wrong_result"
    INVALID_ACTION = "invalid_action"
    ACTION_ERROR = "action_error"
    SHORT_REPETITION = "short_repetition"
    LONG_REPETITION = "long_repetition"
    STEP_LIMIT = "step_limit"
    CONTEXT_LIMIT = "context_limit"
    REFUSAL = "refusal"
    CUT_REPLY = "cut_reply"
    ENVIRONMENT_FAILURE = "environment_failure"
    POLICY_FAILURE = "policy_failure"


_BY_OUTCOME = {
    Outcome.ENVIRONMENT_FAILURE: FailureMode.ENVIRONMENT_FAILURE,
    Outcome.POLICY_FAILURE: FailureMode.POLICY_FAILURE,
    Outcome.REFUSED: FailureMode.REFUSAL,
    Outcome.CONTEXT_LIMIT: FailureMode.CONTEXT_LIMIT,
    Outcome.REPETITION: FailureMode.SHORT_REPETITION,
    Outcome.INVALID_ACTION: FailureMode.INVALID_ACTION,
    Outcome.STEP_LIMIT: FailureMode.STEP_LIMIT,
}


def succeeded(trajectory: Trajectory) -> bool:
    """Return whether the episode reached full reward."""
    return trajectory.reward >= SUCCESS_REWARD


def signs(trajectory: Trajectory) -> frozenset[FailureMode]:
    """Return every sign of trouble in the episode, in no order; a success may show some too."""
    steps = played(trajectory)
    malformed = int(trajectory.diagnostics.get("malformed", 0))
    found: set[FailureMode] = set()
    if trajectory.outcome is not Outcome.COMPLETED:
        found.add(_BY_OUTCOME[trajectory.outcome])
    if malformed:
        found.add(FailureMode.INVALID_ACTION)
    if trajectory.diagnostics.get("error_steps"):
        found.add(FailureMode.ACTION_ERROR)
    if _longest_row([step.reply.strip() for step in steps]) >= REPEATS:
        found.add(FailureMode.SHORT_REPETITION)
    if _circles(steps):
        found.add(FailureMode.LONG_REPETITION)
    if steps and malformed >= len(steps) and any(is_refusal(step.reply) for step in steps):
        found.add(FailureMode.REFUSAL)
    if any(call.finish_reason == "length" for call in trajectory.calls):
        found.add(FailureMode.CUT_REPLY)
    return frozenset(found)


def primary_mode(trajectory: Trajectory) -> FailureMode | None:
    """Return the one mode a failed episode counts under, or None for a success.

    The outcome decides where it names the reason; an episode that ran out of steps counts under what it spent
    them on, where that is plain.
    """
    if succeeded(trajectory):
        return None
    seen, outcome = signs(trajectory), trajectory.outcome
    if outcome is Outcome.COMPLETED:
        return FailureMode.WRONG_RESULT
    if outcome not in (Outcome.INVALID_ACTION, Outcome.STEP_LIMIT):
        return _BY_OUTCOME[outcome]
    if FailureMode.REFUSAL in seen:
        return FailureMode.REFUSAL
    if outcome is Outcome.INVALID_ACTION:
        cut = bool(trajectory.calls) and trajectory.calls[-1].finish_reason == "length"
        return FailureMode.CUT_REPLY if cut else FailureMode.INVALID_ACTION
    for mode in (FailureMode.SHORT_REPETITION, FailureMode.LONG_REPETITION):
        if mode in seen:
            return mode
    mostly_malformed = int(trajectory.diagnostics.get("malformed", 0)) * 2 > trajectory.steps
    return FailureMode.INVALID_ACTION if mostly_malformed else FailureMode.STEP_LIMIT


def count_modes(trajectories: Iterable[Trajectory]) -> dict[str, int]:
    """Return how many episodes failed by each primary mode, most frequent first."""
    counts = Counter(mode.value for t in trajectories if (mode := primary_mode(t)) is not None)
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def count_signs(trajectories: Iterable[Trajectory]) -> dict[str, int]:
    """Return how many episodes show each sign, most frequent first; one episode may count several times."""
    counts = Counter(mode.value for t in trajectories for mode in signs(t))
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def _longest_row(values: list[str]) -> int:
    longest = row = 0
    for index, value in enumerate(values):
        row = row + 1 if index and value == values[index - 1] else 1
        longest = max(longest, row)
    return longest


def _circles(steps: list[Played]) -> bool:
    places: dict[tuple[bytes, str], list[int]] = {}
    for index, step in enumerate(steps):
        if step.observation is not None:
            places.setdefault((step.action, step.observation.strip()), []).append(index)
    return any(len(at) >= REPEATS and at[-1] - at[0] >= len(at) for at in places.values())
