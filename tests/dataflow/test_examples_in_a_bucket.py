"""Training reads examples from gs:// in requests of about a megabyte: a peer on loopback counts."""

import itertools
import json
import re
from pathlib import Path
from typing import NamedTuple

import example_files
import numpy as np
import pytest
from gcp_storage_emulator import server
from trees import put, send

from mswitch.pipelines import storage
from mswitch.pipelines.errors import UserError
from mswitch.pipelines.examples.tfrecord import INDEX_SUFFIX
from mswitch.tasks.batches.examples import open_examples
from mswitch.tasks.batches.mixtures import Mixture
from mswitch.tasks.batches.record_blocks import BLOCK_BYTES
from mswitch.tasks.batches.training import TrainBatches

RECORDS = {"de": (900, 700), "en": (800,), "sw": (20,), "yo": (1,)}
GERMAN = Mixture(languages=("de",))


class Request(NamedTuple):
    """What the peer was asked for, and the bytes it sent."""

    path: str
    range: str | None
    size: int


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("big") / "examples"
    return example_files.write_examples(out, RECORDS, 1024, 32_000)


@pytest.fixture
def url(examples: Path, bucket: str) -> str:
    return send(examples, bucket)


@pytest.fixture
def requests(url: str, monkeypatch: pytest.MonkeyPatch) -> list[Request]:
    """What was asked for since the upload."""
    found: list[Request] = []
    answer = server.Response.close

    def close(response: server.Response) -> None:
        handler = response._handler
        found.append(Request(handler.path, handler.headers.get("Range"), len(response._content)))
        answer(response)

    monkeypatch.setattr(server.Response, "close", close)
    return found


def shard_reads(requests: list[Request]) -> list[Request]:
    return [r for r in requests if re.search(r"tfrecord-\d+-of-\d+(\?|$)", r.path)]


def index_reads(requests: list[Request]) -> list[Request]:
    return [r for r in requests if INDEX_SUFFIX in r.path and "/o/" in r.path]


def pieces(directory: str | Path, lang: str) -> set:
    source = open_examples(directory).sources["train"][lang]
    return {source.piece(index) for index in range(len(source))}


def test_batches_of_all_hosts_are_those_of_a_local_directory(examples, url):
    local = TrainBatches(examples, 32, seed=3)
    hosts = [TrainBatches(url, 32, 3, host=host, hosts=2) for host in range(2)]
    streams = [host.iterate(5, prefetch=4, workers=3) for host in hosts]
    for step, parts in zip(range(5, 15), zip(*streams, strict=True), strict=False):
        for name, array in local.batch(step).items():
            assert np.array_equal(np.concatenate([part[name] for part in parts]), array)


def test_an_epoch_reads_each_block_by_one_request(url, requests, monkeypatch):
    # No memory for what is used again only in the next epoch.
    monkeypatch.setattr("mswitch.tasks.batches.streams.CACHE_BYTES", 3 * BLOCK_BYTES)
    records, blocks = sum(RECORDS["de"]), len(pieces(url, "de"))
    batches = TrainBatches(url, 32, mixture=GERMAN)
    total = sum(
        size for name, size in storage.file_sizes(url).items() if re.search(r"mc4\.de/.*\d$", name)
    )
    for epoch in range(3):
        requests.clear()
        for step in range(epoch * records // 32, (epoch + 1) * records // 32):
            batches.batch(step)
        found = shard_reads(requests)
        # An epoch begins within a block, which it reads again at its end.
        assert blocks - 1 <= len(found) <= blocks + 2
        assert {request.range is not None for request in found} == {True}
        assert sum(request.size for request in found) < total + 3 * BLOCK_BYTES
        # The last piece of a shard is what is left of it.
        large = [request for request in found if request.size > 0.9 * BLOCK_BYTES]
        assert len(large) >= len(found) - 4
        assert max(request.size for request in found) < 1.2 * BLOCK_BYTES


def test_opening_reads_no_shard_and_what_fits_in_memory_is_read_once(url, requests):
    batches = TrainBatches(url, 64)
    assert len(requests) <= 16  # listings, marker, manifest, vocabulary
    assert not shard_reads(requests)
    assert not index_reads(requests)
    for batch in itertools.islice(batches.iterate(workers=3, prefetch=6), 200):
        assert batch["language"].shape == (64,)
    assert len(shard_reads(requests)) == sum(len(pieces(url, lang)) for lang in RECORDS)
    assert len(index_reads(requests)) == sum(map(len, RECORDS.values()))


def test_errors_name_the_object(url):
    name = "mc4.sw/train.tfrecord-00000-of-00001"
    data = bytearray(storage.read_bytes(storage.join(url, name)))
    data[100] ^= 1
    put(storage.join(url, name), data)
    batches = TrainBatches(url, 8, mixture=Mixture(languages=("sw",)))
    with pytest.raises(UserError, match=rf"^gs://\S+/{name} is damaged \(checksum"):
        list(itertools.islice(batches.iterate(prefetch=2, workers=2), 10))
    opened = TrainBatches(url, 8, mixture=Mixture(languages=("yo",)))
    storage.remove([storage.join(url, "mc4.yo/train.tfrecord-00000-of-00001")])
    with pytest.raises(UserError, match=r"^cannot read bytes 0 to \d+ of gs://\S+/mc4\.yo/"):
        opened.batch(0)
    with pytest.raises(UserError, match=r"^gs://\S+/mc4\.yo/\S+ is missing"):
        TrainBatches(url, 8)


@pytest.mark.slow
def test_a_model_is_trained_from_a_bucket(bucket, tmp_path):
    from mswitch.models.config import TrainConfig
    from mswitch.models.training.train import train

    local = example_files.write_examples(tmp_path / "examples", {"sw": (40,), "yo": (9,)}, 64, 500)
    url = send(local, bucket)
    config = TrainConfig(steps=2, batch_size=4, dtype="float32")
    assert train("mt5-tiny", url, tmp_path / "run", config)["step"] == 2
    described = json.loads((tmp_path / "run" / "config.json").read_text())
    assert described["examples"]["path"] == url
