"""The engine: tasks, slots, the training loop that all methods share, checkpoints and the run folder."""
