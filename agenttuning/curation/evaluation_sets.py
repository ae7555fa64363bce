"""The evaluation splits that training text is compared with, as texts of their samples."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from agenttuning.conversations.sources import source_records
from agenttuning.errors import DataError
from agenttuning.recipe import EvaluationSet, Recipe
from agenttuning.trajectory import Task


def evaluation_splits(recipe: Recipe, own_tasks: Iterable[Task] = ()) -> dict[str, list[str]]:
    """Return the texts of every evaluation split that the recipe names, by name.

    Args:
        recipe: whose `curation.evaluation_sets` are read.
        own_tasks: the run's test tasks, where they are to be compared too; their splits are `<environment>/<split>`.

    Raises:
        ConfigurationError: no such place.
        DataError: a file is damaged, or a set has none of the fields named.
    """
    splits = {name: list(_texts(name, spec)) for name, spec in recipe.curation.evaluation_sets.items()}
    for task in own_tasks:
        splits.setdefault(f"{task.environment}/{task.split}", []).append(task.instruction)
    return splits


def _texts(name: str, spec: EvaluationSet) -> Iterator[str]:
    for file, place, record in source_records(spec.path, f"curation.evaluation_sets.{name}.path"):
        text = "\n".join(_strings(record, spec.fields))
        if not text:
            wanted = ", ".join(spec.fields) or "any text"
            raise DataError(
                f"{file}, {place}: a sample without {wanted}; its keys are {', '.join(record)}. "
                f"Name some of them in curation.evaluation_sets.{name}.fields"
            )
        yield text


def _strings(record: Mapping[str, Any], fields: tuple[str, ...]) -> Iterator[str]:
    chosen = [record[key] for key in fields if key in record] if fields else list(record.values())
    for value in chosen:
        if isinstance(value, str):
            yield value
        elif isinstance(value, list):
            yield from (item for item in value if isinstance(item, str))
