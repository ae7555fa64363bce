"""The served models of one run: started when a stage first asks, kept for the next, stopped before training.

Starting vLLM takes the better part of a minute, so the base model that answers the instructions also plays the
evaluation. One model at a time: two would share the machine's cores and memory.
"""

from contextlib import ExitStack
from types import TracebackType
from typing import TYPE_CHECKING, Self

from agenttuning.progress import say
from agenttuning.session import Session

if TYPE_CHECKING:
    from agenttuning.policies.serving import Endpoint


class Servers:
    """Serves `base` or `tuned` on demand. Use as a context manager."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._stack = ExitStack()
        self._running: tuple[str, Endpoint] | None = None

    def __enter__(self) -> Self:
        """Start nothing yet."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop what runs."""
        self.stop()

    def base(self) -> "Endpoint":
        """Return the base model's endpoint."""
        return self._serve("base")

    def tuned(self) -> "Endpoint":
        """Return the tuned model's endpoint."""
        return self._serve("tuned")

    def stop(self) -> None:
        """Stop the model that runs, if any."""
        self._running = None
        self._stack.close()

    def _serve(self, which: str) -> "Endpoint":
        if self._running is not None and self._running[0] == which:
            return self._running[1]
        from agenttuning.policies.serving import served

        self.stop()
        session = self._session
        session.ray()
        path = session.tuned_dir() if which == "tuned" else session.model_dir()
        say(f"serving the {which} model with vLLM behind Ray Serve")
        name = f"{session.recipe.run.name}-{which}"
        trusted = session.recipe.model.trust_remote_code
        endpoint = self._stack.enter_context(served(path, session.recipe.serving, name, trusted))
        self._running = (which, endpoint)
        return endpoint
