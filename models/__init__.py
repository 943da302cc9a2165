"""Switch Transformer and mT5 in JAX: model, training, evaluation."""
