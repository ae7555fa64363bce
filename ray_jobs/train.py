"""Submit with `ray job submit --working-dir . -- python ray_jobs/train.py --recipe configs/demo.yaml`.

The same function as `agenttuning train`, with the same arguments.
"""

import sys

from agenttuning.cli import main

if __name__ == "__main__":
    main(["train", *sys.argv[1:]])
