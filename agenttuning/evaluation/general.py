"""The general probe: did tuning cost general ability? Two measures on material of another origin than the mixture.

(a) Loss on bundled dialogues that people would call good answers: teacher-forced, mean over the assistant's tokens,
rendered by the model's own chat template. (b) Success on bundled verifiable instructions (formats, counts, lists),
answered greedily through the endpoint that also plays the episodes, and checked by code (`checks`). Both were written
for this project; they are never the base model's own answers, which training on them would pass by construction.

`general.json` holds

    {"model", "confidence",
     "loss": {"mean", "tokens", "device", "dtype", "dialogues": [{"id", "category", "loss", "tokens"}]},
     "success": RATE, "by_category": {category: RATE},
     "instructions": [{"id", "category", "answer", "finish_reason", "passed", "failed": [check kinds]}]}

with `loss` in nats per token, null where a recipe asks for no dialogues. RATE is as in `held_in.json`.
"""

import asyncio
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from agenttuning.evaluation.checks import failed_checks
from agenttuning.evaluation.material import Instruction, bundled_dialogues, bundled_instructions
from agenttuning.evaluation.probe_loss import LossResult, dialogue_loss
from agenttuning.evaluation.scoring import Rate, rate_of, rates_by
from agenttuning.policies.base import Policy
from agenttuning.policies.endpoint import EndpointPolicy
from agenttuning.progress import Progress
from agenttuning.recipe import PolicySpec, Recipe
from agenttuning.storage import Store
from agenttuning.trajectory import Turn

GENERAL = "general.json"
ANSWER_TOKENS = 256
"""Completion tokens of one answer."""


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class AnswerResult(_Record):
    """One answered instruction."""

    id: str
    category: str
    answer: str
    finish_reason: str | None
    passed: bool
    failed: tuple[str, ...]


class GeneralResult(_Record):
    """The general probe of one model."""

    model: str
    confidence: float
    loss: LossResult | None
    success: Rate
    by_category: dict[str, Rate]
    instructions: tuple[AnswerResult, ...]

    def headline(self) -> dict[str, Any]:
        """Return the main figures: `{"loss", "success", "low", "high", "instructions"}`."""
        return {
            "loss": self.loss.mean if self.loss else None,
            "success": self.success.success,
            "low": self.success.low,
            "high": self.success.high,
            "instructions": self.success.episodes,
        }


def evaluate_general(base_url: str, model: str, model_dir: Path, recipe: Recipe, store: Store) -> GeneralResult:
    """Measure loss and success, write `general.json` and return the result; read it where it is written.

    Args:
        base_url: an OpenAI-compatible URL up to `/v1` where the model is served.
        model: its name there.
        model_dir: the same model as a local directory.
        recipe: how many dialogues and instructions, how many at once, and the confidence.
        store: the directory of this model's evaluation.

    Raises:
        InfrastructureError: the endpoint fails for longer than its patience.
        ConfigurationError: the endpoint refuses, or the model has no chat template that can be rendered.
    """
    if store.exists(GENERAL):
        return GeneralResult.model_validate(store.read_json(GENERAL))
    evaluation = recipe.evaluation
    questions = bundled_instructions(evaluation.general_instructions)
    dialogues = bundled_dialogues(evaluation.general_dialogues)
    answers = asyncio.run(answer_all(_policy(base_url, model), questions, evaluation.concurrency))
    loss = None
    if dialogues:
        with Progress("general loss", len(dialogues), "dialogues") as bar:
            measured = [(d.id, d.category, d.turns()) for d in dialogues]
            loss = dialogue_loss(model_dir, measured, bar.update, recipe.model.trust_remote_code)
    result = GeneralResult(
        model=model,
        confidence=evaluation.confidence,
        loss=loss,
        success=rate_of((a.passed for a in answers), evaluation.confidence),
        by_category=rates_by(((a.category, a.passed) for a in answers), evaluation.confidence),
        instructions=tuple(answers),
    )
    store.write_json(GENERAL, result.model_dump(mode="json"))
    return result


async def answer_all(policy: Policy, questions: list[Instruction], concurrency: int) -> list[AnswerResult]:
    """Ask the policy every question, `concurrency` at once, and check the answers; in the questions' order.

    Raises:
        InfrastructureError: the policy's patience is over.
        ConfigurationError: the endpoint refuses.
    """
    free = asyncio.Semaphore(concurrency)
    done = 0

    async def ask(question: Instruction, bar: Progress) -> AnswerResult:
        nonlocal done
        async with free:
            reply = await policy.act((Turn(role="user", content=question.prompt),), seed=0)
        done += 1
        bar.update(done)
        return check_answer(question, reply.content, reply.finish_reason)

    with Progress("general answers", len(questions), "answers") as bar:
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(ask(question, bar)) for question in questions]
        except* Exception as failures:
            raise failures.exceptions[0] from failures
        finally:
            await policy.aclose()
    return [task.result() for task in tasks]


def check_answer(question: Instruction, answer: str, finish_reason: str | None = None) -> AnswerResult:
    """Check one answer."""
    failed = tuple(failed_checks(list(question.checks), answer))
    return AnswerResult(
        id=question.id,
        category=question.category,
        answer=answer,
        finish_reason=finish_reason,
        passed=not failed,
        failed=failed,
    )


def _policy(base_url: str, model: str) -> EndpointPolicy:
    spec = PolicySpec(kind="endpoint", base_url=base_url, model=model, temperature=0.0, max_tokens=ANSWER_TOKENS)
    return EndpointPolicy.from_spec(spec)
