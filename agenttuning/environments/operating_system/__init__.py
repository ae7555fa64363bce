"""The Operating System environment: questions and chores answered through a real bash in a sandbox."""

from agenttuning.environments.operating_system.environment import OperatingSystem, OperatingSystemSettings

__all__ = ["OperatingSystem", "OperatingSystemSettings"]
