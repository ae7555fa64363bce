"""What would make a recipe fit its GPUs: sets of changed settings, found by counting memory for each."""

from collections.abc import Iterator
from itertools import combinations
from typing import Any

from agenttuning.recipe import Lora, Recipe
from agenttuning.training.architectures import Shape
from agenttuning.training.gpus import Gpu, computed_dtype
from agenttuning.training.memory import GIB, host_bytes, memory_per_worker

MOST = 6
"""Ways to fit that are said."""
SHORTEST_ROW = 1024
"""Rows are not made shorter than this to fit."""
FACTORS = (1, 2, 4, 8, 16)
"""How many times the workers are tried."""


def find_remedies(shape: Shape, recipe: Recipe, gpu: Gpu) -> tuple[str, ...]:
    """Return changes with which a worker fits, as overrides of the recipe; none holds more than it needs."""
    found: list[tuple[frozenset[str], int, str]] = []
    for factor in FACTORS:
        for levers in _sets_of_levers(recipe):
            names = frozenset(name for lever in levers for name in lever)
            if any(less <= names and fewer <= factor for less, fewer, _ in found):
                continue
            changes: dict[str, Any] = {k: v for lever in levers.values() for k, v in lever.items()}
            if factor > 1:
                changes["workers"] = recipe.training.workers * factor
            training = recipe.training.model_copy(update=changes)
            if training.zero_stage == 0 and (training.offload_optimizer or factor > 1):
                continue
            longest = min(recipe.mixture.max_length, training.row_tokens)
            memory = memory_per_worker(shape, training, computed_dtype(training, gpu), longest)
            if sum(memory.values()) <= gpu.gib:
                said = [f"training.{k}={_yaml(v)}" for k, v in changes.items()]
                said += [f"mixture.max_length={longest}"] if longest < recipe.mixture.max_length else []
                host = host_bytes(shape, training) / GIB
                aside = f" ({host:,.0f} GiB of host memory per worker)" if host else ""
                found.append((names, factor, ", ".join(said) + aside))
    found.sort(key=lambda remedy: (len(remedy[0]) + (remedy[1] > 1), remedy[1]))
    told = tuple(text for _, _, text in found[:MOST])
    return told or ("no setting of this recipe: take a larger GPU or a smaller model",)


def _sets_of_levers(recipe: Recipe) -> Iterator[dict[tuple[str, ...], dict[str, Any]]]:
    """Yield sets of changes, the smaller first. Each lever goes by its names: a stronger one has a weaker one's too."""
    training, row = recipe.training, recipe.training.row_tokens
    levers: dict[tuple[str, ...], dict[str, Any]] = {
        (name,): {name: value}
        for name, value in (("zero_stage", 3), ("activation_checkpointing", True), ("offload_optimizer", True))
        if getattr(training, name) != value
    }
    for names in (("half rows",), ("half rows", "quarter rows")):
        if (shorter := row // 2 ** len(names)) >= SHORTEST_ROW:
            levers[names] = {"row_tokens": shorter}
    if training.lora is None:
        levers[("lora",)] = {"lora": Lora()}
    for count in range(len(levers) + 1):
        for chosen in combinations(levers, count):
            if sum("half rows" in names for names in chosen) < 2:
                yield {names: levers[names] for names in chosen}


def _yaml(value: Any) -> str:
    return f"{{rank: {value.rank}}}" if isinstance(value, Lora) else str(value).lower()
