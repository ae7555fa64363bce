"""vLLM through Ray Serve with 32 episodes in flight, against vLLM alone on the same prompts.

    python benchmarks/rollouts_vllm.py

Episodes of the database environment are played by the embedded model behind Ray Serve, greedily, 32 at once, after a
few that warm it up. The generated tokens of all their calls over the wall time are one rate. Then vLLM alone, in a
process of its own with the same engine settings, answers exactly the prompts of those calls as one batch, 32 sequences
at a time; its generated tokens over its wall time are the other.
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

EPISODES, IN_FLIGHT, MAX_TOKENS, CONTEXT = 96, 32, 64, 2048


def through_serve(scratch: Path) -> dict[str, Any]:
    """Return both rates and their ratio."""
    import ray

    from agenttuning.environments.base import make_environment
    from agenttuning.machine import cache_directory
    from agenttuning.models import resolve_model
    from agenttuning.policies.serving import served
    from agenttuning.recipe import EnvironmentSpec, Model, PolicySpec, Recipe, Rollout, Serving
    from agenttuning.rollout.job import play_tasks
    from agenttuning.storage import Store
    from agenttuning.storage.segments import read_trajectories

    model = resolve_model(Model(), cache_directory() / "models")
    serving = Serving(max_model_len=CONTEXT, max_num_seqs=IN_FLIGHT)
    rollout = Rollout(actors=(1, 1), actor_cpus=0.25, episodes_in_flight=IN_FLIGHT, context_tokens=CONTEXT - MAX_TOKENS)
    recipe = Recipe(environments={"db": EnvironmentSpec(max_steps=4)}, rollout=rollout)
    with make_environment("db", {}, None) as environment:
        tasks = list(environment.tasks("train", EPISODES + IN_FLIGHT, 0))
    ray.init(address="local", include_dashboard=False, object_store_memory=300 * 2**20, log_to_driver=False)
    try:
        with served(model, serving, "benchmark") as endpoint:
            policy = PolicySpec(
                kind="endpoint", base_url=endpoint.base_url, model=endpoint.model, temperature=0.0,
                max_tokens=MAX_TOKENS, concurrency=IN_FLIGHT, send_seed=endpoint.takes_seed,
            )  # fmt: skip
            play_tasks(tasks[EPISODES:], recipe, policy, Store(str(scratch / "warm")))
            started = time.monotonic()
            play_tasks(tasks[:EPISODES], recipe, policy, Store(str(scratch / "vllm")))
            seconds = time.monotonic() - started
    finally:
        ray.shutdown()
    prompts, tokens = [], 0
    for trajectory in read_trajectories(Store(str(scratch / "vllm"))):
        for call in trajectory.calls:
            prompts.append([{"role": t.role, "content": t.content} for t in trajectory.turns[: call.turn]])
            tokens += call.completion_tokens or 0
    alone = vllm_alone(model, prompts, serving.kv_cache_gib, scratch)
    rate = tokens / seconds
    return {
        "tokens_per_second": rate,
        "alone_tokens_per_second": alone["tokens"] / alone["seconds"],
        "ratio": rate / (alone["tokens"] / alone["seconds"]),
        "prompts": len(prompts),
        "tokens": tokens,
        "alone_tokens": alone["tokens"],
    }


ALONE = """
import json, sys, time
from vllm import LLM, SamplingParams
model, prompts, target = sys.argv[1:4]
prompts = json.load(open(prompts))
llm = LLM(model=model, dtype="bfloat16", enforce_eager=True, max_model_len={context}, max_num_seqs={in_flight})
sampling = SamplingParams(temperature=0.0, max_tokens={max_tokens})
llm.chat(prompts[:{in_flight}], sampling, use_tqdm=False)
started = time.monotonic()
outputs = llm.chat(prompts, sampling, use_tqdm=False)
seconds = time.monotonic() - started
json.dump({{"tokens": sum(len(o.outputs[0].token_ids) for o in outputs), "seconds": seconds}}, open(target, "w"))
"""


def vllm_alone(model: Path, prompts: list[Any], kv_cache_gib: int, scratch: Path) -> dict[str, float]:
    """Answer the prompts with vLLM in a process of its own; returns its tokens and seconds."""
    import os

    asked, told = scratch / "prompts.json", scratch / "alone.json"
    asked.write_text(json.dumps(prompts))
    script = ALONE.format(context=CONTEXT, in_flight=IN_FLIGHT, max_tokens=MAX_TOKENS)
    environment = {**os.environ, "VLLM_CPU_KVCACHE_SPACE": str(kv_cache_gib), "VLLM_LOGGING_LEVEL": "WARNING"}
    subprocess.run([sys.executable, "-c", script, str(model), str(asked), str(told)], env=environment, check=True)
    found: dict[str, float] = json.loads(told.read_text())
    return found


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="rollouts-vllm-") as directory:
        print(json.dumps(through_serve(Path(directory)), indent=2))
