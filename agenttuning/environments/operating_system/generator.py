"""Draws tasks: families in turn, split by a hash of the goal, the same for the same seed.

A draft's goal (what is to be done to which names; not its files or its wording) decides by its hash whether it is a
train or a test task, so the two share no goal under any seeds. `shifted` tasks come from families of their own.
"""

import random
from collections.abc import Iterator, Sequence

from agenttuning.environments.families import chosen_families
from agenttuning.environments.operating_system.families import FAMILIES
from agenttuning.environments.operating_system.shifted import SHIFTED
from agenttuning.errors import ConfigurationError
from agenttuning.trajectory import Task, content_hash

TEST_SHARE = 4
"""One of this many goals is a test goal."""
SPLITS = ("train", "test", "shifted")


def generated_tasks(split: str, count: int, seed: int, families: Sequence[str] | None = None) -> Iterator[Task]:
    """Yield `count` different tasks, each family once before any comes again.

    Args:
        split: one of `SPLITS`.
        count: how many.
        seed: decides the tasks.
        families: those of `train` and `test` to draw from; None: all. `shifted` has its own.

    Raises:
        ConfigurationError: no such split, or no such family.
    """
    check_split(split)
    chosen = chosen_families("os", FAMILIES, families)
    makers = SHIFTED if split == "shifted" else {name: FAMILIES[name] for name in chosen}
    rng = random.Random(f"os/{split}/{seed}")
    seen: set[str] = set()
    turn: list[str] = []
    while len(seen) < count:
        if not turn:
            turn = sorted(makers)
            rng.shuffle(turn)
        family = turn.pop()
        while True:
            draft = makers[family](rng)
            content = content_hash(draft.content())
            if content not in seen and (split == "shifted" or split_of(content_hash(draft.goal)) == split):
                break
        seen.add(content)
        yield draft.task(split, family)


def split_of(content: str) -> str:
    """Return `train` or `test` for a hash."""
    return "test" if int(content, 16) % TEST_SHARE == 0 else "train"


def check_split(split: str) -> None:
    """Refuse an unknown split.

    Raises:
        ConfigurationError: names the known ones.
    """
    if split not in SPLITS:
        raise ConfigurationError(f"os: no split is called {split!r}; known: {', '.join(SPLITS)}")
