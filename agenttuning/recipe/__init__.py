"""The one typed configuration of a run, its YAML loader, and `a.b=c` overrides.

A recipe holds everything that decides a run. Unknown keys are errors with a did-you-mean, values are validated
where they stand, and the resolved recipe is written beside every artefact. An environment's own settings
(`environments.<name>.settings`) are kept raw here and validated by the environment registry, so that this module
stays the lowest floor.
"""

from agenttuning.recipe.base import Section
from agenttuning.recipe.learning import (
    Curation,
    EvaluationSet,
    Lora,
    Mixture,
    OnBadTurn,
    SelfAnswers,
    Source,
    Training,
    Validation,
)
from agenttuning.recipe.measuring import Cluster, Evaluation, Serving, Tracking
from agenttuning.recipe.playing import (
    PAPER_THRESHOLDS,
    BudgetSpec,
    Data,
    EnvironmentSpec,
    Model,
    PolicySpec,
    Prices,
    Rollout,
    Run,
)
from agenttuning.recipe.whole import Recipe, dump_recipe, load_recipe, validate_recipe

__all__ = [
    "PAPER_THRESHOLDS",
    "BudgetSpec",
    "Cluster",
    "Curation",
    "Data",
    "EnvironmentSpec",
    "Evaluation",
    "EvaluationSet",
    "Lora",
    "Mixture",
    "Model",
    "OnBadTurn",
    "PolicySpec",
    "Prices",
    "Recipe",
    "Rollout",
    "Run",
    "Section",
    "SelfAnswers",
    "Serving",
    "Source",
    "Tracking",
    "Training",
    "Validation",
    "dump_recipe",
    "load_recipe",
    "validate_recipe",
]
