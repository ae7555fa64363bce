"""Two ranks load models under ZeRO-3 and print what each took and holds; run as a script, once for each rank.

The first load warms up what any load needs; the memory is watched during the second one.
"""

import hashlib
import json
import os
import re
import sys
import threading
import time
from pathlib import Path
from typing import Any

import deepspeed
import torch
from small_runs import small_training
from transformers.integrations import HfDeepSpeedConfig

from agenttuning.training.device import Numerics
from agenttuning.training.engine import load_causal
from agenttuning.training.zero import _restore_buffers, zero_config


def resident() -> dict[str, int]:
    status = Path("/proc/self/status").read_text()
    found = {name: re.search(rf"{name}:\s+(\d+) kB", status) for name in ("RssAnon", "RssFile")}
    return {name: int(match[1]) << 10 for name, match in found.items() if match}


def digest(causal: Any) -> str:
    """A hash over names, dtypes and values of all weights and buffers."""
    found = hashlib.sha256()
    for name, tensor in causal.state_dict(keep_vars=True).items():
        with deepspeed.zero.GatheredParameters([tensor], enabled=hasattr(tensor, "ds_id")):
            values = tensor.detach().contiguous().view(-1).view(torch.uint8).numpy().tobytes()
            found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode() + values)
    for name, buffer in causal.named_buffers():
        found.update(f"{name} {buffer.dtype}".encode() + buffer.float().numpy().tobytes())
    return found.hexdigest()


def main() -> None:
    spec = json.loads(sys.argv[1])
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{spec['meeting']}", rank=spec["rank"], world_size=2
    )
    os.environ["LOCAL_RANK"] = str(spec["rank"])
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed(auto_mpi_discovery=False, verbose=False)
    training = small_training(zero_stage=3, dtype="bfloat16", workers=2)
    numerics = Numerics("cpu", "bfloat16", "segments")
    sharded = HfDeepSpeedConfig(zero_config(training, numerics, 512, 2))
    digests = []
    for model in spec["models"][:-1]:
        causal = load_causal(Path(model), training, numerics, False)
        _restore_buffers(causal)
        digests.append(digest(causal))
    idle, peak, stop = resident(), resident(), threading.Event()

    def watch() -> None:
        while not stop.wait(0.002):
            for name, size in resident().items():
                peak[name] = max(peak[name], size)

    watcher = threading.Thread(target=watch)
    watcher.start()
    causal = load_causal(Path(spec["models"][-1]), training, numerics, False)
    time.sleep(0.01)
    stop.set()
    watcher.join()
    assert sharded is not None
    print(json.dumps({"rose": {name: peak[name] - idle[name] for name in idle}, "digests": digests}), flush=True)
    torch.distributed.barrier()


if __name__ == "__main__":
    main()
