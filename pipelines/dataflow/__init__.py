"""Corpus builds as a Dataflow flex template: its launcher, its parameters, its image."""
