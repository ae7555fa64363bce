"""This process among the workers of a run, with `torch.distributed` or alone."""

import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TypeVar, cast

import torch
import torch.distributed as dist

from agenttuning.training.device import local_device

T = TypeVar("T")


@dataclass(frozen=True)
class Ranks:
    """One process of `world_size`.

    Attributes:
        rank: this process, from 0.
        local_rank: this process on its node, from 0.
        world_size: processes in all.
        device: where tensors lie that cross processes.
    """

    rank: int = 0
    local_rank: int = 0
    world_size: int = 1
    device: str = "cpu"

    def barrier(self) -> None:
        """Wait for all."""
        if self.world_size > 1:
            dist.barrier()

    def sums(self, values: list[float]) -> list[float]:
        """Return the sums over all processes, in float64 on a CPU."""
        if self.world_size == 1:
            return values
        tensor = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(tensor)
        return cast(list[float], tensor.tolist())

    def from_first(self, make: Callable[[], T]) -> T:
        """Return what `make` gives on rank 0, on every rank."""
        if self.world_size == 1:
            return make()
        held = [make() if self.rank == 0 else None]
        dist.broadcast_object_list(held, src=0)
        return cast(T, held[0])


def join_ranks(zero_stage: int, use_gpu: bool, timeout_s: float = 1800.0) -> Ranks:
    """Join the process group this process was started in (Ray Train, torchrun), or make one of itself for ZeRO.

    Args:
        zero_stage: the recipe's.
        use_gpu: the recipe's.
        timeout_s: after which a collective call fails, in a group that is made here.

    Raises:
        ConfigurationError: the recipe asks for a GPU that is not here.
    """
    local = int(os.environ.get("LOCAL_RANK", 0))
    device = local_device(use_gpu, local)
    if use_gpu:
        torch.cuda.set_device(device)
    if dist.is_initialized():
        pass
    elif "RANK" in os.environ and "MASTER_ADDR" in os.environ:
        dist.init_process_group("nccl" if use_gpu else "gloo", timeout=timedelta(seconds=timeout_s))
    elif zero_stage:
        meeting = Path(tempfile.mkdtemp(prefix="agenttuning-")) / "meeting"
        dist.init_process_group("nccl" if use_gpu else "gloo", init_method=f"file://{meeting}", rank=0, world_size=1)
        # DeepSpeed asks the environment for these.
        os.environ.setdefault("LOCAL_RANK", "0")
    else:
        return Ranks(device=device)
    return Ranks(dist.get_rank(), local, dist.get_world_size(), device)
