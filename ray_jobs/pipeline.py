"""Submit with `ray job submit --working-dir . -- python ray_jobs/pipeline.py --recipe configs/demo.yaml`.

The same function as `agenttuning run`, with the same arguments.
"""

import sys

from agenttuning.cli import main

if __name__ == "__main__":
    main(["run", *sys.argv[1:]])
