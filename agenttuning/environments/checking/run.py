"""The checks in their order, each with the rule that it holds an environment to."""

from collections.abc import Callable, Iterator
from typing import Any

import psutil

from agenttuning.environments.base import Environment, EnvironmentSettings, environment_class, validated_settings
from agenttuning.environments.checking import episodes, replies, resources, tasks
from agenttuning.environments.checking.play import Subject
from agenttuning.environments.checking.verdict import Broken, Check, examined
from agenttuning.environments.checking.watch import watched

CHECKS: tuple[tuple[str, str, Callable[[Subject], str]], ...] = (
    ("contract", "every attribute and method is as base.Environment says", tasks.contract),
    ("tasks", "tasks() yields up to `count` complete, different tasks of JSON", tasks.tasks),
    ("same seed, same tasks", "the seed alone decides the tasks", tasks.repeatable),
    ("splits are apart", "no two splits share a task, its goal or its source", tasks.splits),
    ("episodes", "no method raises while tasks are played", episodes.playable),
    ("opening", "the first observation contains the instruction; the worked example parses", replies.opening),
    ("expert", f"an expert wins at least {episodes.LEAST_SUCCESS:.0%} of the tasks it plays", episodes.expert),
    ("answer is hidden", "no instruction contains its own answer", episodes.answer_hidden),
    ("thoughts are honest", "a thought cites only what was shown so far", episodes.thoughts_honest),
    ("doing nothing", "an episode without an action earns nothing", episodes.nothing),
    ("evidence and grade", "the grade follows from the evidence, which is JSON", episodes.evidence),
    ("reply round trip", "parse() reads what format() writes", replies.round_trip),
    ("malformed replies", "parse() tells the model what was wrong, by MalformedReply", replies.malformed),
    ("same actions, same episode", "task and actions alone decide an episode", episodes.replayed),
    ("episodes are apart", "an episode sees nothing of those before it", episodes.episodes_apart),
    ("instances are apart", "instances of one process do not see each other", episodes.instances_apart),
    ("nothing left behind", "shutdown() frees files, threads and processes", resources.left_behind),
    ("speed", f"at least {resources.SLOWEST_STEPS:g} step a second", resources.speed),
    ("memory", "an instance takes what its needs say, and an episode leaves nothing", resources.memory),
)
"""Name, rule and function of each check."""
GATES = ("contract", "tasks", "episodes", "same actions, same episode")
"""Where one of these fails, those after it would say the same again, and are skipped."""
LIMIT_S = 120.0
"""Seconds without an end of any call after which an environment hangs."""


def check_environment(
    name: str,
    *,
    count: int = 20,
    settings: dict[str, Any] | None = None,
    data_root: str | None = None,
    seed: int = 0,
    reward: float = 1.0,
    limit_s: float = LIMIT_S,
) -> Iterator[Check]:
    """Examine the environment registered under `name`, one check after the other.

    Args:
        name: as in a recipe.
        count: how many tasks are sampled of each split.
        settings: raw settings, as in a recipe.
        data_root: directory of published data.
        seed: decides the tasks and the expert's choices.
        reward: the least that counts as success, as the recipe's `reward_threshold`.
        limit_s: how long a call may take before it counts as hanging.

    Raises:
        ConfigurationError: nothing is registered under that name, or its settings are refused.
    """
    before = psutil.Process().memory_info().rss
    cls = environment_class(name)
    validated = validated_settings(cls, name, settings or {})
    return check_class(
        cls, name, validated,
        count=count, data_root=data_root, seed=seed, reward=reward, limit_s=limit_s, rss_before=before,
    )  # fmt: skip


def check_class(
    cls: type[Environment],
    name: str,
    settings: EnvironmentSettings,
    *,
    count: int = 20,
    data_root: str | None = None,
    seed: int = 0,
    reward: float = 1.0,
    limit_s: float = LIMIT_S,
    rss_before: int | None = None,
) -> Iterator[Check]:
    """Examine a class as if it were registered under `name`; see `check_environment`.

    Args:
        cls: the class.
        name: what it is registered as.
        settings: its validated settings.
        count: how many tasks are sampled of each split, at least 2.
        data_root: directory of published data.
        seed: decides the tasks and the expert's choices.
        reward: the least that counts as success, as the recipe's `reward_threshold`.
        limit_s: how long a call may take before it counts as hanging.
        rss_before: memory of this process before the class was imported, in bytes; None: as it is now.
    """

    def run() -> Iterator[Check]:
        subject = Subject(cls, name, settings, data_root, max(2, count), seed, reward, rss_before)
        for title, rule, function in CHECKS:
            check = examined(title, rule, function, subject)
            yield check
            if not check.ok and title in GATES:
                return

    done, blocked = 0, ""
    try:
        for check in watched(run, limit_s):
            yield check
            done, blocked = done + 1, check.name
    except Broken as broken:
        blocked, rule, _ = CHECKS[done]
        yield Check(blocked, "failed", str(broken), rule, broken.cure)
        done += 1
    for title, rule, _ in CHECKS[done:]:
        yield Check(title, "skipped", f"not examined: mend {blocked!r} first", rule)
