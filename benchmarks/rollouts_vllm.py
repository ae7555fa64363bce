"""vLLM through Ray Serve with 32 episodes in flight, against vLLM alone on the same prompts.

    python benchmarks/rollouts_vllm.py [--episodes N]

Episodes of the database environment are played by the embedded model behind Ray Serve, greedily, 32 at once, by one
rollout worker, after a few that warm it up. The generated tokens of all their calls over the wall time are one rate;
the last episodes, when fewer than 32 are left, count. Then vLLM alone, in a process of its own with the same engine
arguments, cores, preloaded libraries and prefix cache, gets the prompts of all those calls at once, after the same
warm-up; its generated tokens over its wall time are the other. So it never waits for an episode's next turn; and the
prompts come 32 episodes after another, turn by turn, so that it finds as much in its prefix cache as episodes do.
"""

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

EPISODES, IN_FLIGHT, MAX_TOKENS, CONTEXT, STEPS = 192, 32, 64, 2048, 4


def through_serve(scratch: Path, episodes: int = EPISODES) -> dict[str, Any]:
    """Return both rates and their ratio."""
    import ray

    from agenttuning.environments.base import make_environment
    from agenttuning.machine import cache_directory
    from agenttuning.models import resolve_model
    from agenttuning.policies.serving import ray_environment, served
    from agenttuning.recipe import EnvironmentSpec, Model, PolicySpec, Recipe, Rollout, Serving

    model = resolve_model(Model(), cache_directory() / "models")
    serving = Serving(max_model_len=CONTEXT, max_num_seqs=IN_FLIGHT)
    rollout = Rollout(episodes_in_flight=IN_FLIGHT, context_tokens=CONTEXT - MAX_TOKENS)
    recipe = Recipe(environments={"db": EnvironmentSpec(max_steps=STEPS)}, rollout=rollout)
    with make_environment("db", {}, None) as environment:
        tasks = list(environment.tasks("train", episodes + min(episodes, IN_FLIGHT), 0))
    os.environ.update(ray_environment())
    ray.init(address="local", include_dashboard=False, object_store_memory=300 * 2**20, log_to_driver=False)
    try:
        with served(model, serving, "benchmark") as endpoint:
            print("  vLLM is up behind Ray Serve", flush=True)
            policy = PolicySpec(
                kind="endpoint", base_url=endpoint.base_url, model=endpoint.model, temperature=0.0,
                max_tokens=MAX_TOKENS, concurrency=IN_FLIGHT, send_seed=endpoint.takes_seed,
            )  # fmt: skip
            _, warm, _ = play(recipe, policy, tasks[episodes:], scratch / "warm")
            seconds, prompts, tokens = play(recipe, policy, tasks[:episodes], scratch / "episodes")
    finally:
        ray.shutdown()
    print(f"  through Serve: {tokens} tokens in {seconds:.0f} s; now vLLM alone", flush=True)
    alone = vllm_alone(model, serving, warm, prompts, scratch)
    rate, alone_rate = tokens / seconds, alone["tokens"] / alone["seconds"]
    return {
        "tokens_per_second": rate,
        "alone_tokens_per_second": alone_rate,
        "ratio": rate / alone_rate,
        "episodes": episodes,
        "prompts": len(prompts),
        "tokens": tokens,
        "alone_tokens": alone["tokens"],
    }


def play(recipe: Any, policy: Any, tasks: list[Any], folder: Path) -> tuple[float, list[Any], int]:
    """Play the tasks; return seconds, the prompts of all calls, and their generated tokens."""
    from agenttuning.rollout.worker import EpisodeWorker, RolloutPlan
    from agenttuning.storage import Store
    from agenttuning.storage.segments import read_trajectories

    store = Store(str(folder))

    async def all_of_them() -> float:
        worker = EpisodeWorker(RolloutPlan(recipe, policy, store))
        started = time.monotonic()
        reports = await asyncio.gather(*(worker.play(task, 0) for task in tasks))
        seconds = time.monotonic() - started
        await worker.aclose()
        if failures := [report.failure for report in reports if report.failure]:
            raise SystemExit(f"{len(failures)} episodes failed: {failures[0]}")
        return seconds

    seconds = asyncio.run(all_of_them())
    calls, tokens = [], 0
    for number, trajectory in enumerate(read_trajectories(store)):
        for call in trajectory.calls:
            prompt = [{"role": t.role, "content": t.content} for t in trajectory.turns[: call.turn]]
            calls.append((number // IN_FLIGHT, call.turn, prompt))
            tokens += call.completion_tokens or 0
    prompts = [prompt for *_, prompt in sorted(calls, key=lambda call: call[:2])]
    return seconds, prompts, tokens


ALONE = """
import json, sys, time
from vllm import LLM, SamplingParams
asked, target = sys.argv[1:]
with open(asked) as file:
    asked = json.load(file)
llm = LLM(model=asked["model"], **asked["engine"])
sampling = SamplingParams(temperature=0.0, max_tokens=asked["max_tokens"])
llm.chat(asked["warm"], sampling, use_tqdm=False)
started = time.monotonic()
outputs = llm.chat(asked["prompts"], sampling, use_tqdm=False)
seconds = time.monotonic() - started
with open(target, "w") as file:
    json.dump({"tokens": sum(len(o.outputs[0].token_ids) for o in outputs), "seconds": seconds}, file)
"""


def vllm_alone(model: Path, serving: Any, warm: list[Any], prompts: list[Any], scratch: Path) -> dict[str, float]:
    """Answer the prompts with vLLM in a process of its own; returns its tokens and seconds."""
    from agenttuning.policies.serving import cpu_environment, engine_settings

    asked, told = scratch / "asked.json", scratch / "alone.json"
    engine = engine_settings(serving)
    words = {"model": str(model), "engine": engine, "max_tokens": MAX_TOKENS, "warm": warm, "prompts": prompts}
    asked.write_text(json.dumps(words))
    environment = {**os.environ, **cpu_environment(serving)}
    subprocess.run([sys.executable, "-c", ALONE, str(asked), str(told)], env=environment, check=True)
    found: dict[str, float] = json.loads(told.read_text())
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--episodes", type=int, default=EPISODES)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="rollouts-vllm-") as directory:
        print(json.dumps(through_serve(Path(directory), options.episodes), indent=2))
