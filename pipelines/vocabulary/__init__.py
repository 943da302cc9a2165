"""Trains, reads and inspects SentencePiece vocabularies."""
