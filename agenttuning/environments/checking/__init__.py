"""`agenttuning environment check`: what is wrong with an environment, one's own or one of this package.

It samples tasks and plays them as a rollout does. Each check looks at one promise of the contract (`base.Environment`)
and says what it found and, where the promise is broken, the rule and the cure. A check that meets an exception reports
it. What it cannot see: whether a task is worth learning, and what an agent does that no expert and no malformed reply
here does.

`run` holds the list of checks, `play` plays, `verdict` words the outcome; the checks are in `tasks` (contract, tasks,
splits), `replies` (texts and grammar), `episodes` (expert, leaks, grading, determinism) and `resources`.
"""

from agenttuning.environments.checking.run import check_class, check_environment
from agenttuning.environments.checking.verdict import Check

__all__ = ["Check", "check_class", "check_environment"]
