"""Actions on recorded web pages, chosen among candidates in rounds of five, as Mind2Web is evaluated.

`environment.Mind2Web` is what the registry finds under the name `mind2web`. The rest, lowest first: `records` (the
published format), `bundle` (the tasks that come with the package), `dom` (pages as trees), `ranking` (BM25 and files of
scores), `protocol`, `grammar`, `grading`, `tasks`, `thoughts` and `expert`. Two modules are programs: `recorder` makes
records from real pages with a browser (`scripts`, `shop_scripts`, `sites`, `snapshot`), `ranker` trains the ranker.
"""

from agenttuning.environments.mind2web.environment import Mind2Web

__all__ = ["Mind2Web"]
