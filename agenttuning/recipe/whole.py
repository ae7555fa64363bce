"""The whole recipe, its YAML loader, and `a.b=c` overrides."""

import difflib
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, Field, ValidationError, model_validator

from agenttuning.errors import ConfigurationError
from agenttuning.recipe.base import Section
from agenttuning.recipe.learning import (
    Curation,
    Mixture,
    Training,
)
from agenttuning.recipe.measuring import Cluster, Evaluation, Serving, Tracking
from agenttuning.recipe.playing import PAPER_THRESHOLDS, Data, EnvironmentSpec, Model, PolicySpec, Rollout, Run

DEFAULT_ENVIRONMENTS = ("os", "db", "alfworld")
"""Of a recipe that names none."""


class Recipe(Section):
    """A whole run."""

    run: Run = Run()
    data: Data = Data()
    model: Model = Model()
    environments: dict[str, EnvironmentSpec] = Field(
        default_factory=lambda: {name: EnvironmentSpec() for name in DEFAULT_ENVIRONMENTS}
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

    @model_validator(mode="before")
    @classmethod
    def _filled(cls, raw: Any) -> Any:
        """Give environments the threshold that the paper had for theirs, and the number of tasks asked for of all."""
        if not isinstance(raw, dict):
            return raw
        environments = raw.get("environments", dict.fromkeys(DEFAULT_ENVIRONMENTS))
        if not isinstance(environments, dict):
            return raw
        rollout = raw.get("rollout")
        count = rollout.get("tasks_per_environment") if isinstance(rollout, dict) else None
        filled = {}
        for name, spec in environments.items():
            if isinstance(spec, dict | None):
                threshold = {"reward_threshold": PAPER_THRESHOLDS[name]} if name in PAPER_THRESHOLDS else {}
                spec = threshold | (spec or {}) | ({} if count is None else {"train_tasks": count})
            filled[name] = spec
        return {**raw, "environments": filled}

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
