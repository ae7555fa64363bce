"""`EpisodeWorker`: many episodes in flight on one event loop, each finished one durable before it is reported.

This is what one actor of the rollout job runs, without Ray: it holds the policy, the idle environments, and the
committer. Failures are told apart here, where they are seen, and counted by kind. A failure of the world plays the
episode again; one that fails again and again is given back, stored nowhere, and the job plays it elsewhere. What only
the user can mend stops everything at once.
"""

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Collection, Coroutine
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from typing import Any

from agenttuning.environments.base import environment_class, make_environment
from agenttuning.errors import AgentTuningError, ConfigurationError, InfrastructureError
from agenttuning.policies.base import Reply
from agenttuning.policies.endpoint import EndpointPolicy
from agenttuning.policies.failures import NONSENSE, WORLD
from agenttuning.policies.wire import retry_wait
from agenttuning.recipe import PolicySpec, Recipe
from agenttuning.rollout.attempts import attempt_policy
from agenttuning.rollout.commit import Committer, OnCommit
from agenttuning.rollout.episode import Attempt, Limits, play_episode
from agenttuning.rollout.expert import Act, environment_settings, expert_act, identity
from agenttuning.rollout.isolation import SeatPool
from agenttuning.rollout.remotes import EnvironmentLost
from agenttuning.storage import Store
from agenttuning.storage.lease import Fence
from agenttuning.trajectory import Outcome, Task, Trajectory, Turn, content_hash, trajectory_id

TRIES_HERE = 2
"""How often an episode is tried by one worker before it is given back to be played elsewhere."""


class World(StrEnum):
    """Kinds of infrastructure failures: never data, always tried again."""

    ENVIRONMENT_LOST = "environment lost"
    """It hung past its time limit, outgrew its memory, or its process died."""
    ENVIRONMENT_WORLD = "environment's world"
    """It said that its world broke (a server, a container)."""
    ENDPOINT = "endpoint"
    """The policy's patience with one request was over."""
    EPISODE_TIME = "episode time"
    """The whole episode took longer than `rollout.episode_timeout_s`."""
    ACTOR_LOST = "actor lost"
    """A rollout actor died and was started again."""


class PolicyLost(InfrastructureError):
    """The policy's patience with one request is over."""


class EpisodeTimeout(InfrastructureError):
    """An episode took longer than its limit."""


def kind_of(error: InfrastructureError) -> World:
    """Return what kind of infrastructure failure an error is."""
    kinds: list[tuple[type[InfrastructureError], World]] = [
        (PolicyLost, World.ENDPOINT),
        (EpisodeTimeout, World.EPISODE_TIME),
        (EnvironmentLost, World.ENVIRONMENT_LOST),
    ]
    return next((kind for cls, kind in kinds if isinstance(error, cls)), World.ENVIRONMENT_WORLD)


@dataclass(frozen=True)
class RolloutPlan:
    """What a worker needs to know. Picklable; the key is passed beside the recipe, which never holds it."""

    recipe: Recipe
    policy: PolicySpec
    store: Store
    api_key: str | None = field(default=None, repr=False)
    epoch: int = 0
    """Fencing token of the lease under which segments are written."""
    temperatures: tuple[float, ...] = ()
    """See `rollout.temperatures`."""
    shared: Any = None
    """Handle of the run's shared endpoint limits (`agenttuning.policies.sharing`)."""

    def policy_of(self, number: int) -> PolicySpec:
        """Return the policy of attempt `number`."""
        return attempt_policy(self.policy, self.temperatures, number)

    def id_of(self, task: Task, number: int) -> str:
        """Return the identity of an attempt."""
        return trajectory_id(task, *identity(self.policy_of(number)), number)


@dataclass(frozen=True)
class Report:
    """What became of one episode. `failure` is set where nothing was stored."""

    id: str
    environment: str
    outcome: str = ""
    reward: float = 0.0
    steps: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    seconds: float = 0.0
    failure: str = ""
    fatal: str = ""
    """Name of the error's class when the whole run must stop."""
    full: bool = False
    """Not played: its environment's quota is met."""

    def row(self) -> dict[str, Any]:
        """Return the report as a row of plain values."""
        return asdict(self)


def episode_seed(run_seed: int, task: Task, attempt: int) -> int:
    """Return the seed of an attempt: 31 bits, the same for every policy."""
    return int(content_hash([run_seed, task.id, attempt], length=8), 16) & 0x7FFFFFFF


class EpisodeWorker:
    """Plays episodes on the event loop it is used in.

    Args:
        plan: recipe, policy and store.
        stored: ids that need not be played (a worker that was restarted passes what is stored by now).
        on_report: called for every finished episode, after it is durable.
        on_commit: called for every segment that became durable, before its episodes are reported.
    """

    def __init__(
        self,
        plan: RolloutPlan,
        stored: Collection[str] = frozenset(),
        on_report: Callable[[Report], None] | None = None,
        on_commit: OnCommit | None = None,
    ) -> None:
        rollout = plan.recipe.rollout
        self.failures: Counter[tuple[str, str]] = Counter()
        """Infrastructure failures so far, by environment and kind."""
        self.full: frozenset[str] = frozenset()
        """Environments whose quota is met: their remaining attempts are not played."""
        self.in_flight = 0
        self._plan = plan
        self._stored = stored
        self._on_report = on_report
        self._policy = (
            None if plan.policy.kind == "expert" else EndpointPolicy.from_spec(plan.policy, plan.api_key, plan.shared)
        )
        self._slots = asyncio.Semaphore(rollout.episodes_in_flight)
        self._committer = Committer(Fence(plan.store, plan.epoch), rollout.commit_seconds, on_commit)
        self._pools: dict[str, SeatPool] = {}
        self._playing: set[asyncio.Task[Trajectory]] = set()
        self._fatal: AgentTuningError | None = None

    async def play(self, task: Task, number: int) -> Report:
        """Play one attempt at a task, store it, and report it; failures are in the report."""
        identifier = self._plan.id_of(task, number)
        blank = Report(id=identifier, environment=task.environment)
        if identifier in self._stored:
            return self._tell(blank)
        try:
            async with self._slots:
                if task.environment in self.full:
                    return self._tell(replace(blank, full=True))
                self.in_flight += 1
                try:
                    trajectory = await self._guarded(self._play_with_retries(task, number))
                finally:
                    self.in_flight -= 1
            await self._committer.add(trajectory)
        except InfrastructureError as error:
            return self._tell(self._failed(blank, error, fatal=self._silent))
        except AgentTuningError as error:
            return self._tell(self._failed(blank, error, fatal=True))
        return self._tell(_report(trajectory))

    async def aclose(self) -> None:
        """End the episodes in progress, unstored, and free the environments and the connections."""
        self._stop(InfrastructureError("the job was stopped"))
        if self._policy is not None:
            await self._policy.aclose()
        await asyncio.gather(*(asyncio.to_thread(pool.close) for pool in self._pools.values()))

    async def _play_with_retries(self, task: Task, number: int) -> Trajectory:
        for failures in range(1, TRIES_HERE + 1):
            try:
                return await self._play_once(task, number)
            except InfrastructureError as error:
                self.failures[task.environment, kind_of(error).value] += 1
                if failures == TRIES_HERE or self._silent:
                    raise
                await asyncio.sleep(retry_wait(failures, error.retry_after, random.random()))
        raise AssertionError("unreachable: the last try returns or raises")

    async def _play_once(self, task: Task, number: int) -> Trajectory:
        recipe, spec = self._plan.recipe, self._plan.recipe.environments[task.environment]
        rollout = recipe.rollout
        limits = Limits(spec.max_steps, rollout.context_tokens, rollout.max_malformed, rollout.max_repeats)
        seed = episode_seed(recipe.run.seed, task, number)
        policy = self._plan.policy_of(number)
        attempt = Attempt(*identity(policy), number, seed)
        pool = self._pool(task.environment)
        seat = pool.take()
        try:
            act = expert_act(seat, seed) if self._policy is None else _endpoint_act(self._policy, policy.temperature)
            async with asyncio.timeout(rollout.episode_timeout_s):
                return await play_episode(seat, task, act, limits, attempt, demonstration=spec.demonstration)
        except TimeoutError as error:
            raise EpisodeTimeout(
                f"episode of {task.id} took longer than rollout.episode_timeout_s={rollout.episode_timeout_s:g}"
            ) from error
        finally:
            pool.give_back(seat)

    def told_failures(self) -> dict[tuple[str, str], int]:
        """Return the infrastructure failures so far by environment and kind; those of single requests have none."""
        requests = {} if self._policy is None else self._policy.counts
        kinds = {("", f"request: {k.value}"): requests[k.value] for k in WORLD | NONSENSE if requests.get(k.value)}
        return {**self.failures, **kinds}

    @property
    def _silent(self) -> bool:
        return self._policy is not None and self._policy.silent

    def _pool(self, name: str) -> SeatPool:
        if name not in self._pools:
            recipe = self._plan.recipe
            cls = environment_class(name)
            settings = environment_settings(cls, recipe.environments[name].settings, self._plan.policy)
            rollout = recipe.rollout
            self._pools[name] = SeatPool(
                cls,
                settings,
                recipe.data.root,
                rollout.step_timeout_s,
                recycle_episodes=rollout.recycle_episodes,
                memory_mib=rollout.environment_memory_mib,
            )
        return self._pools[name]

    async def _guarded(self, episode: Coroutine[Any, Any, Trajectory]) -> Trajectory:
        """Run an episode so that a fatal error elsewhere in this worker ends it."""
        if self._fatal is not None:
            episode.close()
            raise self._fatal
        running = asyncio.create_task(episode)
        self._playing.add(running)
        try:
            return await running
        except asyncio.CancelledError:
            if self._fatal is None:
                running.cancel()
                raise
            raise self._fatal from None
        finally:
            self._playing.discard(running)

    def _failed(self, blank: Report, error: AgentTuningError, fatal: bool) -> Report:
        kind = ""
        if fatal:
            kind = type(error).__name__
            self._stop(error)
        return replace(blank, failure=str(error), fatal=kind)

    def _stop(self, error: AgentTuningError) -> None:
        self._fatal = self._fatal or error
        for running in self._playing:
            running.cancel()

    def _tell(self, report: Report) -> Report:
        if self._on_report is not None:
            self._on_report(report)
        return report


def _endpoint_act(policy: EndpointPolicy, temperature: float) -> Act:
    async def act(turns: tuple[Turn, ...], seed: int) -> Reply:
        try:
            return await policy.act(turns, seed, temperature=temperature)
        except InfrastructureError as error:
            raise PolicyLost(str(error), error.retry_after) from error

    return act


def check_environments(recipe: Recipe, names: set[str], spec: PolicySpec) -> None:
    """Check that every environment is known to the recipe, installed, and accepts its settings.

    Raises:
        ConfigurationError: names the environment or the setting, and the cure.
    """
    for name in sorted(names):
        if name not in recipe.environments:
            raise ConfigurationError(
                f"environments: the tasks to play name {name!r}, which the recipe lacks; add environments.{name}"
            )
        settings = environment_settings(environment_class(name), recipe.environments[name].settings, spec)
        with make_environment(name, settings, recipe.data.root):
            pass


def _report(trajectory: Trajectory) -> Report:
    return Report(
        id=trajectory.id,
        environment=trajectory.task.environment,
        outcome=str(Outcome(trajectory.outcome)),
        reward=trajectory.reward,
        steps=trajectory.steps,
        prompt_tokens=sum(c.prompt_tokens or 0 for c in trajectory.calls),
        completion_tokens=sum(c.completion_tokens or 0 for c in trajectory.calls),
        seconds=trajectory.seconds,
    )
