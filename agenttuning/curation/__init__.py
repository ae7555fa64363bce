"""Which trajectories are worth learning from, and why the others were dropped."""
