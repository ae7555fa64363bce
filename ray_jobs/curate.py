"""Submit with `ray job submit --working-dir . -- python ray_jobs/curate.py --recipe configs/demo.yaml`.

The same function as `agenttuning curate`, with the same arguments.
"""

import sys

from agenttuning.cli import main

if __name__ == "__main__":
    main(["curate", *sys.argv[1:]])
