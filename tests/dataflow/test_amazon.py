"""`pipelines.storage` on s3://, through Beam and boto3, against moto's server on loopback."""

import os

import example_files
import numpy as np
import pytest
from trees import put, send

from mswitch.pipelines import storage
from mswitch.pipelines.errors import UserError
from mswitch.tasks.batches.record_blocks import BLOCK_BYTES
from mswitch.tasks.batches.training import TrainBatches

MEGABYTE = 1 << 20


def test_a_range_is_one_request_for_just_those_bytes(requests):
    data = os.urandom(3 * MEGABYTE)
    url = put("s3://lake/ranges", data)
    for start, stop in ((0, MEGABYTE), (5, 6), (MEGABYTE - 1, 2 * MEGABYTE + 1)):
        requests.found.clear()
        assert storage.read_range(url, start, stop) == data[start:stop]
        assert requests.reads("ranges") == [(f"bytes={start}-{stop - 1}", stop - start)]


def test_ranges_that_pass_the_end(requests):
    url = put("s3://lake/ends", b"0123456789")
    assert storage.read_range(url, 8, 20) == b"89"
    assert storage.read_range(url, 10, 20) == b""
    assert storage.read_range(url, 3, 3) == b""


def test_what_cannot_be_read_is_a_readable_error(requests):
    with pytest.raises(UserError, match=r"cannot read bytes 0 to 9 of s3://lake/no: .*exist"):
        storage.read_range("s3://lake/no", 0, 9)
    with pytest.raises(UserError, match=r"^s3://none/examples (is|does)"):
        TrainBatches("s3://none/examples", 4)


def test_training_reads_examples_in_requests_of_a_megabyte(requests, tmp_path):
    records = {"de": (900, 700), "sw": (20,)}
    examples = example_files.write_examples(tmp_path / "examples", records, 1024, 32_000)
    url = send(examples, "s3://lake/examples")
    here, there = (TrainBatches(each, 64, seed=3) for each in (examples, url))
    requests.found.clear()
    for step in (0, 5, 40, 10**6):
        expected = here.batch(step)
        for name, values in there.batch(step).items():
            assert np.array_equal(values, expected[name])
    sizes = [size for _, size in requests.reads("tfrecord") if size > 8 * 1024]
    shards = sum(path.stat().st_size for path in examples.rglob("*.tfrecord-*-of-0000?"))
    assert 2 <= len(sizes) <= 2 * shards / BLOCK_BYTES + 4
    assert max(sizes) < 1.1 * BLOCK_BYTES
    assert sum(sizes) <= 1.1 * shards
