"""Training on Ray Train: workers, their environment, live metrics, restarts after a killed worker.

The driver starts a `TorchTrainer` and reads the workers' metrics from a small actor beside itself, step by step. What
must survive lies in the training stage's store, not in Ray: a worker group that is started again, by Ray after a
failure or by the next run of the command, finds the newest checkpoint there. Ctrl-C asks the workers to write one.
"""

import functools
import os
import threading
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray

from agenttuning.errors import AgentTuningError, ConfigurationError, InfrastructureError, StorageError
from agenttuning.machine import allocator
from agenttuning.progress import say
from agenttuning.recipe import Recipe, Training
from agenttuning.storage import Store
from agenttuning.training.batch import load_items
from agenttuning.training.gpus import ray_name
from agenttuning.training.loop import TrainConfig, Wish, train
from agenttuning.training.plan import Plan, make_plan
from agenttuning.training.summary import TrainSummary, read_summary
from agenttuning.training.validation import Measure, Validation, split_items

POLL_SECONDS = 0.5
STOP_SECONDS = 300.0
"""How long a stopped run may take to finish its step and write its checkpoint."""


def run_training(
    recipe: Recipe,
    model_dir: Path,
    items: Store,
    output: Store,
    on_step: Callable[[dict[str, Any]], None] | None = None,
    on_note: Callable[[str], None] = say,
    on_validation: Callable[[dict[str, Any]], None] = lambda metrics: None,
    measure: Measure | None = None,
) -> TrainSummary:
    """Train on the cluster this process is connected to, from the newest checkpoint where there is one.

    Args:
        recipe: reads `training`, `mixture.sources`, `model`, `run` and `cluster`.
        model_dir: the base model on this machine; a worker that does not see it resolves `recipe.model` itself.
        items: one encoded table per source.
        output: store of the training stage.
        on_step: called here, in this thread, with the metrics of every step. Steps come again after a restart.
        on_note: called here with what was chosen, cut or continued, one line each.
        on_validation: called here with `step`, `loss` and `loss/<source>` of held-out items, where the recipe has any.
        measure: measures more on each checkpoint, beside the held-out loss; `on_validation` gets what it found.

    Returns:
        What training amounted to.

    Raises:
        AgentTuningError: what stopped the workers, as they raised it.
        InfrastructureError: workers died more often than `training.max_failures`.
    """
    if (finished := read_summary(output)) is not None:
        return finished
    _plan(recipe, items, recipe.training.workers)
    _check_cluster(recipe, on_note)
    mailbox = ray.remote(num_cpus=0)(Mailbox).options(label_selector=_this_node()).remote()
    work = functools.partial(_work, recipe.model_dump(mode="json"), str(model_dir), items, output, mailbox)
    validation = Validation(recipe, model_dir, items, output, on_validation, on_note, measure)
    failure: list[BaseException] = []

    def fit() -> None:
        try:
            _trainer(work, recipe, output).fit()
        except BaseException as error:
            failure.append(error)

    # Off the main thread Ray leaves Ctrl-C to us.
    thread = threading.Thread(target=fit, daemon=True)
    thread.start()
    try:
        while thread.is_alive():
            thread.join(POLL_SECONDS)
            if _deliver(mailbox, on_step, on_note):
                validation.look()
    except KeyboardInterrupt:
        on_note("training: stopping; the checkpoint of this step is being written")
        ray.get(mailbox.stop.remote())
        thread.join(STOP_SECONDS)
        raise
    _deliver(mailbox, on_step, on_note)
    fatal = ray.get(mailbox.fatal.remote())
    ray.kill(mailbox)
    _forget(output)
    if fatal is not None:
        raise fatal
    if failure:
        raise _explained(failure[0], recipe.training, output) from failure[0]
    if (summary := read_summary(output)) is None:
        raise StorageError(
            f"{output.uri}: the workers finished, but this machine does not see what they wrote; set run.root to a "
            "directory that all nodes share, or to an object store"
        )
    validation.finish()
    # A plan's first steps are the same however many follow: this is what was really drawn.
    done = recipe.training.model_copy(update={"steps": summary.steps})
    drawn, _ = _plan(recipe.model_copy(update={"training": done}), items, recipe.training.workers)
    output.write_json("plan.json", drawn.summary())
    return summary


class Mailbox:
    """Actor beside the driver: metrics and notes of rank 0 one way, the wish to stop the other."""

    def __init__(self) -> None:
        self._events: list[dict[str, Any]] = []
        self._stop = False
        self._fatal: AgentTuningError | None = None

    def put(self, event: dict[str, Any]) -> bool:
        """Take an event; return whether the run should stop."""
        self._events.append(event)
        return self._stop

    def take(self) -> list[dict[str, Any]]:
        """Return the events since the last call."""
        events, self._events = self._events, []
        return events

    def stop(self) -> None:
        """Ask the workers to stop after a checkpoint."""
        self._stop = True

    def fail(self, error: AgentTuningError) -> None:
        """Take an error that trying again cannot cure; the first one stands."""
        self._fatal = self._fatal or error

    def fatal(self) -> AgentTuningError | None:
        """Return that error."""
        return self._fatal


def _work(recipe_json: dict[str, Any], model_dir: str, items: Store, output: Store, mailbox: Any) -> None:
    """Run one worker."""
    import ray.train

    if (fatal := ray.get(mailbox.fatal.remote())) is not None:
        raise fatal
    recipe = Recipe.model_validate(recipe_json)
    context = ray.train.get_context()
    first = context.get_world_rank() == 0

    going: set[str] = set()

    def report(metrics: dict[str, Any]) -> Wish:
        # A barrier that waits for the controller's next look, every two seconds: each step's metrics go by the mailbox.
        if metrics["step"] % recipe.training.checkpoint_every == 0 or metrics["step"] == metrics["total_steps"]:
            ray.train.report(metrics)
        # The same answer on every rank, and a barrier: all of them ask.
        notice = ray.train.get_preemption_info()
        stops = first and ray.get(mailbox.put.remote({"metrics": metrics}))
        wish = _wish(stops, set() if notice is None else set(notice.preempted_node_ids), going)
        if wish is Wish.SAVE:
            tell(f"training: a node will be taken away; the checkpoint of step {metrics['step']} is being written")
        return wish

    def tell(text: str) -> None:
        if first:
            ray.get(mailbox.put.remote({"note": text}))

    try:
        path = Path(model_dir)
        if not path.is_dir():
            from agenttuning.machine import cache_directory
            from agenttuning.models import resolve_model

            path = resolve_model(recipe.model, cache_directory() / "models")
        plan, encoded = _plan(recipe, items, context.get_world_size())
        config = TrainConfig(recipe.training, path, output, recipe.run.seed, recipe.model.trust_remote_code)
        train(config, plan, encoded, report, tell)
    except AgentTuningError as error:
        if not isinstance(error, InfrastructureError):
            ray.get(mailbox.fail.remote(error))
        raise


def _wish(stops: bool, leaving: set[str], going: set[str]) -> Wish:
    """Return what a step's report asks for; `going` gets the nodes that were saved for.

    All ranks see the same nodes leave and save together, so that goes before what rank 0 alone knows: the wish to stop
    comes again with the next step.
    """
    if leaving - going:
        going |= leaving
        return Wish.SAVE
    return Wish.STOP if stops else Wish.GO_ON


def _plan(recipe: Recipe, items: Store, world_size: int) -> tuple[Plan, Any]:
    sources = recipe.mixture.sources
    encoded, _ = split_items(load_items(items, list(sources)), recipe.training, recipe.run.seed)
    counts = {name: source.counts for name, source in encoded.items()}
    weights = {name: source.weight for name, source in sources.items()}
    return make_plan(counts, weights, recipe.training, recipe.run.seed, world_size), encoded


def _trainer(work: Callable[[], None], recipe: Recipe, output: Store) -> Any:
    import pyarrow.fs
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    training = recipe.training
    if (root := output.child("ray").local_path()) is not None:
        root.mkdir(parents=True, exist_ok=True)
        filesystem, path = None, str(root)
    else:
        filesystem, path = pyarrow.fs.FileSystem.from_uri(output.child("ray").uri)
    return TorchTrainer(
        work,
        scaling_config=ScalingConfig(
            num_workers=training.workers,
            use_gpu=training.use_gpu,
            resources_per_worker={"CPU": training.cpus_per_worker, **({"GPU": 1} if training.use_gpu else {})},
            accelerator_type=worker_accelerator(training),
        ),
        torch_config=TorchConfig(
            backend="nccl" if training.use_gpu else "gloo", timeout_s=training.collective_timeout_s
        ),
        run_config=RunConfig(
            # A name that was used before would make Ray resume its own state; ours is in the store.
            name=f"{recipe.run.name}-{uuid.uuid4().hex[:8]}",
            storage_path=path,
            storage_filesystem=filesystem,
            failure_config=FailureConfig(max_failures=training.max_failures),
            worker_runtime_env={"env_vars": worker_environment(training)},
        ),
    )


def worker_accelerator(training: Training) -> str | None:
    """Return the kind of GPU that the workers ask for, as Ray finds it on nodes; None: any, or none at all."""
    if not training.use_gpu or training.accelerator_type is None:
        return None
    return ray_name(training.accelerator_type)


def worker_environment(training: Training) -> dict[str, str]:
    """Return the environment variables that workers start with."""
    variables = {"OMP_NUM_THREADS": str(max(1, int(training.cpus_per_worker)))}
    if not training.use_gpu:
        variables["DS_ACCELERATOR"] = "cpu"
        # Threads that sleep between operators wake too late: a fifth of the step. The cores are the worker's own.
        variables["OMP_WAIT_POLICY"] = "active"
        if (library := allocator()) is not None:
            # Freed memory stays with the process: the next step wants it again.
            variables["TCMALLOC_RELEASE_RATE"] = "0"
            variables["MALLOC_CONF"] = "dirty_decay_ms:-1,muzzy_decay_ms:-1"
            variables["LD_PRELOAD"] = ":".join(filter(None, [library, os.environ.get("LD_PRELOAD")]))
    return variables


def _check_cluster(recipe: Recipe, on_note: Callable[[str], None]) -> None:
    """Say what is missing for the workers and the validation; refuse where nothing could ever come."""
    training, spec = recipe.training, recipe.training.validation
    needs = {"CPU": training.workers * training.cpus_per_worker, "GPU": float(training.workers * training.use_gpu)}
    cures = "training.workers or training.cpus_per_worker"
    _check_room(recipe, f"{training.workers} workers need", needs, cures, on_note)
    kind = worker_accelerator(training)
    if kind is not None and not ray.cluster_resources().get(f"accelerator_type:{kind}"):
        cure = "set training.accelerator_type to a GPU that it has, or unset it"
        _lacking(recipe, f"training: no node of the cluster has a {kind} (training.accelerator_type)", cure, on_note)
    if spec is not None:
        cures = "training.validation.cpus or training.validation.gpus"
        _check_room(recipe, "training.validation needs", {"CPU": spec.cpus, "GPU": spec.gpus}, cures, on_note)


def _check_room(recipe: Recipe, who: str, needs: dict[str, float], cures: str, on_note: Callable[[str], None]) -> None:
    there = ray.cluster_resources()
    lacking = [f"{n:g} {kind}s of {there.get(kind, 0):g}" for kind, n in needs.items() if there.get(kind, 0) < n]
    if not lacking:
        return
    _lacking(recipe, f"training: {who} {' and '.join(lacking)} in the cluster", f"lower {cures}", on_note)


def _lacking(recipe: Recipe, told: str, cure: str, on_note: Callable[[str], None]) -> None:
    """Refuse where no node can come; else say what is waited for."""
    if recipe.cluster.address is None and "RAY_ADDRESS" not in os.environ:
        raise ConfigurationError(f"{told}; {cure}, or name a larger cluster in cluster.address")
    on_note(f"{told}: waiting for nodes")


def _this_node() -> dict[str, str]:
    return {"ray.io/node-id": ray.get_runtime_context().get_node_id()}


def _deliver(mailbox: Any, on_step: Callable[[dict[str, Any]], None] | None, on_note: Callable[[str], None]) -> bool:
    """Hand on what the workers told; return whether they told anything."""
    events = ray.get(mailbox.take.remote())
    for event in events:
        if "note" in event:
            on_note(event["note"])
        elif on_step is not None:
            on_step(event["metrics"])
    return bool(events)


def _forget(output: Store) -> None:
    """Delete Ray's own bookkeeping of the run: nothing reads it again."""
    store = output.child("ray")
    for name in store.list():
        store.delete(name)


def _explained(error: BaseException, training: Training, output: Store) -> InfrastructureError:
    lines = [line for line in str(error).strip().splitlines() if line.strip()]
    return InfrastructureError(
        f"training: the workers failed more than training.max_failures={training.max_failures} times; the last reason: "
        f"{lines[-1].strip() if lines else type(error).__name__}\nIf memory ran out, lower training.row_tokens or "
        f"training.logits_chunk, or set training.activation_checkpointing. Run the same command again: it continues "
        f"from the newest checkpoint in {output.uri}."
    )
