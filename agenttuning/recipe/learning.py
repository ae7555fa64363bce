"""Sections about what is kept of the episodes, mixed and trained on."""

from typing import Annotated, Literal

from pydantic import Field

from agenttuning.recipe.base import Fraction, Positive, Section


class EvaluationSet(Section):
    """One evaluation split that training text must not contain."""

    path: str
    """File, directory or URI of JSON, JSON lines or Parquet records, one sample each."""
    fields: tuple[str, ...] = ()
    """Keys whose text is compared; empty: all text fields of a record."""


OnBadTurn = Literal["drop", "cut", "mask"]


class Curation(Section):
    """Which trajectories are worth learning from. Each rule can be switched off by name."""

    inputs: tuple[str, ...] = ()
    """Further directories of trajectories (paths or URIs), such as another run's `trajectories` or `imported/x`."""
    rules: tuple[str, ...] = (
        "reward",
        "form",
        "repetition",
        "hindsight",
        "misalignment",
        "truncated",
        "scrub",
        "contamination",
        "duplicate",
        "near_duplicate",
    )
    """Rules in order; a trajectory is dropped by the first that objects. There is also `near_task`."""
    on_bad_turn: OnBadTurn = "drop"
    """What happens where a rule names the bad turns: drop the trajectory, cut it before them, or mask their loss."""
    bad_turns: dict[str, OnBadTurn] = Field(default_factory=dict)
    """The same for single rules by name."""
    max_repeated_actions: Positive = 2
    """`repetition`: the same action with the same observation more often than this drops the trajectory."""
    require_thought: Fraction | None = None
    """`form`: least share of trained turns that carry a thought; unset: all of them, and none of imported records."""
    near_duplicate: float = Field(default=0.9, gt=0.0, le=1.0)
    """`near_duplicate`: least similarity (Jaccard, estimated) of two trajectories' texts."""
    near_task: float = Field(default=0.9, gt=0.0, le=1.0)
    """`near_task`: least similarity of the texts that show two tasks; of such tasks one trajectory stays."""
    evaluation_sets: dict[str, EvaluationSet] = Field(default_factory=dict)
    """`contamination`: further evaluation splits by name."""
    own_tests: bool = True
    """`contamination`: compare with what the run itself is measured on: its test and shifted tasks, and the dialogues
    and instructions of the general probe."""
    max_contamination: Fraction = 0.5
    """`contamination`: drop a trajectory that contaminates a larger share than this of one evaluation sample."""
    quota: dict[str, Positive] = Field(default_factory=dict)
    """Trajectories to keep, by environment: generation stops there, no more are kept, what is missing is reported."""
    pairs: bool = False
    """Write `pairs.parquet`: a success and a failure of the same task, for preference training."""
    licences: dict[str, str] = Field(default_factory=dict)
    """Licence of the tasks and texts, by environment; it travels with each item into the model card."""
    teacher_terms: str | None = None
    """Terms under which the teacher's text may be trained on; unset, the policy is named and the terms are not."""


class Source(Section):
    """One source of training items."""

    kind: Literal["trajectories", "self", "sharegpt", "messages", "agentinstruct"] = "self"
    """`trajectories`: this run's curated ones; `self`: the base model's own answers to bundled instructions;
    the others: a file or hub id in that format."""
    path: str | None = None
    """File, directory, URI or hub id, for the kinds that read one."""
    weight: float = Field(gt=0.0)
    """Share of this source in the items of every step, relative to the other weights."""
    limit: Positive | None = None
    """Use at most this many items."""


class SelfAnswers(Section):
    """The base model's own answers to bundled instructions (self-distillation): the default general source."""

    count: Positive = 400
    """How many of the bundled instructions to answer."""
    samples: Positive = 1
    """Answers to each; one is enough where the mixture draws no more items than there are instructions."""
    temperature: float = Field(default=1.0, ge=0.0)
    """1 is the model's own distribution. Less sharpens what is learned, and general loss rises."""
    max_tokens: Positive = 160
    """A longer answer is learned up to here, without an end."""
    concurrency: Positive = 48


class Mixture(Section):
    """What the training items are drawn from. The paper: 0.2 agent, 0.8 general (of it GPT-4 : GPT-3.5 = 1 : 4)."""

    sources: dict[str, Source] = Field(
        default_factory=lambda: {
            "agent": Source(kind="trajectories", weight=0.2),
            "general": Source(kind="self", weight=0.8),
        }
    )
    """Named sources with weights; weights are normalised."""
    self_answers: SelfAnswers = SelfAnswers()
    max_length: Positive = 2048
    """Items of more tokens follow `too_long`."""
    too_long: Literal["drop", "cut"] = "drop"
    """`drop`, or `cut` at a turn boundary keeping the opening turns; both are counted."""


class Lora(Section):
    """Low-rank adapters instead of all weights; merged into the exported model."""

    rank: Positive = 32
    alpha: Positive = 64
    """Adapters count alpha / rank times."""
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    targets: tuple[str, ...] | None = None
    """Ends of the names of the linear layers that get adapters; unset: all but the output head."""
    quantize: Literal["nf4"] | None = None
    """Hold the frozen linear layers in 4 bits while training (QLoRA), by bitsandbytes, on one worker with
    `training.zero_stage=0`. The export merges the adapters into the base model's own weights."""


class Validation(Section):
    """Loss on items that are held out of the training, measured on its checkpoints by a task beside the workers."""

    items: Positive = 100
    """Held out of each source; at most a tenth of it."""
    episodes: int = Field(default=0, ge=0)
    """Test episodes to play with each of these checkpoints, greedily and one after the other; 0: none."""
    cpus: float = Field(default=1.0, gt=0.0)
    gpus: float = Field(default=0.0, ge=0.0)
    """Of the task, which holds the whole model."""


class Training(Section):
    """The fine-tuning step."""

    steps: Positive = 120
    """Optimizer steps."""
    items_per_step: Positive = 16
    """Items drawn by the mixture for one optimizer step, over all workers."""
    row_tokens: Positive = 2048
    """Capacity of a packed row: one micro-step of one worker."""
    share_prefixes: bool = True
    """Items of a row that begin alike, such as an environment's instruction, pass that beginning through the network
    once. Gradients are those of the separate items."""
    learning_rate: float = Field(default=1e-4, gt=0.0)
    min_learning_rate_ratio: Fraction = 0.1
    """Floor of the cosine schedule as a share of `learning_rate`."""
    warmup_ratio: Fraction = 0.02
    weight_decay: float = Field(default=0.0, ge=0.0)
    betas: tuple[float, float] = (0.9, 0.95)
    max_grad_norm: float = Field(default=1.0, gt=0.0)
    dtype: Literal["auto", "bfloat16", "float32"] = "auto"
    """`auto`: bfloat16 where the device computes it natively, else float32; what was chosen is logged."""
    attention: Literal["auto", "segments", "flash_attention_2", "flash_attention_3", "flash_attention_4", "varlen"] = (
        "auto"
    )
    """`auto`: in bfloat16 on a GPU the newest flash-attention that is here, else PyTorch's own varlen kernel. In
    float32 and on a CPU `segments`: one call per packed segment. The kernels compute in bfloat16 alone; what was chosen
    is logged."""
    workers: Positive = 1
    use_gpu: bool = False
    accelerator_type: str | None = None
    """The workers' GPU by Ray's name, such as `H100` or `A100-80G`: they run on nodes that have it (for Ray both A100s
    are `A100`), and `--dry-run` counts its memory and speed. Unset: any; counted is that of `serving`, else an H100."""
    cpus_per_worker: float = Field(default=2.0, gt=0.0)
    zero_stage: Literal[0, 1, 2, 3] = 3
    """DeepSpeed ZeRO stage; 0 is plain PyTorch on one worker."""
    offload_optimizer: bool = False
    """Keep optimizer states in host memory (ZeRO-offload)."""
    activation_checkpointing: bool = False
    freeze_embeddings: bool = False
    """Leave the token embeddings and the output head as they are. Adam moves a rare token's row at the full rate
    whatever its gradient, which in a small model costs more general ability than it teaches."""
    lora: Lora | None = None
    """Train low-rank adapters on the linear layers and nothing else."""
    validation: Validation | None = None
    """Measure the loss on held-out items at every checkpoint, without stopping the workers."""
    checkpoint_every: Positive = 50
    """Steps between checkpoints."""
    keep_checkpoints: Positive = 2
    max_failures: int = Field(default=3, ge=0)
    """Worker failures after which training gives up; each restart resumes from the last checkpoint."""
    collective_timeout_s: float = Field(default=1800.0, gt=0.0)
    """A worker that waits longer than this for the others fails, and all are started again."""
    max_bad_steps: Positive = 10
    """Steps with a loss or gradient that is not finite are skipped; more than this stops the run."""
    logits_chunk: Positive = 4096
    """Supervised positions whose logits are held at once."""
    max_seconds: float | None = Field(default=None, gt=0)
    """Cut `steps` so that training stays near this time, by the speed of the first steps; what was cut is said."""
