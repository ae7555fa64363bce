"""AgentTuning as software: tasks, trajectories, curation, mixture, fine-tuning and evaluation, on Ray."""

__version__ = "0.1.0"
