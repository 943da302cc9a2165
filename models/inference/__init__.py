"""Inference: decoding, and filling the gaps of a text."""
