"""A build on Beam's Prism runner, with a given binary (make test-prism)."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from pipelines.corpus.build import CorpusConfig, build_corpus

pytestmark = pytest.mark.prism

PRISM = os.environ.get("MSWITCH_PRISM")


@pytest.mark.skipif(not PRISM, reason="MSWITCH_PRISM names no prism binary: run make test-prism")
def test_prism_gives_the_local_runners_bytes(
    tmp_path: Path,
    hostile_crawl: list[Path],
    lenient: CorpusConfig,
    variant: Callable[..., CorpusConfig],
    data_bytes: Callable[[Path], dict[str, bytes]],
):
    config = variant(lenient, shard_bytes=2000, bucket_bytes=100)
    inputs = [str(path) for path in hostile_crawl]
    build_corpus(inputs, tmp_path / "local", config)
    options = [f"--prism_location={PRISM}"]
    build_corpus(inputs, tmp_path / "prism", config, runner="prism", beam_options=options)
    assert data_bytes(tmp_path / "prism") == data_bytes(tmp_path / "local")
