"""Sections about serving, evaluation, tracking and the cluster."""

from typing import Any, Literal

from pydantic import Field

from agenttuning.recipe.base import Positive, Section


class Serving(Section):
    """The model behind Ray Serve LLM (vLLM) that plays in the evaluation."""

    accelerator: Literal["cpu", "gpu"] = "cpu"
    accelerator_type: str | None = None
    """Ray's name of the GPU (for example `H100`)."""
    tensor_parallel_size: Positive = 1
    replicas: tuple[Positive, Positive] = (1, 1)
    max_model_len: Positive = 4096
    kv_cache_gib: Positive = 2
    """CPU only: memory for the key-value cache."""
    enforce_eager: bool = True
    """Skip compilation: on a CPU it starts in a quarter of the time."""
    max_num_seqs: Positive = 64
    startup_timeout_s: float = Field(default=600.0, gt=0)
    engine_kwargs: dict[str, Any] = Field(default_factory=dict)
    """Further vLLM engine arguments."""


class Evaluation(Section):
    """Base and tuned model under the same prompts, decoding, stop tokens and limits."""

    temperature: float = Field(default=0.0, ge=0.0)
    max_tokens: Positive = 192
    """Completion tokens per turn (the paper: 128)."""
    concurrency: Positive = 32
    """Episodes at once."""
    confidence: float = Field(default=0.95, gt=0.0, lt=1.0)
    general_dialogues: int = Field(default=60, ge=0)
    """Bundled dialogues for the general loss."""
    general_instructions: int = Field(default=60, ge=0)
    """Bundled verifiable instructions for the general success rate."""


class Tracking(Section):
    """Weights & Biases, and the same events as JSON lines."""

    wandb: Literal["auto", "online", "offline", "disabled"] = "auto"
    """`auto`: online where a key is set, else offline."""
    project: str = "agenttuning"
    entity: str | None = None
    group: str | None = None
    """Unset: the run's name."""


class Cluster(Section):
    """How the run reaches Ray."""

    address: str | None = None
    """Ray address; unset: the cluster this process is in, else a Ray on this machine."""
    cpus: Positive | None = None
    """For a Ray started here: its CPUs."""
    object_store_mib: Positive = 512
    """For a Ray started here: size of its object store."""
