"""What is known of each environment's tasks: how they are tried, and how others write them."""

from agenttuning.environments.base import Environment
from agenttuning.environments.database.environment import Database
from agenttuning.environments.operating_system import OperatingSystem
from agenttuning.errors import ConfigurationError
from agenttuning.instructions.proposals import Proposals
from agenttuning.instructions.shell_proposals import ShellProposals
from agenttuning.instructions.shell_trials import ShellTrials
from agenttuning.instructions.sql_proposals import SqlProposals
from agenttuning.instructions.sql_trials import SqlTrials
from agenttuning.instructions.trials import ContractTrials, Trials


def trials_for(environment: Environment) -> Trials:
    """Return what is known to try on an environment's tasks; for a stranger's, its expert."""
    if isinstance(environment, OperatingSystem):
        return ShellTrials(environment)
    if isinstance(environment, Database):
        return SqlTrials(environment)
    return ContractTrials(environment)


def proposals_for(environment: Environment, split: str = "train", origin: str = "self-instructed") -> Proposals:
    """Return how an environment's tasks are written by others.

    Raises:
        ConfigurationError: they are not.
    """
    if isinstance(environment, OperatingSystem):
        return ShellProposals(environment, split, origin)
    if isinstance(environment, Database):
        return SqlProposals(environment, split, origin)
    raise ConfigurationError(f"instructions: {environment.name!r} takes no proposals or questions; known: os, db")
