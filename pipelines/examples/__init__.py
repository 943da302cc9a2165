"""The examples stage: a corpus and a vocabulary in, span-corruption examples out."""

from pipelines.examples.build import ExamplesConfig, build_examples

__all__ = ["ExamplesConfig", "build_examples"]
