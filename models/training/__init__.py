"""How a model is trained: steps, loop, checkpoints, metrics, jobs."""
