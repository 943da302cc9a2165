"""What a trained model writes: decoding, and filling the gaps of a text."""
