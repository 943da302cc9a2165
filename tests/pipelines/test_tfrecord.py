from pathlib import Path

import pytest
from example_files import open_tfrecord
from hypothesis import given
from hypothesis import strategies as st

from mswitch.pipelines.errors import UserError
from mswitch.pipelines.examples.tfrecord import (
    compute_masked_crc32c,
    frame,
    index_path,
    write_tfrecord,
)
from mswitch.pipelines.outputs import file_sha256

RECORDS = [b"", b"one", b"two" * 1000, b"\x00\xff"]


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    path = tmp_path / "train.tfrecord-00000-of-00001"
    written = write_tfrecord(path, RECORDS)
    assert written == (len(RECORDS), path.stat().st_size, file_sha256(path))
    return path


def test_checksum_is_that_of_tensorflow():
    # CRC32C of "123456789" is 0xE3069283 (RFC 3720), masked by TensorFlow.
    crc = 0xE3069283
    assert compute_masked_crc32c(b"123456789") == (((crc >> 15) | (crc << 17)) + 0xA282EAD8) % 2**32


@given(records=st.lists(st.binary(max_size=200), max_size=30))
def test_records_follow_one_another_as_the_index_says(tmp_path_factory, records):
    path = tmp_path_factory.mktemp("scan") / "shard"
    write_tfrecord(path, records)
    file = open_tfrecord(path)
    assert path.read_bytes() == b"".join(map(frame, records))
    assert list(file) == records


def test_no_record_beyond_the_ends(shard):
    file = open_tfrecord(shard)
    for index in (-1, len(RECORDS)):
        with pytest.raises(IndexError):
            file[index]


DAMAGED = [(byte, None) for byte in (0, 9, 12 + 3 + 5, -5, -1)]


@pytest.mark.parametrize(("byte", "kept"), [*DAMAGED, (None, 10), (None, 20), (None, -1)])
def test_damage_and_a_cut_name_the_file(shard, byte, kept):
    data = bytearray(shard.read_bytes()[:kept])
    if byte is not None:
        data[byte] ^= 1
    shard.write_bytes(data)
    with pytest.raises(UserError, match=f"{shard.name} is damaged .*build the examples again"):
        list(open_tfrecord(shard))


def test_a_missing_or_foreign_index_is_noticed(shard):
    for content, message in ((b"1234567", "multiple of 8"), (b"", "does not belong")):
        Path(index_path(shard)).write_bytes(content)
        with pytest.raises(UserError, match=message):
            open_tfrecord(shard)


def test_a_failing_writer_leaves_nothing(tmp_path):
    def records():
        yield b"one"
        raise RuntimeError("no more")

    with pytest.raises(RuntimeError, match="no more"):
        write_tfrecord(tmp_path / "shard", records())
    assert list(tmp_path.iterdir()) == []
