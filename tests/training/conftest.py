"""The small model and the items that this room's tests train on; none of them is changed by a test."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import save_small_model, write_items

from agenttuning.storage import Store
from agenttuning.training.attention import register_attention
from agenttuning.training.batch import Items, load_items


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a random Llama."""
    return save_small_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """The encoded tables of two sources."""
    return write_items(tmp_path_factory.mktemp("items"))


@pytest.fixture(scope="session")
def items(store: Store) -> dict[str, Items]:
    """The same, loaded."""
    return load_items(store, ["agent", "general"])


@pytest.fixture(scope="module")
def causal(model: Path) -> Any:
    """The small model in float64, with the kernel for packed rows."""
    from transformers import AutoModelForCausalLM

    register_attention()
    return AutoModelForCausalLM.from_pretrained(model, dtype=torch.float64, attn_implementation="segments")


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """Ray with two CPUs on this machine."""
    import ray

    ray.init(
        address="local", num_cpus=2, include_dashboard=False, object_store_memory=300 * 2**20, log_to_driver=False,
        runtime_env={"env_vars": {"PYTHONPATH": str(Path(__file__).parent)}},
    )  # fmt: skip
    yield
    ray.shutdown()
