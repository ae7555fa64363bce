"""One worked game as turns, for prompts that show an example. A test plays it in the engine, word for word."""

from agenttuning.trajectory import Turn


def demonstration(wording: str) -> tuple[Turn, ...]:
    return ()
