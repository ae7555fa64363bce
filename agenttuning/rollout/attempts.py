"""Several attempts at one task: their temperatures, the best of them, and pass@k. Pure functions.

pass@k is the chance that at least one of k attempts at a task succeeds. With n attempts of which c succeeded, the share
of the k-subsets that hold a success, 1 - C(n-c, k) / C(n, k), is an unbiased estimate of it; `1 - (1 - c/n)^k` is not
(Chen et al. 2021, section 2.1).
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

from agenttuning.recipe import PolicySpec

T = TypeVar("T")


def attempt_policy(spec: PolicySpec, temperatures: Sequence[float], number: int) -> PolicySpec:
    """Return the policy of one attempt: the recipe's, at the temperature whose turn it is.

    Args:
        spec: the recipe's policy.
        temperatures: of the attempts in turn; none: the policy's own for all.
        number: the attempt, from 0.
    """
    if not temperatures or spec.kind == "expert":
        return spec
    return spec.model_copy(update={"temperature": temperatures[number % len(temperatures)]})


def pass_at_k(attempts: int, successes: int, k: int) -> float:
    """Return the unbiased estimate of pass@k from one task's attempts.

    Raises:
        ValueError: not 0 <= successes <= attempts, or not 1 <= k <= attempts.
    """
    if not 0 <= successes <= attempts:
        raise ValueError(f"pass_at_k: successes must lie within 0 and attempts (got {successes} of {attempts})")
    if not 1 <= k <= attempts:
        raise ValueError(f"pass_at_k: k must lie within 1 and attempts (got {k} of {attempts})")
    missed = 1.0
    for i in range(k):
        missed *= max(0, attempts - successes - i) / (attempts - i)
    return 1.0 - missed


def mean_pass_at_k(tasks: Iterable[tuple[int, int]]) -> dict[int, float]:
    """Return pass@k of a set of tasks, for every k that all of them have attempts for.

    Args:
        tasks: attempts and successes of each task; a task without attempts is left out.
    """
    counts = [(attempts, successes) for attempts, successes in tasks if attempts]
    most = min((n for n, _ in counts), default=0)
    return {k: sum(pass_at_k(n, c, k) for n, c in counts) / len(counts) for k in range(1, most + 1)}


def best_attempts(worth: Mapping[T, tuple[str, tuple[float, ...], int]]) -> set[T]:
    """Return, of every task, the attempt that is worth most; of equals, the earliest, and the first that is given.

    Args:
        worth: task, what it is worth (reward, then score), and attempt number of each trajectory, by its id.
    """
    best: dict[str, tuple[tuple[float, ...], int, T]] = {}
    for key, (task, value, number) in worth.items():
        if task not in best or (value, -number) > (best[task][0], -best[task][1]):
            best[task] = (value, number, key)
    return {key for _, _, key in best.values()}
