"""Training of models: steps, loop, checkpoints, metrics, jobs."""
