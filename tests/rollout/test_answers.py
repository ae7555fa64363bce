import asyncio
import threading
from collections import Counter

import pytest
from fake_endpoint import Fault, completion, fake_endpoint

from agenttuning.errors import ConfigurationError, InfrastructureError
from agenttuning.policies.base import Reply
from agenttuning.policies.endpoint import EndpointPolicy
from agenttuning.policies.serving import Endpoint
from agenttuning.recipe import SelfAnswers
from agenttuning.rollout.answers import answer_all, broken, prompt_seed, self_answers
from agenttuning.trajectory import Conversation, Turn

SPEC = SelfAnswers(concurrency=4, temperature=0.5, max_tokens=20)


def prompt(identifier, *questions, system=None):
    turns = [Turn(role="system", content=system)] if system else []
    turns += [Turn(role="user", content=q) for q in questions]
    return Conversation(id=identifier, source="bundled", turns=tuple(turns), meta={"topic": "toys"})


def answers(fake, prompts, spec=SPEC, seed=3, on_progress=None):
    return list(self_answers(Endpoint(fake.base_url, "toy-model"), prompts, spec, seed, on_progress))


def echo(body, number):
    return f"You asked: {body['messages'][-1]['content']}"


def test_single_and_multi_turn_prompts_are_answered_turn_by_turn():
    prompts = [prompt("one", "What is rain?"), prompt("two", "Name a tree.", "And another?", system="Be brief.")]
    with fake_endpoint(echo) as fake:
        found = {c.id: c for c in answers(fake, prompts)}
        assert {r["temperature"] for r in fake.requests} == {0.5}
        assert {r["max_tokens"] for r in fake.requests} == {20}
        assert max(len(r["messages"]) for r in fake.requests) == 4
    assert [(t.role, t.loss) for t in found["one"].turns] == [("user", None), ("assistant", True)]
    assert found["one"].turns[1].content == "You asked: What is rain?"
    assert [t.role for t in found["two"].turns] == ["system", "user", "assistant", "user", "assistant"]
    assert found["two"].source == "self"
    assert found["two"].meta == {"topic": "toys", "answered_by": "toy-model"}


def test_given_answers_stay_and_are_not_trained():
    turns = (
        Turn(role="user", content="Hi"),
        Turn(role="assistant", content="Hello.", loss=True),
        Turn(role="user", content="Why?"),
    )
    with fake_endpoint(echo) as fake:
        (found,) = answers(fake, [Conversation(id="x", source="s", turns=turns)])
    assert [t.loss for t in found.turns] == [None, False, None, True]
    assert len(fake.requests) == 1


def test_what_must_not_be_learned_is_dropped_and_counted():
    replies = {
        "empty": "  ",
        "refuse": "I'm sorry, but I can't help with that.",
        "circle": "round and round it goes " * 12,
        "good": " Fine. ",
    }
    notes = []
    prompts = [prompt(name, name) for name in replies]
    with fake_endpoint(lambda body, n: replies[body["messages"][-1]["content"]]) as fake:
        found = answers(fake, prompts, on_progress=lambda done, note: notes.append((done, note)))
    assert [(c.id, c.turns[1].content) for c in found] == [("good", "Fine.")]
    assert notes[-1] == (4, "dropped 1 degenerate, dropped 1 empty, dropped 1 refusal")


def test_an_answer_at_the_token_limit_ends_its_conversation_unfinished():
    cut = completion("It goes on and", finish_reason="length")
    with fake_endpoint(lambda body, n: cut if body["messages"][-1]["content"] == "long" else "Good.") as fake:
        whole, begun = sorted(answers(fake, [prompt("a", "x"), prompt("b", "x", "long", "y")]), key=lambda c: c.id)
        assert len(fake.requests) == 3
    assert "unfinished" not in whole.meta
    assert begun.meta["unfinished"] is True
    assert [t.content for t in begun.turns] == ["x", "Good.", "long", "It goes on and"]
    assert begun.turns[-1].loss


def test_a_conversation_is_kept_up_to_its_last_good_answer():
    with fake_endpoint(lambda body, n: "" if body["messages"][-1]["content"] == "bad" else "Good.") as fake:
        (found,) = answers(fake, [prompt("x", "a", "b", "bad", "c")])
        assert len(fake.requests) == 3
    assert [t.content for t in found.turns] == ["a", "Good.", "b", "Good."]


def test_seeds_are_of_the_run_and_the_prompt():
    with fake_endpoint(echo) as fake:
        answers(fake, [prompt("one", "a"), prompt("two", "a", "b")])
        first = Counter(r["seed"] for r in fake.requests)
        fake.requests.clear()
        answers(fake, [prompt("two", "a", "b"), prompt("one", "a")])
        assert Counter(r["seed"] for r in fake.requests) == first
        fake.requests.clear()
        answers(fake, [prompt("one", "a")], seed=4)
        assert fake.requests[0]["seed"] not in first
    assert len(first) == 3


def test_no_more_than_the_asked_requests_are_in_flight():
    async def slowly(body, number):
        await asyncio.sleep(0.05)
        return echo(body, number)

    with fake_endpoint(slowly) as fake:
        assert len(answers(fake, [prompt(str(i), f"q{i}") for i in range(20)])) == 20
        assert 2 <= fake.most_in_flight <= 4


def test_errors_reach_the_caller_and_leave_no_thread():
    before = threading.active_count()
    with (
        fake_endpoint(lambda body, n: Fault(404, "no model")) as fake,
        pytest.raises(ConfigurationError, match=r"policy\.model"),
    ):
        answers(fake, [prompt(str(i), "q") for i in range(9)])
    assert not any(t.name == "self-answers" for t in threading.enumerate())
    assert threading.active_count() <= before


def test_a_reader_that_stops_early_stops_the_work():
    async def slowly(body, number):
        await asyncio.sleep(0.05)
        return "Fine."

    with fake_endpoint(slowly) as fake:
        work = self_answers(Endpoint(fake.base_url, "toy-model"), [prompt(str(i), "q") for i in range(200)], SPEC, 0)
        next(work)
        work.close()
        assert len(fake.requests) < 50
    assert not any(t.name == "self-answers" for t in threading.enumerate())


def test_answer_all_keeps_the_order_and_raises_the_first_error():
    prompts = [(f"p{i}", (Turn(role="user", content=f"q{i}"),)) for i in range(6)]

    def run(script, **more):
        async def main():
            policy = EndpointPolicy(fake.base_url, "toy-model", patience_s=0.2, **more)
            try:
                return await answer_all(policy, prompts, 3, lambda i, reply: done.append(i), seed=1)
            finally:
                await policy.aclose()

        with fake_endpoint(script) as fake:
            return asyncio.run(main())

    done = []
    replies = run(echo)
    assert [(i, r.content) for i, r in replies] == [(f"p{i}", f"You asked: q{i}") for i in range(6)]
    assert sorted(done) == [f"p{i}" for i in range(6)]
    with pytest.raises(InfrastructureError, match="patience"):
        run(lambda body, n: Fault(503, "down"))


def test_why_an_answer_is_broken():
    assert broken(Reply(content="Fine.", finish_reason="stop")) is None
    assert broken(Reply(content="It goes on", finish_reason="length")) is None
    assert broken(Reply(content="", finish_reason="context")) == "empty"
    assert broken(Reply(content="No.", finish_reason="content_filter")) == "refusal"
    assert prompt_seed(1, "a") != prompt_seed(1, "b")
