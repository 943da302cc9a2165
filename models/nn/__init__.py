"""The layers: what is computed."""
