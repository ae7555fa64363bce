"""`replay`: play stored replies against their environments again, and say where an episode goes another way.

An environment is deterministic if the same replies bring the same observations and the same grade. Each stored reply
goes in as it was written, and what comes out is compared with what is stored, turn by turn; the first difference ends
the comparison of that episode. No policy is asked and nothing is written.
"""

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from agenttuning.environments.base import environment_class
from agenttuning.errors import ConfigurationError, InfrastructureError
from agenttuning.recipe import Recipe
from agenttuning.rollout.host import EnvironmentFailed, Opening
from agenttuning.rollout.isolation import Seat, SeatPool
from agenttuning.trajectory import Outcome, Trajectory

UNDEMONSTRATED = 3
"""Turns before the first reply where no worked example is shown: description, acknowledgement, observation."""
SAME, DIVERGED, GRADED_OTHERWISE, NOT_PLAYED = "same", "diverged", "graded otherwise", "not played"


@dataclass(frozen=True)
class Replayed:
    """What became of one stored episode."""

    id: str
    environment: str
    verdict: str
    """`same`, `diverged` (at `turn`), `graded otherwise` (all turns alike), or `not played` (`found` says why)."""
    turn: int | None = None
    """Index in the trajectory's turns of the first that differs."""
    stored: str = ""
    found: str = ""


def replay(
    trajectories: Iterable[Trajectory],
    recipe: Recipe,
    *,
    at_once: int = 8,
    on_done: Callable[[Replayed], None] | None = None,
) -> list[Replayed]:
    """Replay trajectories, several at once, each on an environment of its own.

    Args:
        trajectories: what to replay.
        recipe: settings and limits of the environments.
        at_once: episodes at once.
        on_done: called for each as it ends.

    Raises:
        ConfigurationError: the recipe lacks an environment, or it cannot be started here.
    """
    return asyncio.run(_replay_all(list(trajectories), recipe, at_once, on_done or (lambda replayed: None)))


async def _replay_all(
    trajectories: list[Trajectory], recipe: Recipe, at_once: int, on_done: Callable[[Replayed], None]
) -> list[Replayed]:
    pools = {name: _pool(name, recipe) for name in dict.fromkeys(t.task.environment for t in trajectories)}
    slots = asyncio.Semaphore(at_once)

    async def one(trajectory: Trajectory) -> Replayed:
        pool = pools[trajectory.task.environment]
        async with slots:
            seat = pool.take()
            try:
                replayed = await _replay_one(seat, trajectory)
            except (InfrastructureError, EnvironmentFailed) as error:
                replayed = _told(trajectory, NOT_PLAYED, found=str(error))
                seat.discard()
            finally:
                pool.give_back(seat)
        on_done(replayed)
        return replayed

    try:
        return list(await asyncio.gather(*(one(t) for t in trajectories)))
    finally:
        await asyncio.gather(*(asyncio.to_thread(pool.close) for pool in pools.values()))


async def _replay_one(seat: Seat, trajectory: Trajectory) -> Replayed:
    diverged = await _first_difference(seat, trajectory)
    closed = await seat.close()
    if diverged is not None:
        return diverged
    if closed.ungraded:
        return _told(trajectory, NOT_PLAYED, found=closed.ungraded)
    if trajectory.evidence and (closed.grade.reward, closed.grade.score) != (trajectory.reward, trajectory.score):
        stored = f"reward {trajectory.reward:g}, score {trajectory.score:g}"
        now = f"reward {closed.grade.reward:g}, score {closed.grade.score:g}"
        return _told(trajectory, GRADED_OTHERWISE, None, stored, now)
    return _told(trajectory, SAME)


async def _first_difference(seat: Seat, trajectory: Trajectory) -> Replayed | None:
    turns = trajectory.turns
    demonstrated = bool(trajectory.calls) and trajectory.calls[0].turn > UNDEMONSTRATED
    shown = _opening(await seat.open(trajectory.task, demonstrated))
    for index, (role, content) in enumerate(shown):
        if index >= len(turns) or (turns[index].role, turns[index].content) != (role, content):
            stored = turns[index].content if index < len(turns) else ""
            return _told(trajectory, DIVERGED, index, stored, content)
    replies = [i for i in range(len(shown), len(turns)) if turns[i].role == "assistant"]
    for index in replies:
        last = index == replies[-1]
        unplayed = last and trajectory.outcome in (Outcome.REPETITION, Outcome.REFUSED)
        played = await (seat.parse(turns[index].content) if unplayed else seat.play(turns[index].content))
        found = played.malformed if played.step is None else played.step.observation
        if index + 1 < len(turns) and found != turns[index + 1].content:
            return _told(trajectory, DIVERGED, index + 1, turns[index + 1].content, found or "")
    return None


def _opening(opening: Opening) -> list[tuple[str, str]]:
    demonstration = [(turn.role, turn.content) for turn in opening.demonstration]
    first: list[tuple[str, str]] = [("user", opening.description), ("assistant", opening.acknowledgement)]
    return [*first, *demonstration, ("user", opening.observation)]


def _told(trajectory: Trajectory, verdict: str, turn: int | None = None, stored: str = "", found: str = "") -> Replayed:
    return Replayed(trajectory.id, trajectory.task.environment, verdict, turn, stored, found)


def _pool(name: str, recipe: Recipe) -> SeatPool:
    if name not in recipe.environments:
        raise ConfigurationError(
            f"environments: trajectories of {name!r} are stored, which the recipe lacks; add environments.{name}"
        )
    rollout = recipe.rollout
    return SeatPool(
        environment_class(name),
        recipe.environments[name].settings,
        recipe.data.root,
        rollout.step_timeout_s,
        recycle_episodes=rollout.recycle_episodes,
        memory_mib=rollout.environment_memory_mib,
    )
