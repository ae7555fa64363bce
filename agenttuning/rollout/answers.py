"""Answers of a served model to instructions: the default general source (self-distillation).

Many conversations are in flight at once; a conversation of several instructions is answered turn by turn, each answer
seen by the next. What a model must not learn from itself is dropped and counted: empty answers, refusals, and
degenerate repetition. An answer that reached the token limit is kept as the beginning it is: its conversation ends
there and is marked `unfinished`, so that the end of turn, which the model did not choose, is not trained. Dropping it
would teach the model to be brief.
"""

import asyncio
import contextlib
import queue
import threading
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from typing import Any, TypeVar

from agenttuning.policies.base import Policy, Reply
from agenttuning.policies.endpoint import EndpointPolicy
from agenttuning.policies.serving import Endpoint
from agenttuning.policies.wire import CONTEXT, REFUSED
from agenttuning.recipe import SelfAnswers
from agenttuning.rollout.text_checks import is_degenerate, is_refusal
from agenttuning.trajectory import UNFINISHED, Conversation, Turn, content_hash

T = TypeVar("T")

REASONS = ("empty", "refusal", "degenerate")
"""Why an answer is dropped."""

OnAnswered = Callable[[int, str], None]
"""Called with the conversations done and a note that counts the dropped answers by reason."""


async def answer_all(
    policy: Policy,
    prompts: Sequence[tuple[str, tuple[Turn, ...]]],
    concurrency: int,
    on_done: Callable[[str, Reply], None] | None = None,
    *,
    seed: int = 0,
) -> list[tuple[str, Reply]]:
    """Answer each prompt once, `concurrency` at a time; results keep the order of the prompts.

    Args:
        policy: what answers.
        prompts: pairs of an id and the turns to answer.
        concurrency: requests in flight.
        on_done: called with id and reply as each is done.
        seed: each prompt's own seed is made of this and its id.

    Raises:
        InfrastructureError: the policy's patience is over.
        ConfigurationError: nothing but the user can help.
    """
    slots = asyncio.Semaphore(concurrency)

    async def answer(identifier: str, turns: tuple[Turn, ...]) -> tuple[str, Reply]:
        async with slots:
            reply = await policy.act(turns, prompt_seed(seed, identifier))
        if on_done is not None:
            on_done(identifier, reply)
        return identifier, reply

    return await _together([answer(identifier, turns) for identifier, turns in prompts])


def self_answers(
    endpoint: Endpoint,
    instructions: Iterable[Conversation],
    spec: SelfAnswers,
    seed: int,
    on_progress: OnAnswered | None = None,
) -> Iterator[Conversation]:
    """Yield the model's own answers to instructions, in the order in which they are finished.

    A conversation is kept up to its last good answer and dropped where it has none. A broken answer counts once. One
    that ends in an answer at the token limit has `meta["unfinished"]` (see `encode`).

    Args:
        endpoint: the served model.
        instructions: conversations whose user turns ask (a system turn may precede them; assistant turns that are
            given already stay as they are, untrained).
        spec: sampling and concurrency.
        seed: decides the samples, together with each conversation's id.
        on_progress: see `OnAnswered`; called from another thread.

    Raises:
        InfrastructureError: the endpoint failed for longer than the policy's patience.
        ConfigurationError: the endpoint refuses.
    """
    asked = list(instructions)
    finished: queue.SimpleQueue[Conversation | BaseException | None] = queue.SimpleQueue()
    loop = asyncio.new_event_loop()
    work = loop.create_task(_answer_conversations(endpoint, asked, spec, seed, finished, on_progress))

    def run() -> None:
        try:
            loop.run_until_complete(work)
            finished.put(None)
        except BaseException as error:
            finished.put(error)
        finally:
            loop.close()

    thread = threading.Thread(target=run, name="self-answers", daemon=True)
    thread.start()
    try:
        while (item := finished.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(work.cancel)
        thread.join()


async def _answer_conversations(
    endpoint: Endpoint,
    asked: list[Conversation],
    spec: SelfAnswers,
    seed: int,
    finished: queue.SimpleQueue[Conversation | BaseException | None],
    on_progress: OnAnswered | None,
) -> None:
    policy = EndpointPolicy(
        endpoint.base_url,
        endpoint.model,
        temperature=spec.temperature,
        max_tokens=spec.max_tokens,
        send_seed=endpoint.takes_seed,
    )
    slots = asyncio.Semaphore(spec.concurrency)
    dropped: Counter[str] = Counter()
    done = 0

    async def answer(prompt: Conversation) -> None:
        nonlocal done
        async with slots:
            conversation = await _answer_turns(policy, prompt, seed, dropped)
        done += 1
        if conversation is not None:
            finished.put(conversation)
        if on_progress is not None:
            on_progress(done, ", ".join(f"dropped {count} {reason}" for reason, count in sorted(dropped.items())))

    try:
        await _together([answer(prompt) for prompt in asked])
    finally:
        await policy.aclose()


async def _answer_turns(
    policy: EndpointPolicy, prompt: Conversation, seed: int, dropped: Counter[str]
) -> Conversation | None:
    turns: list[Turn] = []
    good = 0
    unfinished = False
    for index, turn in enumerate(prompt.turns):
        turns.append(turn.model_copy(update={"loss": False}) if turn.role == "assistant" else turn)
        following = prompt.turns[index + 1 : index + 2]
        if turn.role != "user" or (following and following[0].role == "assistant"):
            continue
        reply = await policy.act(tuple(turns), prompt_seed(seed, prompt.id) + index)
        if (reason := broken(reply)) is not None:
            dropped[reason] += 1
            break
        turns.append(Turn(role="assistant", content=reply.content.strip(), loss=True))
        good = len(turns)
        unfinished = reply.finish_reason in ("length", CONTEXT)
        if unfinished:
            break
    if not good:
        return None
    meta = {**prompt.meta, "answered_by": policy.name, **({UNFINISHED: True} if unfinished else {})}
    return Conversation(id=prompt.id, source="self", turns=tuple(turns[:good]), meta=meta)


def broken(reply: Reply) -> str | None:
    """Return why an answer must not be learned from (one of `REASONS`), or None."""
    text = reply.content.strip()
    if not text:
        return "empty"
    if reply.finish_reason == REFUSED or is_refusal(text):
        return "refusal"
    return "degenerate" if is_degenerate(text) else None


def prompt_seed(seed: int, identifier: str) -> int:
    """Return the seed of one prompt: 31 bits."""
    return int(content_hash([seed, identifier], length=8), 16) & 0x3FFFFFFF


async def _together(work: list[Coroutine[Any, Any, T]]) -> list[T]:
    """Run coroutines together; the first error ends the others and is raised as it is."""
    running = [asyncio.create_task(coroutine) for coroutine in work]
    try:
        return await asyncio.gather(*running)
    except BaseException:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        raise
