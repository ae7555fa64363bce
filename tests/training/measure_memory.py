"""Runs steps of real engines on small models and prints the tensor bytes alive, and those that sizing counts.

Run as a script with a JSON list of cases; with several ranks once for each. Storages are counted from where they are
made to where the last tensor on them goes, so what DeepSpeed and autograd hold counts too.
"""

import gc
import json
import os
import sys
import weakref
from pathlib import Path
from typing import Any

import torch
from small_runs import small_training
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from agenttuning.recipe import Training
from agenttuning.training import zero
from agenttuning.training.architectures import shape_of
from agenttuning.training.batch import Batch
from agenttuning.training.device import choose_numerics
from agenttuning.training.engine import Engine, make_engine
from agenttuning.training.memory import tensor_bytes

VOCABULARY = 1000


class Alive(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Bytes of the storages that operations made and that are still there, and their most."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.most = 0
        self._seen: set[int] = set()

    def add(self, tensor: Any) -> None:
        if not isinstance(tensor, torch.Tensor):
            return
        storage = tensor.untyped_storage()
        if id(storage) not in self._seen:
            self._seen.add(id(storage))
            self.now += storage.nbytes()
            self.most = max(self.most, self.now)
            weakref.finalize(storage, self._gone, id(storage), storage.nbytes())

    def _gone(self, number: int, size: int) -> None:
        self._seen.discard(number)
        self.now -= size

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = function(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            self.add(leaf)
        return out


def save_model(path: Path, case: dict[str, int]) -> dict[str, Any]:
    """Save a random Llama and return its configuration."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=case["hidden"], intermediate_size=case["inner"],
        num_hidden_layers=case["layers"], num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=False,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(path)
    return dict(config.to_dict())


def measure(model: Path, training: Training) -> dict[str, int]:
    """Return bytes between two micro-steps of a step (weights, gradients, optimizer) and the most of two steps."""
    numerics = choose_numerics(training)
    row = torch.randint(0, VOCABULARY, (1, training.row_tokens))
    places = torch.arange(training.row_tokens)
    batch = Batch(row, places[None], places[:-1], row[0, 1:], torch.ones(len(places) - 1),
                  torch.zeros(len(places) - 1, dtype=torch.long), [len(places)], [None])  # fmt: skip
    with Alive() as alive:
        engine: Engine = make_engine(model, training, numerics)
        for parameter in engine.causal.parameters():
            alive.add(parameter.data)
        held = 0
        for step in range(2):
            if step == 1:
                alive.most = alive.now
            for last in (False, True):
                loss, each = engine.losses(batch, 1 / training.row_tokens)
                engine.backward(loss, last)
                del loss, each
                if step == 1 and not last:
                    gc.collect()
                    held = alive.now
            engine.step(1e-4)
        return {"held": held, "most": alive.most}


def main() -> None:
    torch.set_num_threads(1)
    zero.BUCKET = 4096  # Tiny models would vanish beside DeepSpeed's buckets.
    for number, case in enumerate(json.loads(sys.argv[1])):
        training = small_training(**{"row_tokens": 512, "logits_chunk": 4096, **case["training"]})
        path = Path(case["model"])
        if os.environ["RANK"] == "0" and not path.exists():
            save_model(path, case)
        if training.workers > 1 and number == 0:
            torch.distributed.init_process_group("gloo")
        if training.workers > 1:
            torch.distributed.barrier()
        shape = shape_of(json.loads((path / "config.json").read_text()))
        counted = tensor_bytes(shape, training, training.dtype, training.row_tokens)
        print("\n" + json.dumps({"counted": counted, "parameters": shape.parameters, **measure(path, training)}))
        gc.collect()


if __name__ == "__main__":
    main()
