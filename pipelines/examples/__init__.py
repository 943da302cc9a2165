"""The examples stage: makes span-corruption examples from a corpus and a vocabulary."""
