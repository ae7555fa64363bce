"""Submit with `ray job submit --working-dir . -- python ray_jobs/evaluate.py --recipe configs/demo.yaml`.

The same function as `agenttuning evaluate`, with the same arguments.
"""

import sys

from agenttuning.cli import main

if __name__ == "__main__":
    main(["evaluate", *sys.argv[1:]])
