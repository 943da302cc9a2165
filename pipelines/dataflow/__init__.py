"""Dataflow flex template for corpus builds: its launcher, parameters and image."""
