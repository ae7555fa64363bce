"""The grader: the entities (or the number) that the answer named, compared with those of the task.

Pure: it reads the ids that the environment computed when it closed, never the agent's text. Reward is 1 for exactly
the right set and 0 otherwise; score is the F1 of the two sets, the paper's metric. No answer and an empty answer are
wrong.
"""

from typing import Any

from agenttuning.environments.base import Grade

WRONG = Grade(reward=0.0, score=0.0)


def grade_evidence(payload: dict[str, Any], evidence: dict[str, Any]) -> Grade:
    """Grade an episode.

    Args:
        payload: the task's, with `answer` (ids) or `number`.
        evidence: the environment's, with `entities` (ids), `size` (how many there are) and `number`.
    """
    if payload["number"] is not None:
        right = type(evidence.get("number")) is int and evidence["number"] == payload["number"]
        return Grade(reward=1.0, score=1.0) if right else WRONG
    gold, found = set(payload["answer"]), set(evidence.get("entities") or ())
    hits = len(gold & found)
    if not hits:
        return WRONG
    precision, recall = hits / max(len(found), evidence["size"]), hits / len(gold)
    return Grade(reward=float(found == gold), score=2 * precision * recall / (precision + recall))
