"""The engine: slots, the training loop that all methods share, ranks and checkpoints."""
