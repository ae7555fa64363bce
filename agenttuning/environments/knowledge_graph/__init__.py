"""Questions answered with seven tools over a knowledge graph in a SPARQL store.

`environment.KnowledgeGraph` is the environment, with the name `kg`. The rest, lowest first: `programs` (what a
variable holds, its SPARQL), `graph` (a graph in memory and the evaluation of programs without SPARQL), `stores` and
`cache` (where SPARQL runs), `tools`, `grammar` and `grading` (what the agent does), `plans` (programs as calls),
`domains` and `world` (the embedded graph, with the geography that `make_geography` extracted), `families`, `wording`
and `tasks` (generated questions), `published` and `sources` (published graphs and questions), `thoughts` and `expert`
(who solves them).
"""

from agenttuning.environments.knowledge_graph.environment import KnowledgeGraph

__all__ = ["KnowledgeGraph"]
