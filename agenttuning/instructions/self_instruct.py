"""Self-instruct: a chat policy proposes tasks, and what survives reading, comparing and validation is kept.

A request shows the rules, a few examples (the given ones and tasks kept so far) and asks for new tasks as JSON. Each
proposal is read strictly, compared with all kept instructions, and validated by execution; with a `solver`, a second
policy solves it from the instruction and the set-up alone, and must agree. What is refused is counted by reason.

Requests are made in rounds: those of one round see the tasks kept before it. Each finished request is one file, so a
run that was cut off continues where it stopped and gives the same tasks, as far as the policy gives the same replies.
"""

import asyncio
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import orjson

from agenttuning.errors import DataError
from agenttuning.instructions.proposals import Proposals, Refused, read_list
from agenttuning.instructions.similarity import Seen
from agenttuning.instructions.validation import validate
from agenttuning.policies.base import Policy
from agenttuning.storage.manifest import begin_stage
from agenttuning.storage.store import Store
from agenttuning.trajectory import Task, Turn, content_hash

STAGE = "self-instruct"
KEPT = "kept"


@dataclass(frozen=True)
class Plan:
    """How much is asked for."""

    count: int
    """Tasks to keep; the run ends when they are there."""
    per_request: int = 4
    """Proposals asked for in one request."""
    parallel: int = 4
    """Requests of one round, in flight together."""
    examples: int = 3
    similarity: float = 0.6
    """Jaccard similarity of word 3-grams from which a proposal repeats a kept task."""
    max_requests: int = 1_000
    barren_rounds: int = 5
    """After so many rounds running without a kept task the run ends: the policy has no more to say."""
    seed: int = 0


@dataclass(frozen=True)
class Made:
    """What a run has made so far."""

    tasks: tuple[Task, ...]
    requests: int
    proposals: int
    counts: dict[str, int]
    """Proposals (and unreadable replies) by reason, `kept` among them."""
    complete: bool
    """Whether as many tasks were kept as the plan asks for."""


async def self_instruct(
    proposals: Proposals,
    policy: Policy,
    store: Store,
    plan: Plan,
    solver: Policy | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Made:
    """Make tasks until the plan's count is kept, or nothing more comes.

    Args:
        proposals: the environment's side; its trials' environment is used here and closed by the caller.
        policy: proposes.
        store: a directory of this run's own: `requests/<number>.json`, and `tasks.jsonl` and `report.json` at the end.
        plan: how much.
        solver: solves each proposal a second time; may be the same policy.
        on_progress: called with the tasks kept and the requests made.

    Raises:
        ConfigurationError: the store holds a run with other settings.
        InfrastructureError: a policy's patience is over; run again to continue.
    """
    key = {k: v for k, v in asdict(plan).items() if k not in ("count", "max_requests", "barren_rounds")}
    key |= {"environment": proposals.environment, "policy": [policy.name, policy.settings]}
    key |= {"solver": [solver.name, solver.settings] if solver else None, "rules": content_hash(proposals.rules())}
    begin_stage(store, STAGE, key)
    items, number, barren = list[dict[str, Any]](), 0, 0
    kept = list[Task]()
    while len(kept) < plan.count and number < plan.max_requests and barren < plan.barren_rounds:
        numbers = range(number, min(number + plan.parallel, plan.max_requests))
        asked = [_request(proposals, kept, plan, request) for request in numbers]
        stored = [_stored(store, request) for request in numbers]
        replies = await asyncio.gather(
            *(
                _reply(policy, text, plan.seed + request) if old is None else _nothing()
                for request, text, old in zip(numbers, asked, stored, strict=True)
            )
        )
        before = len(kept)
        for request, reply, old in zip(numbers, replies, stored, strict=True):
            if old is None:
                old = await _judge(proposals, reply, kept, plan, solver, plan.seed + request)
                store.write(_name(request), orjson.dumps(old))
            items += old
            kept += [Task.model_validate(item["task"]) for item in old if item["reason"] == KEPT]
        number += len(numbers)
        barren = barren + 1 if len(kept) == before else 0
        if on_progress:
            on_progress(len(kept), number)
    counts = dict(Counter(item["reason"] for item in items).most_common())
    made = Made(tuple(kept[: plan.count]), number, len(items), counts, len(kept) >= plan.count)
    store.write("tasks.jsonl", b"".join(task.model_dump_json().encode() + b"\n" for task in made.tasks))
    store.write_json(
        "report.json",
        {"tasks": len(made.tasks), "requests": number, "proposals": len(items), "counts": counts},
    )
    return made


async def _reply(policy: Policy, text: str, seed: int) -> str:
    return (await policy.act((Turn(role="user", content=text),), seed)).content


async def _nothing() -> str:
    return ""


async def _judge(
    proposals: Proposals, reply: str, kept: list[Task], plan: Plan, solver: Policy | None, seed: int
) -> list[dict[str, Any]]:
    """Return one item per proposal of a reply: `{"reason", "detail", "task"}`."""
    try:
        found = read_list(reply)
    except Refused as refused:
        return [{"reason": refused.reason, "detail": reply[:200], "task": None}]
    seen = Seen(plan.similarity)
    for earlier in kept:
        seen.add(earlier.instruction)
    items = []
    for proposal in found[: plan.per_request]:
        task, reason, detail = await _one(proposals, proposal, seen, solver, seed)
        if reason == KEPT and task is not None:
            seen.add(task.instruction)
        record = None if task is None else task.model_dump(mode="json")
        items.append({"reason": reason, "detail": detail, "task": record})
    return items


async def _one(
    proposals: Proposals, proposal: dict[str, Any], seen: Seen, solver: Policy | None, seed: int
) -> tuple[Task | None, str, str]:
    """Return the task as far as it was read, the reason (or `kept`), and a detail."""
    task: Task | None = None
    try:
        task = proposals.task(proposal)
        if repeated := seen.repeats(task.instruction):
            return task, repeated, ""
        if solver is not None:
            task = proposals.solved(task, await _reply(solver, proposals.solving(task), seed))
    except Refused as refused:
        return task, refused.reason, str(refused)
    verdict = await asyncio.to_thread(validate, task, proposals.trials)
    return task, verdict.reason.value if verdict.reason else KEPT, verdict.detail


def _request(proposals: Proposals, kept: list[Task], plan: Plan, number: int) -> str:
    """Return the text of a request: rules, drawn examples, and the subjects that were had lately."""
    rng = random.Random(f"self-instruct/{plan.seed}/{number}")
    shown = [dict(example) for example in proposals.examples]
    examples = rng.sample(shown, min(plan.examples, len(shown)))
    had = [task.instruction for task in rng.sample(kept, min(8, len(kept)))]
    parts = [
        "You write tasks that teach a language model to act.",
        proposals.rules(),
        "Examples:\n" + orjson.dumps(examples, option=orjson.OPT_INDENT_2).decode(),
    ]
    if had:
        parts.append("These were written already, write others:\n" + "\n".join(f"- {text}" for text in had))
    parts.append(f"Reply with a JSON list of {plan.per_request} new tasks, and nothing else.")
    return "\n\n".join(parts)


def _stored(store: Store, number: int) -> list[dict[str, Any]] | None:
    """Return what an earlier run made of a request, or None."""
    name = _name(number)
    if not store.exists(name):
        return None
    try:
        items: list[dict[str, Any]] = orjson.loads(store.read(name))
    except orjson.JSONDecodeError as error:
        raise DataError(f"{store.uri}/{name}: not readable as JSON ({error}); delete it and run again") from error
    return items


def _name(number: int) -> str:
    return f"requests/{number:06d}.json"
