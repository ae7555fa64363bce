"""Task to trajectory: the episode loop, the worker actor and the Ray Data job."""
