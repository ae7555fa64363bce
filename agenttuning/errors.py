"""The flat vocabulary of failures.

Six kinds, told apart by what a caller does next:

- `ConfigurationError`: nothing will work until the user changes something. Stops the run at once.
- `InfrastructureError`: the world broke (time-out, 429, 5xx, dead process). Retried, never training data.
- `BudgetExceeded`: the money that the recipe allows is spent. Ends the run with what is done.
- `MalformedReply`: the policy's text breaks the action grammar. The episode goes on or ends as an outcome.
- `DataError`: a stored or given file cannot be used as it is.
- `StorageError`: the run directory cannot be written or reached. Stops the run; what is done is kept.

Each message states the rule, the value and the cure. A bad episode is data, not a crash: task failures are
`agenttuning.trajectory.Outcome` values and have no class here.
"""


class AgentTuningError(Exception):
    """Base of every error that the command line prints as one message, without a traceback."""

    exit_code = 1


class ConfigurationError(AgentTuningError):
    """A recipe, a key, a model or a machine is not as it must be. The message names the cure."""

    exit_code = 2


class DataError(AgentTuningError):
    """A data file is missing, empty, torn or of another shape than its format says."""

    exit_code = 3


class InfrastructureError(AgentTuningError):
    """Something outside the task failed: time-out, connection, 408/409/429/5xx, a dead process.

    Attributes:
        retry_after: seconds that the other side asked to wait, or None.
    """

    exit_code = 4

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after

    def __reduce__(self) -> tuple[type["InfrastructureError"], tuple[str, float | None]]:
        """Keep `retry_after` when the error crosses a process."""
        return (type(self), (str(self), self.retry_after))


class BudgetExceeded(AgentTuningError):
    """The money that the recipe allows is spent. The run ends; what is done is kept."""

    exit_code = 6


class MalformedReply(AgentTuningError):
    """A policy's reply does not follow the environment's action grammar; the text tells the policy what was wrong."""


class StorageError(AgentTuningError):
    """The run directory cannot be written or reached: a full disk, a refused key, no network."""

    exit_code = 5
    may_pass = True
    """Whether the same may succeed a little later, where the store is an object store."""
