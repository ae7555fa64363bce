"""Quotas: how many trajectories an environment shall keep (`curation.quota`).

Curation keeps at most that many, spread evenly over the families of tasks and over their fifths of difficulty, and
reports what is missing. Generation stops playing an environment once enough of its trajectories have their reward;
`aim` says how many are enough. All functions are pure and know no store.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import zip_longest

from agenttuning.environments.difficulty import FIFTHS


def missing(counts: Mapping[str, int], quota: Mapping[str, int]) -> dict[str, int]:
    """Return how many trajectories each environment with a quota still lacks; nothing for those that are filled."""
    lacking = {name: wanted - counts.get(name, 0) for name, wanted in quota.items()}
    return {name: count for name, count in lacking.items() if count > 0}


def aim(quota: Mapping[str, int], rewarded: Mapping[str, int], kept: Mapping[str, int]) -> dict[str, int]:
    """Return how many rewarded trajectories generation shall collect so that curation keeps each quota.

    Args:
        quota: trajectories wanted, by environment.
        rewarded: trajectories that the rule `reward` let pass in the last curation, by environment.
        kept: how many of those curation kept.

    An environment without a shortage, or never curated, has its quota as the aim. Another one has what its share of
    kept trajectories asks for, and twice what it has where none was kept.
    """
    aims = dict(quota)
    for name in missing(kept, quota):
        passed, stayed = rewarded.get(name, 0), kept.get(name, 0)
        if passed:
            needed = math.ceil(quota[name] * passed / stayed) if stayed else 2 * passed
            aims[name] = max(quota[name], needed)
    return aims


def over_quota(kept: Iterable[tuple[str, str, str, int | None]], quota: Mapping[str, int]) -> set[str]:
    """Return the ids that a quota leaves out.

    Args:
        kept: id, environment, family and fifth of difficulty (None where it is not known) of each kept trajectory,
            each id once.
        quota: most trajectories to keep, by environment.

    Of each environment the families take turns, and within each the fifths of difficulty, so that neither a family nor
    what is easy crowds out another. Each family begins with another fifth, and each fifth gives its lowest ids first:
    the result does not depend on the order of `kept`.
    """
    shelves: dict[str, dict[str, dict[int, list[str]]]] = {}
    for name, environment, family, fifth in sorted(kept, key=lambda row: row[0]):
        if environment in quota:
            families = shelves.setdefault(environment, {})
            families.setdefault(family, {}).setdefault(FIFTHS if fifth is None else fifth, []).append(name)
    over: set[str] = set()
    for environment, families in shelves.items():
        orders = []
        for number, family in enumerate(sorted(families)):
            fifths = sorted(families[family])
            first = number % len(fifths)
            orders.append(_in_turn([families[family][key] for key in (*fifths[first:], *fifths[:first])]))
        over.update(_in_turn(orders)[quota[environment] :])
    return over


def _in_turn(queues: Sequence[Sequence[str]]) -> list[str]:
    """Return what the queues give when they take turns, until all are empty."""
    return [name for layer in zip_longest(*queues) for name in layer if name is not None]
