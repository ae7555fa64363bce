import asyncio
import os
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from agenttuning import machine
from agenttuning.errors import ConfigurationError
from agenttuning.policies import serving as module
from agenttuning.policies.connection import list_models
from agenttuning.policies.endpoint import EndpointPolicy, check_endpoint
from agenttuning.policies.serving import served
from agenttuning.recipe import PolicySpec, Serving
from agenttuning.trajectory import Turn


def test_a_missing_vllm_is_told_with_the_cure(monkeypatch, tmp_path):
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None)
    with (
        pytest.raises(ConfigurationError, match=r"vLLM is not installed.*make setup"),
        served(tmp_path, Serving(), "x"),
    ):
        pass


def test_a_directory_without_a_model_is_refused(monkeypatch, tmp_path):
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: object())
    with pytest.raises(ConfigurationError, match=r"config\.json is missing"), served(tmp_path, Serving(), "x"):
        pass


def test_a_small_machine_gives_all_cores_only_with_openmp_that_sleeps(monkeypatch, tmp_path):
    (tmp_path / "lib").mkdir()
    monkeypatch.setattr(machine.sys, "prefix", str(tmp_path))
    monkeypatch.setattr(module.os, "cpu_count", lambda: 2)
    monkeypatch.setattr(machine, "ALLOCATORS", ())
    monkeypatch.setenv("LD_PRELOAD", "/lib/mine.so")
    plain = module.cpu_environment(Serving(kv_cache_gib=3))
    assert plain["VLLM_CPU_KVCACHE_SPACE"] == "3"
    assert not {"LD_PRELOAD", "VLLM_CPU_NUM_OF_RESERVED_CPU"} & set(plain)
    openmp = tmp_path / "lib" / "libiomp5.so"
    openmp.touch()
    fast = module.cpu_environment(Serving())
    assert fast["LD_PRELOAD"] == f"{openmp}:/lib/mine.so"
    assert fast["VLLM_CPU_NUM_OF_RESERVED_CPU"] == "0"
    monkeypatch.setattr(module.os, "cpu_count", lambda: 64)
    assert "VLLM_CPU_NUM_OF_RESERVED_CPU" not in module.cpu_environment(Serving())


def test_the_engine_runs_a_models_own_code_where_the_recipe_trusts_it():
    assert module.engine_settings(Serving())["trust_remote_code"] is False
    assert module.engine_settings(Serving(), trust_remote_code=True)["trust_remote_code"] is True


def test_requests_are_forwarded_by_haproxy_where_it_is_installed(monkeypatch):
    wanted = module.ray_environment()
    assert wanted["RAY_SERVE_ENABLE_HA_PROXY"] == "1"
    assert wanted["RAY_SERVE_HAPROXY_STATS_PORT"] != wanted["RAY_SERVE_HAPROXY_METRICS_PORT"]
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None)
    assert not [name for name in module.ray_environment() if "HAPROXY" in name or "HA_PROXY" in name]


@pytest.mark.parametrize(
    ("accelerator", "extension", "dtype"),
    [("cpu", None, "float32"), ("cpu", "AMX", "bfloat16"), ("gpu", None, "bfloat16")],
)
def test_a_cpu_that_emulates_bfloat16_computes_in_float32(monkeypatch, accelerator, extension, dtype):
    monkeypatch.setattr(module, "cpu_bfloat16", lambda: extension)
    assert module.engine_settings(Serving(accelerator=accelerator))["dtype"] == dtype
    wanted = Serving(accelerator=accelerator, engine_kwargs={"dtype": "float16"})
    assert module.engine_settings(wanted)["dtype"] == "float16"


def test_a_fixed_number_of_replicas_is_not_scaled():
    assert module._replicas(Serving(replicas=(2, 2))) == {"num_replicas": 2}
    bounds = module._replicas(Serving(replicas=(1, 3)))["autoscaling_config"]
    assert (bounds["min_replicas"], bounds["max_replicas"]) == (1, 3)


def test_the_last_words_of_an_engine_are_found():
    trace = "Traceback (most recent call last):\n  File x\n    raise\nValueError: too few GPUs\nsee the log for more"
    assert module._last_line(trace) == "ValueError: too few GPUs"
    assert module._last_line("waiting for resources") == "waiting for resources"
    assert module._last_line("") == ""


@pytest.mark.serve
@pytest.mark.ray
def test_a_model_is_served_used_and_taken_down(tiny_model):
    """One Ray, three things in it: an engine that refuses, a served model, and a Serve that was there before."""
    script = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import test_serving as t; "
    script += f"t.serve_for_real({str(tiny_model)!r})"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=280)
    assert run.returncode == 0, run.stderr[-3000:]
    assert "all is well" in run.stdout
    assert "failed" not in run.stdout.replace("all is well", "")


def serve_for_real(model: str) -> None:
    """Runs in a process of its own, so that a broken engine cannot harm other tests."""
    import ray

    os.environ.update(module.ray_environment())
    from ray import serve

    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        object_store_memory=300 * 2**20,
        log_to_driver=False,
        logging_level="ERROR",
    )
    small = Serving(max_model_len=256, kv_cache_gib=1, max_num_seqs=8, startup_timeout_s=200)
    with served(Path(model), small, "test run/base") as endpoint:
        assert endpoint.base_url.endswith("/test-run-base/v1")
        assert endpoint.model == "test run/base"
        assert asyncio.run(list_models(endpoint.base_url)) == [endpoint.model]
        asyncio.run(check_endpoint(PolicySpec(kind="endpoint", base_url=endpoint.base_url, model=endpoint.model)))
        asyncio.run(_talk(endpoint))
    assert serve.status().applications == {}
    try:
        urllib.request.urlopen(endpoint.base_url + "/models", timeout=2)
        raise AssertionError("it still answers")
    except (urllib.error.URLError, ConnectionError):
        pass
    ray.shutdown()
    print("all is well")


async def _talk(endpoint) -> None:
    policy = EndpointPolicy(endpoint.base_url, endpoint.model, temperature=0.0, max_tokens=8, patience_s=30)
    try:
        ask = (Turn(role="user", content="Hello"),)
        first, second = await asyncio.gather(policy.act(ask, 1), policy.act(ask, 1))
        assert first.content == second.content
        assert first.completion_tokens == 8
        assert first.finish_reason == "length"
        long = await policy.act((Turn(role="user", content="word " * 2000),), 1)
        assert long.finish_reason == "context"
    finally:
        await policy.aclose()
