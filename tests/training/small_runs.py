"""Small training runs for the tests of this room; run as a script it forks worker processes of such runs."""

import atexit
import functools
import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from agenttuning.recipe import Training
from agenttuning.storage import Store
from agenttuning.training.batch import Items, load_items
from agenttuning.training.plan import Plan, make_plan
from agenttuning.training.prefixes import sort_items

VOCABULARY = 199
WEIGHTS = {"agent": 0.25, "general": 0.75}


def save_small_model(path: Path, dtype: torch.dtype = torch.float32, tied: bool = True) -> Path:
    """A random Llama of about 60,000 parameters with grouped key-value heads."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(3)
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=48, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=512, tie_word_embeddings=tied, initializer_range=0.2,
    )  # fmt: skip
    LlamaForCausalLM(config).to(dtype).save_pretrained(path)
    (path / "tokenizer_config.json").write_text("{}")
    return path


def write_items(path: Path, longest: int = 60, seed: int = 0, common: int = 0) -> Store:
    """Two sources of random items, a third of their tokens supervised; the agent's all begin with `common` tokens."""
    rng = np.random.default_rng(seed)
    store = Store(str(path))
    for name, count in (("agent", 12), ("general", 30)):
        rows = []
        for number in range(count):
            size = int(rng.integers(4, longest + 1))
            mask = rng.random(size) < 0.35
            mask[0], mask[-1] = False, True
            ids = rng.integers(3, VOCABULARY, size).tolist()
            if name == "agent" and common:
                ids, mask = [*range(5, 5 + common), *ids], np.concatenate([np.zeros(common, bool), mask])
                size += common
            rows.append({"id": f"{name}-{number}", "source": name, "ids": ids, "mask": mask.tolist(),
                         "tokens": size, "supervised": int(mask.sum())})  # fmt: skip
        place, shared = sort_items([np.asarray(r["ids"]) for r in rows], [np.asarray(r["mask"]) for r in rows])
        table = pa.Table.from_pylist(rows).append_column("place", pa.array(place))
        store.write_table(f"{name}.parquet", table.append_column("shared", pa.array(shared)))
    return store


def small_training(**changes: Any) -> Training:
    settings = dict(steps=10, items_per_step=6, row_tokens=96, learning_rate=1e-2, warmup_ratio=0.2, zero_stage=0,
                    dtype="float32", checkpoint_every=5, logits_chunk=16)  # fmt: skip
    return Training.model_validate(settings | changes)


def plan_for(items: dict[str, Items], training: Training, world_size: int = 1, seed: int = 5) -> Plan:
    return make_plan({n: i.counts for n, i in items.items()}, WEIGHTS, training, seed, world_size)


def exported_weights(output: Store) -> dict[str, torch.Tensor]:
    from safetensors.torch import load

    found: dict[str, torch.Tensor] = {}
    for name in output.list(prefix="weights/", suffix=".safetensors"):
        found |= load(output.read(name))
    return found


def run_workers(
    model: Path,
    items: Store,
    output: Path,
    training: Training,
    world_size: int = 1,
    kill_at: int | None = None,
    seeds: Sequence[int] = (),
) -> list[int]:
    """Run a training with one process per rank and return their exit codes; `kill_at` makes each kill itself there.

    With `seeds` nothing is trained: `output` becomes a file of the gradients of so many plans' first steps.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    spec = {"model": str(model), "items": items.uri, "output": str(output), "kill_at": kill_at, "port": port,
            "seeds": list(seeds), "world_size": world_size, "training": training.model_dump(mode="json")}  # fmt: skip
    nursery = _nursery()
    assert nursery.stdin is not None
    assert nursery.stdout is not None
    nursery.stdin.write(json.dumps(spec) + "\n")
    nursery.stdin.flush()
    codes: list[int] = json.loads(nursery.stdout.readline())
    if kill_at is None and any(codes):
        raise AssertionError("\n".join(f.read_text()[-3000:] for f in output.parent.glob(f"{output.name}-*.log")))
    return codes


@functools.cache
def _nursery() -> "subprocess.Popen[str]":
    """A process that has imported what workers need and forks them: importing takes seconds, a fork does not."""
    env = {**os.environ, "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}
    command = [sys.executable, __file__]
    nursery = subprocess.Popen(command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    atexit.register(nursery.kill)
    return nursery


def serve() -> None:
    """Fork workers for every line of standard input, and answer with their exit codes."""
    for module in ("transformers.integrations", "transformers.models.llama.modeling_llama",
                   "deepspeed.runtime.zero.muon.muon_optimizer", "agenttuning.training.loop"):  # fmt: skip
        importlib.import_module(module)
    for line in sys.stdin:
        spec = json.loads(line)
        workers = [_fork(spec, rank) for rank in range(spec["world_size"])]
        codes: dict[int, int] = {}
        deadline = time.monotonic() + 120
        while len(codes) < len(workers):
            done, status = os.waitpid(-1, os.WNOHANG)
            if done:
                codes[done] = os.waitstatus_to_exitcode(status)
            if time.monotonic() > deadline or any(codes.values()):
                for worker in set(workers) - set(codes):
                    os.kill(worker, signal.SIGKILL)
            time.sleep(0.02)
        print(json.dumps([codes[worker] for worker in workers]), flush=True)


def _fork(spec: dict[str, Any], rank: int) -> int:
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        log = os.open(f"{spec['output']}-{rank}.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(log, 1)
        os.dup2(log, 2)
        place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": spec["world_size"], "MASTER_ADDR": "127.0.0.1",
                 "MASTER_PORT": spec["port"]}  # fmt: skip
        os.environ.update({name: str(value) for name, value in place.items()})
        work(spec)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def work(spec: dict[str, Any]) -> None:
    """Be one worker."""
    from agenttuning.training.loop import TrainConfig, Wish, train

    torch.set_num_threads(1)
    training = Training.model_validate(spec["training"])
    items = load_items(Store(spec["items"]), ["agent", "general"])
    if spec["seeds"]:
        found = gradients(Path(spec["model"]), items, training, spec["seeds"])
        if os.environ["RANK"] == "0":
            torch.save(found, spec["output"])
        return
    plan = plan_for(items, training, spec["world_size"])

    def report(metrics: dict[str, Any]) -> Wish:
        if metrics["step"] == spec["kill_at"]:
            os.kill(os.getpid(), signal.SIGKILL)
        return Wish.GO_ON

    tell = functools.partial(print, flush=True)
    train(TrainConfig(training, Path(spec["model"]), Store(spec["output"]), seed=1), plan, items, report, tell)


def gradients(
    model: Path, items: dict[str, Items], training: Training, seeds: Sequence[int]
) -> list[dict[str, torch.Tensor]]:
    """The gradients of the first step of several plans, over all ranks, before anything is clipped or updated."""
    from deepspeed.utils import safe_get_full_grad

    from agenttuning.training.device import choose_numerics
    from agenttuning.training.engine import make_engine
    from agenttuning.training.ranks import join_ranks
    from agenttuning.training.step import _accumulate

    ranks = join_ranks(training.zero_stage, training.use_gpu)
    engine = make_engine(model, training, choose_numerics(training))
    found = []
    for seed in seeds:
        step = plan_for(items, training, ranks.world_size, seed).step(0)
        _accumulate(engine, step.ranks[ranks.rank], items, step.supervised, ranks)
        weights: Any = engine.causal
        full = {n: safe_get_full_grad(p) if training.zero_stage else p.grad for n, p in weights.named_parameters()}
        found.append({name: gradient.clone() for name, gradient in full.items()})
        # At a learning rate of 0 a step does no more than clear them.
        engine.step(0.0)
    return found


if __name__ == "__main__":
    serve()
