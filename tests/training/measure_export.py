"""Exports a model and prints how much the process's resident memory rose while it did; run as a script.

The first export warms up what any export needs (libraries, thread pools); the peak is reset before the second.
"""

import json
import re
import sys
from pathlib import Path

import deepspeed  # noqa: F401 (reading a checkpoint imports it: part of the idle process)
import torch

from agenttuning.recipe import Lora
from agenttuning.storage import Store
from agenttuning.training.export import export_model


def resident(field: str) -> int:
    found = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) << 10


def main() -> None:
    spec = json.loads(sys.argv[1])
    lora = Lora(**spec["lora"]) if spec["lora"] else None
    torch.set_num_threads(1)
    for model, training in ((spec["small_model"], spec["small_training"]), (spec["model"], spec["training"])):
        Path("/proc/self/clear_refs").write_text("5")
        idle = resident("VmRSS")
        export_model(Path(model), Store(training), Store(spec["output"]), lora, shard_bytes=spec["shard_bytes"])
    print(json.dumps({"idle": idle, "peak": resident("VmHWM")}))


if __name__ == "__main__":
    main()
