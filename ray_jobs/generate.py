"""Submit with `ray job submit --working-dir . -- python ray_jobs/generate.py --recipe configs/demo.yaml`.

The same function as `agenttuning generate`, with the same arguments.
"""

import sys

from agenttuning.cli import main

if __name__ == "__main__":
    main(["generate", *sys.argv[1:]])
