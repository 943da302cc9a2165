"""The examples stage: a corpus and a vocabulary in, span-corruption examples out."""
