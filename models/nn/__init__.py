"""The layers of the model: what it computes."""
