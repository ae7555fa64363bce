"""The actor's side of the board where Ray loses a call, and the board's; without a cluster."""

import asyncio

import pytest
from ray.exceptions import ActorDiedError, ActorUnavailableError

from agenttuning.rollout import actor as actors
from agenttuning.rollout.actor import RolloutActor
from agenttuning.rollout.board import Board
from agenttuning.storage.index import Entry


class Method:
    """A method of the board as Ray offers it: some calls are lost on the way there, some on the way back."""

    def __init__(self, method, errors):
        self.method, self.errors, self.calls = method, errors, 0

    async def remote(self, *arguments):
        self.calls += 1
        error, arrives = self.errors.get(self.calls, (None, True))
        found = await self.method(*arguments) if arrives else None
        if error is not None:
            raise error
        return found


class Worker:
    in_flight = 1
    full: frozenset[str] = frozenset()

    def told_failures(self):
        return {("toy", "environment lost"): 2}


@pytest.fixture
def lost():
    return ActorUnavailableError("for a moment", b"1" * 16)


def entry(number, segment):
    names = {"segment": segment, "id": f"e{number}", "task": "t", "environment": "toy", "outcome": "completed"}
    counts = dict.fromkeys(("attempt", "steps", "prompt_tokens", "completion_tokens", "size"), 1)
    return Entry(**names, **counts, reward=1.0, score=1.0, cost=0.0, seconds=1.0)


def playing(monkeypatch, board, **errors):
    """An actor without its process, at a board that Ray does not always reach."""
    monkeypatch.setattr(actors, "BEAT_SECONDS", 0.01)
    bare = type("Bare", (RolloutActor,), {"__del__": lambda self: None})
    made = bare.__new__(bare)
    methods = {name: Method(getattr(board, name), errors.get(name, {})) for name in ("tell", "join", "wait_empty")}
    made._board, made._key, made._worker, made._untold = type("Handle", (), methods), "key", Worker(), []
    return made


def test_signs_of_life_go_on_after_lost_calls_and_what_was_stored_is_told_once(monkeypatch, lost):
    async def run():
        board = Board({}, {"toy": 3}, {})
        errors = {2: (lost, False), 3: (lost, True), 5: (lost, True)}
        actor = playing(monkeypatch, board, tell=errors)
        beating = asyncio.create_task(actor._beat())
        for number, segment in enumerate("abc"):
            await actor._tell([entry(number, segment)])
        await asyncio.sleep(0.2)
        assert not beating.done()
        beating.cancel()
        assert actor._board.tell.calls > 8
        assert sorted(e.id for e in (await board.take()).entries) == ["e0", "e1", "e2"]
        assert actor._worker.full == {"toy"}

    asyncio.run(run())


def test_a_lost_call_to_wait_for_the_end_is_made_again_and_no_second_actor(monkeypatch, lost):
    async def run():
        board = Board({}, {}, {})
        actor = playing(monkeypatch, board, join={1: (lost, True), 2: (lost, False)}, wait_empty={1: (lost, False)})
        board._over.set()
        board._empty.set()
        await actor._reach(actor._board.join, "key", ["handle"], "one")
        await actor._tell()
        await actor._reach(actor._board.join, "key", ["handle"], "one")
        news = await board.take()
        assert (news.joined, news.failures) == (1, {("toy", "environment lost"): 2})
        await actor._reach(actor._board.join, "key", ["handle"], "two")
        assert (await board.take()).joined == 2
        assert [r.id for r in await actor._last()] == [""]

    asyncio.run(run())


def test_a_board_that_is_gone_for_good_is_not_waited_for(monkeypatch):
    actor = playing(monkeypatch, Board({}, {}, {}), wait_empty={1: (ActorDiedError(), False)})
    with pytest.raises(ActorDiedError):
        asyncio.run(actor._last())
