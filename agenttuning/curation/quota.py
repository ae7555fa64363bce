"""Quotas: how many trajectories an environment shall keep (`curation.quota`).

Curation keeps at most that many, spread evenly over the families of tasks, and reports what is missing. Generation
stops playing an environment once enough of its trajectories have their reward; `aim` says how many are enough. All
functions are pure and know no store.
"""

import math
from collections.abc import Iterable, Mapping


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


def over_quota(kept: Iterable[tuple[str, str, str]], quota: Mapping[str, int]) -> set[str]:
    """Return the ids that a quota leaves out.

    Args:
        kept: (id, environment, family) of each kept trajectory, each id once.
        quota: most trajectories to keep, by environment.

    Of each environment the families take turns, each giving its lowest ids first, so that no family crowds out
    another and the result does not depend on the order of `kept`.
    """
    ranked: dict[str, list[tuple[int, str, str]]] = {}
    seen: dict[tuple[str, str], int] = {}
    for name, environment, family in sorted(kept):
        if environment in quota:
            place = seen[environment, family] = seen.get((environment, family), -1) + 1
            ranked.setdefault(environment, []).append((place, family, name))
    return {name for env, rows in ranked.items() for _, _, name in sorted(rows)[quota[env] :]}
