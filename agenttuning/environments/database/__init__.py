"""Questions answered and changes made with SQL, on an embedded engine that is fresh for every task.

`environment.Database` is what the registry finds under the name `db`. The rest, lowest first: `tables` (what a table
is and its fingerprint), `queries` (structured queries, their SQL and their independent evaluation), `engine` and
`dialect` (where SQL runs), `grammar`, `grading`, `pools`, `schemas`, `wording`, `families` and `tasks` (where tasks
come from), `thoughts` and `expert` (who solves them), `published` (tasks from published data).
"""

from agenttuning.environments.database.environment import Database

__all__ = ["Database"]
