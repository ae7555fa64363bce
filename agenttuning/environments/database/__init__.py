"""Questions answered and changes made with SQL, on a database that is fresh for every task.

`environment.Database` is what the registry finds under the name `db`. The rest, lowest first:

- `tables` (what a table is and its fingerprint), `queries` (structured queries, their SQL and their independent
  evaluation), `grammar`, `grading`;
- where SQL runs: `dialect`, `mysql` and `engine` (SQLite in memory), `server` and `mariadb`;
- where tasks come from: `pools`, `schemas`, `wording`, `families` and `tasks` (generated); `stored`, `postgres`,
  `sqltext`, `gold`, `questions` and `edits` (with gold SQL); `published` (which source has what);
- who solves them: `thoughts`, `expert` (generated tasks) and `derived` (tasks with gold SQL).
"""

from agenttuning.environments.database.environment import Database

__all__ = ["Database"]
