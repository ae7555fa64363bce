"""ALFWorld: household tasks in text, played in the real TextWorld engine."""

from agenttuning.environments.alfworld.environment import ALFWorld, ALFWorldSettings

__all__ = ["ALFWorld", "ALFWorldSettings"]
