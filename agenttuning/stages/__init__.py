"""The bodies of the stages: each reads directories of the run, writes one, and can be run again.

`pipeline` puts them in order and wraps them in timing and messages. A stage that is done returns what it stored; one
that was cut off continues. Heavy packages are imported inside, so that `agenttuning --help` stays fast.
"""

from agenttuning.stages.again import replay, rescore
from agenttuning.stages.curating import curate, import_data
from agenttuning.stages.generating import generate
from agenttuning.stages.learning import export, train
from agenttuning.stages.measuring import evaluate, report
from agenttuning.stages.mixing import check_mixture, mix
from agenttuning.stages.tasks import build_tasks, tasks_table

__all__ = [
    "build_tasks",
    "check_mixture",
    "curate",
    "evaluate",
    "export",
    "generate",
    "import_data",
    "mix",
    "replay",
    "report",
    "rescore",
    "tasks_table",
    "train",
]
