"""What validation by execution found on the published tasks: `verdicts.json`, by the hash of a record's content.

The file is written by `agenttuning.instructions.published_os`; docs/published-os-tasks.md says what it means.
"""

import json
from functools import cache
from importlib.resources import files


@cache
def dropped_records() -> dict[str, str]:
    """Return the reason by record key, for the records that validation dropped."""
    text = files("agenttuning.environments.operating_system").joinpath("verdicts.json").read_text()
    return {key: str(reason) for key, reason in json.loads(text)["dropped"].items()}
