"""What every stage of one run shares: recipe, run directory, caches, Ray, timings and peak memory.

Ray is started here only when there is none to join, and only what was started here is shut down. A relative run
directory inside a submitted job would vanish with the job's working copy, so there it is placed below the home
directory, and that is said.

One process at a time writes a run directory, whatever its stage: a session holds a lease there while it is entered. The
leases of single directories below are for the writers on other nodes, which they fence.
"""

import contextlib
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil

from agenttuning.errors import ConfigurationError, DataError, StorageError
from agenttuning.machine import cache_directory
from agenttuning.progress import duration, say
from agenttuning.recipe import Recipe, dump_recipe
from agenttuning.storage import Store
from agenttuning.storage.lease import Lease
from agenttuning.storage.manifest import MANIFEST
from agenttuning.trajectory import content_hash

MEMORY_SECONDS = 3.0
"""Time between two looks at the memory of this process and its children."""


def run_store(recipe: Recipe) -> Store:
    """Return the run's directory as a store."""
    root = recipe.run.root
    if "://" not in root and not Path(root).is_absolute() and "runtime_resources" in Path.cwd().parts:
        root = str(Path.home() / "agenttuning" / root)
        say(f"run.root: {recipe.run.root!r} lies in the job's temporary working copy; using {root} on this node")
    return Store(root).child(recipe.run.name)


class Session:
    """One process working on one run. Use as a context manager to write there.

    Args:
        recipe: the run.
        doing: what is done there, for the message to another process that is refused meanwhile; None: nothing but
            files that are read back by no stage, beside whoever else is at work.
    """

    def __init__(self, recipe: Recipe, doing: str | None = "at work") -> None:
        self.recipe = recipe
        self.store = run_store(recipe)
        self._doing = doing
        self._lease: Lease | None = None
        self._stack = contextlib.ExitStack()
        self._stop = threading.Event()
        self._peak = 0
        self._started_ray = False
        self._watch: threading.Thread | None = None

    def __enter__(self) -> Self:
        """Take the run's directory, write the resolved recipe, and begin to watch memory.

        Raises:
            ConfigurationError: another process is at work there.
        """
        if self._doing is not None:
            with contextlib.ExitStack() as stack:
                self._lease = stack.enter_context(Lease(self.store, f"{self.recipe.run.name}: {self._doing}"))
                self.store.write("recipe.yaml", dump_recipe(self.recipe).encode())
                self._stack = stack.pop_all()
        self._watch = threading.Thread(target=self._watch_memory, daemon=True)
        self._watch.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop watching, stop the Ray that was started here, and give the directory back."""
        try:
            self._stop.set()
            if self._watch is not None:
                self._watch.join(timeout=MEMORY_SECONDS + 2)
            if self._started_ray:
                import ray

                ray.shutdown()
        finally:
            self._lease = None
            self._stack.__exit__(kind, value, trace)

    def alone(self, doing: str) -> contextlib.AbstractContextManager[object]:
        """Return a block in which no other process writes the run's directory, whether this session is entered or not.

        Raises:
            ConfigurationError: another process is at work there.
        """
        return contextlib.nullcontext() if self._lease else Lease(self.store, f"{self.recipe.run.name}: {doing}")

    def model_dir(self) -> Path:
        """Return the base model as a local directory."""
        from agenttuning.models import resolve_model

        return resolve_model(self.recipe.model, cache_directory() / "models")

    def tuned_dir(self) -> Path:
        """Return the tuned model as a local directory, fetched from the run's store where that is remote.

        Raises:
            DataError: the run has not exported one.
        """
        return exported_model(self.store)

    def scratch(self, name: str) -> Path:
        """Return a local directory for files that libraries write themselves; the run's own where that is local."""
        root = self.store.local_path()
        path = (root if root is not None else _cache(self.store)) / name
        path.mkdir(parents=True, exist_ok=True)
        return path

    def ray(self) -> None:
        """Join the Ray cluster this process belongs to or the recipe names; else start one on this machine.

        Raises:
            ConfigurationError: the named cluster does not answer.
        """
        import ray

        if ray.is_initialized():
            return
        from agenttuning.policies.serving import ray_environment

        address = self.recipe.cluster.address or os.environ.get("RAY_ADDRESS")
        quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")
        # Ray's core calls it an error that Ray Data hands actors their arguments as it does. Failures are exceptions.
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
        try:
            if address:
                ray.init(address=address, **quiet)
                return
            for name, value in ray_environment().items():
                os.environ.setdefault(name, value)
            ray.init(
                address="local",
                num_cpus=self.recipe.cluster.cpus,
                object_store_memory=self.recipe.cluster.object_store_mib << 20,
                include_dashboard=False,
                **quiet,
            )
        except (ConnectionError, ValueError) as error:
            raise ConfigurationError(
                f"cluster.address: {address or 'local'} does not answer ({error}); start one with `ray start --head`, "
                "or unset cluster.address and RAY_ADDRESS to use this machine"
            ) from error
        self._started_ray = True

    @contextlib.contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Add the block's wall time to `timings.json`, and keep the peak memory there.

        Raises:
            StorageError: another process has taken the run's directory over, or it cannot be written.
        """
        started = time.monotonic()
        if self._lease is not None:
            self._lease.check()
        try:
            yield
        except BaseException:
            with contextlib.suppress(DataError, StorageError):  # What went wrong first is what is said.
                self._note_time(stage, started)
            raise
        self._note_time(stage, started)
        if (seconds_taken := time.monotonic() - started) >= 1:
            say(f"{stage}: done in {duration(seconds_taken)}")

    def _note_time(self, stage: str, started: float) -> None:
        if self._lease is None:
            return
        self._lease.check()
        times = self.timings()
        seconds = times.setdefault("seconds", {})
        seconds[stage] = round(seconds.get(stage, 0.0) + time.monotonic() - started, 1)
        times["peak_memory_bytes"] = max(self._peak, times.get("peak_memory_bytes", 0))
        self.store.write_json("timings.json", times)

    def timings(self) -> dict[str, Any]:
        """Return `{"seconds": {stage: s}, "peak_memory_bytes": n}` as stored so far."""
        return dict(self.store.read_json("timings.json")) if self.store.exists("timings.json") else {}

    def _watch_memory(self) -> None:
        while not self._stop.wait(MEMORY_SECONDS):
            self._peak = max(self._peak, tree_memory())


def exported_model(run: Store) -> Path:
    """Return the model that a run exported as a local directory, fetched where the run's store is remote.

    What is fetched lies under the store and the export that it is of: another run's model, or an earlier one of the
    same run, leaves no file among it.

    Raises:
        DataError: the run has not exported one.
    """
    if (root := run.local_path()) is not None:
        return root / "model"
    manifest = run.child("export").read_json(MANIFEST)
    target = _cache(run, content_hash([manifest["key"], manifest["info"]])) / "model"
    run.download("model", target)
    return target


def _cache(run: Store, *what: str) -> Path:
    """Return where this machine keeps files of a run whose store is remote: a place for each store and each `what`."""
    return cache_directory() / "runs" / content_hash([run.uri, *what])


def tree_memory() -> int:
    """Return the proportional memory (PSS, bytes) of this process and all its descendants.

    Shared pages count once in all, as they do for the machine. Where PSS cannot be read, the resident size counts.
    """
    me = psutil.Process()
    total = 0
    for process in [me, *me.children(recursive=True)]:
        try:
            for line in Path(f"/proc/{process.pid}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total += int(line.split()[1]) << 10
                    break
        except OSError:
            with contextlib.suppress(psutil.Error):
                total += process.memory_info().rss
    return total
