"""Throw-away machines for untrusted shell scripts: bubblewrap boxes by default, Docker containers as an option.

Both are a `Box`: one persistent bash, limits on all it uses, no network, and files that are read from outside.
"""

from agenttuning.environments.sandbox.box import Box, CommandResult, Limits
from agenttuning.environments.sandbox.bubblewrap import Sandbox, sandbox_level, sandbox_problem
from agenttuning.environments.sandbox.docker import DockerBox, docker_problem

__all__ = [
    "Box",
    "CommandResult",
    "DockerBox",
    "Limits",
    "Sandbox",
    "docker_problem",
    "sandbox_level",
    "sandbox_problem",
]
