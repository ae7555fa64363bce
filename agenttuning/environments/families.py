"""Which families of generated tasks an environment draws from: all of them, or those that its settings name."""

from collections.abc import Collection, Sequence
from difflib import get_close_matches

from agenttuning.errors import ConfigurationError


def chosen_families(environment: str, known: Collection[str], wanted: Sequence[str] | None) -> list[str]:
    """Return the families to draw from, in the order of `known`.

    Args:
        environment: its registered name, for the message.
        known: all families.
        wanted: the setting `families`; None: all.

    Raises:
        ConfigurationError: an unknown family, or none at all.
    """
    if wanted is None:
        return list(known)
    where = f"environments.{environment}.settings.families"
    if not wanted:
        raise ConfigurationError(f"{where}: no family is named; leave it out to draw from all: {', '.join(known)}")
    for name in wanted:
        if name not in known:
            close = get_close_matches(name, list(known), n=1)
            hint = f"did you mean {close[0]!r}? " if close else ""
            raise ConfigurationError(f"{where}: no family is called {name!r}; {hint}known: {', '.join(known)}")
    return [name for name in known if name in wanted]
