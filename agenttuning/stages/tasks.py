"""The train tasks of a run."""

from collections.abc import Iterator, Sequence
from itertools import islice

import pyarrow as pa

from agenttuning.environments.base import Environment, environment_class, make_environment
from agenttuning.errors import ConfigurationError
from agenttuning.progress import Progress, say
from agenttuning.session import Session
from agenttuning.storage import Store
from agenttuning.storage.manifest import begin_stage, finish_stage
from agenttuning.trajectory import Task

TRAIN = "train.parquet"


def build_tasks(session: Session, earlier: Sequence[Store] = ()) -> list[Task]:
    """Build the train tasks of every environment, or read them where they are built.

    Args:
        session: of the run.
        earlier: run directories whose tasks are not taken again.

    Raises:
        ConfigurationError: an environment is unknown, refuses its settings, or has no tasks.
    """
    recipe, store = session.recipe, session.store.child("tasks")
    key = {
        "seed": recipe.run.seed,
        "data": recipe.data.model_dump(),
        "environments": {
            name: {"tasks": spec.train_tasks, "settings": spec.settings, "version": environment_class(name).version}
            for name, spec in recipe.environments.items()
        },
    }
    if earlier:
        key["earlier"] = [before.uri for before in earlier]
    state = begin_stage(store, "tasks", key)
    if state.done:
        return read_tasks(store)
    played = {task.id: task.environment for before in earlier for task in read_tasks(before.child("tasks"))}
    tasks: list[Task] = []
    with Progress("tasks", sum(s.train_tasks for s in recipe.environments.values()), "tasks built") as bar:
        for name, spec in recipe.environments.items():
            with make_environment(name, spec.settings, recipe.data.root) as environment:
                known = {i for i, where in played.items() if where == name}
                found = len(tasks)
                for task in islice(_new(environment, known, spec.train_tasks, recipe.run.seed), spec.train_tasks):
                    tasks.append(task)
                    bar.update(len(tasks), name)
                found = len(tasks) - found
                if known and found < spec.train_tasks:
                    say(f"tasks: {name} has {found} new ones beside the {len(known)} that were played before")
    if not tasks:
        raise ConfigurationError(
            "environments: no train task was built; the environments' sources have none for the split `train`"
            + (" that was not played in an earlier round" if played else "")
        )
    store.write_table(TRAIN, tasks_table(tasks))
    finish_stage(store, "tasks", key, {"tasks": len(tasks)})
    return tasks


def read_tasks(store: Store) -> list[Task]:
    """Return the tasks that a directory of tasks holds."""
    return [Task.model_validate_json(r) for r in store.read_table(TRAIN).column("record").to_pylist()]


def tasks_table(tasks: list[Task]) -> pa.Table:
    """Return tasks as a table: what people filter on, and the lossless record."""
    columns = ("environment", "split", "family", "origin", "instruction")
    rows = [{"id": t.id, **{c: getattr(t, c) for c in columns}, "record": t.model_dump_json()} for t in tasks]
    return pa.Table.from_pylist(rows)


def _new(environment: Environment, known: set[str], count: int, seed: int) -> Iterator[Task]:
    """Yield tasks that are not known, going on where earlier rounds ended."""
    found = environment.tasks("train", count + len(known), seed)
    return (task for task in found if task.id not in known)
