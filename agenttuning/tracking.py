"""Tracking of one stage: Weights & Biases, and the same events as JSON lines.

Every event goes to `<directory>/<stage>/events.jsonl`, with or without W&B:

    {"time": unix seconds, "kind": "metrics", "step": int or null, "metrics": {name: number}}
    {"time", "kind": "table", "name", "columns": [...], "rows": [[...]]}
    {"time", "kind": "config", "config": {...}}

A run in W&B is one stage: project and entity from the recipe, group = the run's name, job type = stage, and an id that
is the hash of both, so that a restarted stage goes on under the same id. `train/*` is drawn over `train/step` (every
`<prefix>/*` over its own `<prefix>/step`); `train/tokens` can be chosen as the axis. W&B never stops a run: where it
cannot be reached or is not installed, one line says so and the JSON lines go on.

After a restart from a checkpoint some steps are done again. The JSON lines then keep the later events of the same
metrics and drop the earlier ones; W&B, which is append-only, keeps both.
"""

import contextlib
import netrc
import os
import re
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self
from urllib.parse import urlparse

import orjson

from agenttuning.errors import StorageError
from agenttuning.recipe import Recipe
from agenttuning.trajectory import content_hash

EVENTS = "events.jsonl"
INIT_TIMEOUT_S = 30.0
"""How long W&B may take to start a run before it is tracked offline."""
PROBE_TIMEOUT_S = 5.0
"""How long its server may take to answer at all; asked first, for W&B itself waits far longer."""
HOSTS = ("api.forge.coreweave.com", "api.wandb.ai")
"""Where W&B's login may be kept under in `~/.netrc`."""

Mode = Literal["online", "offline", "disabled"]


class Tracker:
    """Tracks one stage of one run. Use as a context manager, or call `finish`.

    Args:
        recipe: names the run, its group, and how W&B is used; it is logged whole.
        stage: for example `train` or `evaluate-base`.
        directory: a local directory; events go to `<stage>/events.jsonl` in it, W&B's own files to `wandb/`.
        job_type: W&B's job type; unset, the stage.
        copy: called at the end with `<stage>/events.jsonl` and its bytes, for a run directory on an object store
            (`Store.write` will do).

    Raises:
        StorageError: the events cannot be written.
    """

    def __init__(
        self,
        recipe: Recipe,
        stage: str,
        directory: Path,
        job_type: str | None = None,
        copy: Callable[[str, bytes], None] | None = None,
    ) -> None:
        self.stage = re.sub(r"[^A-Za-z0-9._-]+", "-", stage)
        self.id = run_id(recipe, stage)
        self.path = directory / self.stage / EVENTS
        self._copy = copy
        self._last: dict[str, int] = {}
        self._axes: set[str] = set()
        with _writing(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._keep(list(read_events(self.path)))
        self._run = _wandb_run(recipe, self.stage, self.id, job_type or self.stage, directory)
        self.config({"recipe": recipe.model_dump(mode="json")})

    def __enter__(self) -> Self:
        """Return self."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Finish, as failed where the block raised."""
        self.finish(failed=kind is not None)

    def log(self, metrics: dict[str, Any], step: int | None = None) -> None:
        """Log numbers, named `<prefix>/<name>`.

        Args:
            metrics: numbers; others are refused by neither side, but drawn by none.
            step: the x-axis; a step at or before one already logged for a metric replaces it.
        """
        if step is not None:
            if any(self._last.get(name, -1) >= step for name in metrics):
                events = [e for e in read_events(self.path) if not _replaced(e, metrics, step)]
                with _writing(self.path):
                    self._keep(events)
            self._last.update(dict.fromkeys(metrics, step))
        self._append({"kind": "metrics", "step": step, "metrics": metrics})
        if self._run is not None:
            with self._guard():
                self._run.log(self._with_axes(metrics, step))

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Log a table; one of the same name takes its place."""
        self._append({"kind": "table", "name": name, "columns": list(columns), "rows": [list(row) for row in rows]})
        if self._run is not None:
            with self._guard():
                import wandb

                cells = [[_cell(value) for value in row] for row in rows]
                table = wandb.Table(columns=list(columns), data=cells, allow_mixed_types=True)
                self._run.log({f"tables/{name}": table})

    def config(self, values: dict[str, Any]) -> None:
        """Add to the run's configuration."""
        self._append({"kind": "config", "config": values})
        if self._run is not None:
            with self._guard():
                self._run.config.update(values, allow_val_change=True)

    def finish(self, failed: bool = False) -> None:
        """Close the W&B run and hand the events to `copy`, if it was given. Safe to call twice."""
        run, self._run = self._run, None
        if run is not None:
            with self._guard():
                run.finish(exit_code=1 if failed else 0)
        if self._copy is not None:
            self._copy(f"{self.stage}/{EVENTS}", self.path.read_bytes())

    def _with_axes(self, metrics: dict[str, Any], step: int | None) -> dict[str, Any]:
        if step is None:
            return metrics
        axes = {f"{name.split('/', 1)[0]}/step": step for name in metrics if "/" in name}
        for axis in sorted(axes.keys() - self._axes):
            self._run.define_metric(axis, hidden=True)
            self._run.define_metric(axis.removesuffix("step") + "*", step_metric=axis)
        self._axes |= axes.keys()
        return {**axes, **metrics}

    def _append(self, event: dict[str, Any]) -> None:
        line = orjson.dumps({"time": round(time.time(), 3), **event}, option=_JSON, default=str)
        with _writing(self.path), self.path.open("ab") as file:
            file.write(line + b"\n")

    def _keep(self, events: list[dict[str, Any]]) -> None:
        """Write the file anew with `events`, whole or not at all, and remember the last step of every metric."""
        self._last = {}
        for event in events:
            if event["kind"] == "metrics" and event["step"] is not None:
                self._last.update(dict.fromkeys(event["metrics"], event["step"]))
        if events or self.path.exists():
            temporary = self.path.with_suffix(".tmp")
            temporary.write_bytes(b"".join(orjson.dumps(event) + b"\n" for event in events))
            os.replace(temporary, self.path)

    @contextlib.contextmanager
    def _guard(self) -> Iterator[None]:
        """Give W&B up after its first error; whatever it raises, the run goes on."""
        try:
            yield
        except Exception as error:
            run, self._run = self._run, None
            if run is not None:
                with contextlib.suppress(Exception):
                    run.finish(exit_code=1)
            _warn(f"W&B stopped ({_first_line(error)}); events go on in {self.path}")


def read_events(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the events of a file in order; a line that a crash tore is passed over, a missing file has none."""
    if path.exists():
        for line in path.read_bytes().splitlines():
            with contextlib.suppress(orjson.JSONDecodeError):
                yield orjson.loads(line)


def run_id(recipe: Recipe, stage: str) -> str:
    """Return the W&B id of a stage: the same for the same run name and stage."""
    return content_hash([recipe.run.name, stage])


def wandb_mode(recipe: Recipe) -> Mode:
    """Return how W&B is used: the recipe's word, or for `auto` `WANDB_MODE`, else online where a key is set."""
    word = recipe.tracking.wandb
    if word == "auto":
        asked = os.environ.get("WANDB_MODE", "").lower()
        word = "disabled" if asked == "disabled" else "offline" if asked in ("offline", "dryrun") else "auto"
    if word == "auto":
        return "online" if _has_key() else "offline"
    return word


def _has_key() -> bool:
    if os.environ.get("WANDB_API_KEY"):
        return True
    server = os.environ.get("WANDB_BASE_URL")
    hosts = [urlparse(server).hostname or ""] if server else HOSTS
    try:
        logins = netrc.netrc()
        return any(logins.authenticators(host) for host in hosts)
    except (OSError, netrc.NetrcParseError):
        return False


def _wandb_run(recipe: Recipe, stage: str, identity: str, job_type: str, directory: Path) -> Any:
    """Start W&B; offline where its server does not answer, and None where it does not start."""
    mode = wandb_mode(recipe)
    if mode == "disabled":
        return None
    if mode == "online" and not _has_key():
        _warn("tracking.wandb=online, but no WANDB_API_KEY is set; tracking offline, `wandb sync` sends it")
        mode = "offline"
    try:
        import wandb
    except Exception as error:
        _warn(f"W&B cannot be used ({_first_line(error)}); events go to JSON lines alone")
        return None
    if mode == "online" and (problem := _unreachable(wandb.Settings().base_url)):
        _warn(f"W&B does not answer ({problem}); tracking offline, `wandb sync` sends it")
        mode = "offline"
    tracking = recipe.tracking
    # The `silent` setting does not reach hints that W&B prints about other packages that are in use.
    os.environ.setdefault("WANDB_SILENT", "true")
    try:
        return wandb.init(
            project=tracking.project,
            entity=tracking.entity,
            group=tracking.group or recipe.run.name,
            job_type=job_type,
            name=f"{recipe.run.name}-{stage}",
            id=identity,
            resume="allow",
            mode=mode,
            dir=str(directory),
            reinit="create_new",
            settings=wandb.Settings(silent=True, console="off", init_timeout=INIT_TIMEOUT_S),
        )
    except Exception as error:
        _warn(f"W&B did not start {mode} ({_first_line(error)}); events go to JSON lines alone")
        return None


def _unreachable(url: str) -> str | None:
    """Return why a server cannot be reached, or None. Any answer will do, also through the environment's proxy."""
    try:
        urllib.request.urlopen(url, timeout=PROBE_TIMEOUT_S).close()
    except urllib.error.HTTPError:
        return None
    except (OSError, ValueError) as error:
        return _first_line(error)
    return None


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"{path}: cannot be written ({error.strerror or error}); free space there or set run.root elsewhere, "
            "then run the same command again: it continues"
        ) from error


def _replaced(event: dict[str, Any], metrics: dict[str, Any], step: int) -> bool:
    return (
        event["kind"] == "metrics"
        and event["step"] is not None
        and event["step"] >= step
        and not metrics.keys().isdisjoint(event["metrics"])
    )


def _warn(text: str) -> None:
    print(f"tracking: {text}", file=sys.stderr, flush=True)


def _cell(value: Any) -> Any:
    return value if value is None or isinstance(value, str | int | float | bool) else str(value)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


_JSON = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS
