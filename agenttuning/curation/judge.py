"""Judge one trajectory: ask the rules in order, mend or drop, and work out what later comparisons need.

Pure: the result depends on the trajectory, the recipe and the evaluation index alone.
"""

from dataclasses import dataclass, field

import orjson

from agenttuning.conversations.agentinstruct import to_agentinstruct
from agenttuning.conversations.openai_messages import to_messages
from agenttuning.conversations.trajectories import LICENCE, TEACHER_TERMS, conversation_from_trajectory
from agenttuning.curation.contamination import EvaluationIndex, Span, contaminated_spans, worst_sample
from agenttuning.curation.mending import mended
from agenttuning.curation.minhash import WINDOW_SHORT, Signature, signature, signature_of
from agenttuning.curation.rating import rated
from agenttuning.curation.rules import CONTAMINATION, NEAR_DUPLICATE, NEAR_TASK, RULES, SCRUB
from agenttuning.curation.scrub import scrub, scrubbed_text
from agenttuning.curation.steps import Objection, first_task_turn
from agenttuning.curation.words import Hashes, token_hashes, tokens
from agenttuning.errors import DataError
from agenttuning.recipe import Recipe
from agenttuning.trajectory import Trajectory, content_hash

FAILURES = ("reward", "form")
"""Rules whose drops are failures of the task, for pairs."""


@dataclass(frozen=True)
class Judged:
    """One trajectory after the rules that need no other one."""

    trajectory: Trajectory
    """Mended and masked, with its licence and its teacher's terms."""
    task: str
    """Id of the task as it was played; masking changes what the trajectory carries."""
    rule: str | None
    """The rule that dropped it; None where all keep it."""
    reason: str | None
    mends: dict[str, str] = field(default_factory=dict)
    """`cut` or `mask`, by the rule that asked for it."""
    masked: dict[str, int] = field(default_factory=dict)
    """How many different values of each kind were scrubbed."""
    spans: list[Span] = field(default_factory=list)
    """What it contaminates of the evaluation splits."""
    digest: str = ""
    """Equal for trajectories of one task with equal turns."""
    text_signature: Signature | None = None
    task_signature: Signature | None = None


def judge(trajectory: Trajectory, recipe: Recipe, names: tuple[str, ...], index: EvaluationIndex | None) -> Judged:
    """Judge one trajectory by the rules of those names.

    Raises:
        ConfigurationError: its environment is not in the recipe.
        DataError: it plays a test task.
    """
    if trajectory.task.split != "train":
        raise DataError(
            f"trajectory {trajectory.id} plays a task of the split {trajectory.task.split!r}: test tasks are never "
            "learned from; curate the trajectories of train tasks"
        )
    options, task = recipe.curation, trajectory.task.id
    trajectory = rated(trajectory)
    mends: dict[str, str] = {}
    masked: dict[str, int] = {}
    compared = _Compared()
    for name in names:
        objection: Objection | None = None
        if name == SCRUB:
            trajectory, masked = scrub(trajectory)
        elif name == CONTAMINATION and index is not None:
            compared.against(trajectory, index)
            objection = contamination(compared.spans, index, options.max_contamination)
        elif name in RULES:
            objection = RULES[name](trajectory, recipe)
        if objection is None:
            continue
        how = options.bad_turns.get(name, options.on_bad_turn)
        better = mended(trajectory, objection.turns, how)
        if better is None:
            reason = objection.reason
            if SCRUB in names:
                # What is written of a dropped one, its reason or its side of a pair, is masked as well.
                reason = scrubbed_text(reason)
                trajectory = scrub(trajectory)[0] if options.pairs and name in FAILURES else trajectory
            return Judged(labelled(trajectory, recipe), task, name, reason, mends, masked)
        trajectory, mends[name] = better, how
        compared = _Compared()
    if index is not None:
        compared.against(trajectory, index)
    turns = [turn.model_dump(mode="json") for turn in trajectory.turns]
    return Judged(
        trajectory=labelled(trajectory, recipe),
        task=task,
        rule=None,
        reason=None,
        mends=mends,
        masked=masked,
        spans=compared.spans,
        digest=content_hash([task, turns]),
        text_signature=signature_of(compared.text(trajectory)) if NEAR_DUPLICATE in names else None,
        task_signature=signature(task_text(trajectory), WINDOW_SHORT) if NEAR_TASK in names else None,
    )


class _Compared:
    """The text of a trajectory as tokens, and what it contaminates; worked out once, when asked."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self._text: Hashes | None = None
        self._done = False

    def text(self, trajectory: Trajectory) -> Hashes:
        if self._text is None:
            self._text = token_hashes(tokens(played_text(trajectory)))
        return self._text

    def against(self, trajectory: Trajectory, index: EvaluationIndex) -> None:
        if not self._done:
            self.spans, self._done = contaminated_spans(self.text(trajectory), index), True


def contamination(spans: list[Span], index: EvaluationIndex, most: float) -> Objection | None:
    """Object to a trajectory that contaminates more than the share `most` of one evaluation sample."""
    sample, share = worst_sample(spans, index)
    if share <= most:
        return None
    split = int(index.split_of[sample])
    number = sample - int((index.split_of < split).sum())
    return Objection(f"contains {share:.0%} of sample {number} of {index.splits[split]} (at most {most:.0%})")


def played_text(trajectory: Trajectory) -> str:
    """Return the task as it was shown and all that followed: no description, no demonstration."""
    return "\n".join(turn.content for turn in trajectory.turns[first_task_turn(trajectory) :])


def task_text(trajectory: Trajectory) -> str:
    """Return the turn that shows the task, or the instruction where there is none."""
    turns = trajectory.turns
    return turns[first_task_turn(trajectory)].content if turns else trajectory.task.instruction


def labelled(trajectory: Trajectory, recipe: Recipe) -> Trajectory:
    """Return the trajectory with licence and teacher's terms in its diagnostics; what it carries already stays."""
    options, found = recipe.curation, dict(trajectory.diagnostics)
    found.setdefault(LICENCE, options.licences.get(trajectory.task.environment, "not stated"))
    found.setdefault(TEACHER_TERMS, options.teacher_terms or _policy_terms(trajectory))
    return trajectory.model_copy(update={"diagnostics": found})


def _policy_terms(trajectory: Trajectory) -> str:
    if trajectory.policy == "expert":
        return "none: the environment's own expert"
    return f"not stated: the terms of {trajectory.policy}"


def run_lines(judged: Judged) -> bytes:
    """Return what the second pass needs of a trajectory, as one line: id, digest, record and both export formats.

    The AgentInstruct record is null where the format cannot express the trajectory. The messages carry beside them
    where they were played and how it ended, so that they can be imported again.
    """
    trajectory = judged.trajectory
    conversation = conversation_from_trajectory(trajectory)
    try:
        plain = conversation.model_copy(update={"meta": {}})
        record: str | None = orjson.dumps(to_agentinstruct(plain)).decode()
    except DataError:
        record = None
    messages = orjson.dumps(to_messages(conversation)).decode()
    line = [trajectory.id, judged.digest, trajectory.model_dump_json(), record, messages]
    return orjson.dumps(line) + b"\n"
