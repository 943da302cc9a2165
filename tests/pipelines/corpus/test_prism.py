"""A build on Beam's Prism runner, with a given binary (make test-prism)."""

import dataclasses
import os

import pytest
from corpus_builds import LENIENT
from trees import data_bytes

from mswitch.pipelines.corpus.build import build_corpus

pytestmark = pytest.mark.prism

PRISM = os.environ.get("MSWITCH_PRISM")


@pytest.mark.skipif(not PRISM, reason="MSWITCH_PRISM names no prism binary: run make test-prism")
def test_prism_gives_the_local_runners_bytes(tmp_path, hostile_crawl):
    config = dataclasses.replace(LENIENT, shard_bytes=2000, bucket_bytes=100)
    inputs = [str(path) for path in hostile_crawl]
    build_corpus(inputs, tmp_path / "local", config)
    options = [f"--prism_location={PRISM}"]
    build_corpus(inputs, tmp_path / "prism", config, runner="prism", beam_options=options)
    assert data_bytes(tmp_path / "prism") == data_bytes(tmp_path / "local")
