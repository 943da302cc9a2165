import crawl_files as crawl
import pytest
import zstandard

from mswitch.pipelines.crawl.archives import Damage, read_archive
from mswitch.pipelines.crawl.files import find_crawl_files

LIMIT = 1 << 20


def trained() -> zstandard.ZstdCompressionDict:
    words = [f"word{i * i % 977}" for i in range(2000)]
    samples = [
        crawl.record(" ".join(words[i : i + 200]), f"http://b.example/{i}") for i in range(300)
    ]
    return zstandard.train_dictionary(4000, samples)


def dictionary_frame(content: bytes) -> bytes:
    return b"\x5d\x2a\x4d\x18" + len(content).to_bytes(4, "little") + content


@pytest.mark.parametrize("compressed", [True, False])
def test_zstd_dictionary_of_the_file(tmp_path, compressed):
    dictionary = trained()
    zstd = zstandard.ZstdCompressor(dict_data=dictionary, write_checksum=True).compress
    parts = [bytearray(zstd(crawl.record(f"page {i}", "u"))) for i in range(5)]
    parts[2][-1] ^= 1
    content = dictionary.as_bytes()
    frame = dictionary_frame(zstandard.compress(content) if compressed else content)
    path = tmp_path / "a"
    path.write_bytes(frame + b"".join(parts))
    assert [isinstance(one, Damage) for one in read_archive(path, LIMIT)] == [0, 0, 1]
    assert find_crawl_files([str(path)])[0].format == "warc"


def test_hostile_zstd_dictionaries(tmp_path):
    dictionary = trained()
    records = zstandard.ZstdCompressor(dict_data=dictionary).compress(crawl.record("t", "u"))
    bomb = zstandard.compress(bytes(200 << 20))
    for name, start in [
        ("absent", b""),
        ("foreign", dictionary_frame(b"something else")),
        ("cut", dictionary_frame(dictionary.as_bytes())[:900]),
        ("lying", b"\x5d\x2a\x4d\x18\xff\xff\xff\xff" + dictionary.as_bytes()),
        ("bomb", dictionary_frame(bomb)),
        ("torn", dictionary_frame(zstandard.compress(dictionary.as_bytes())[:-9] + b"x" * 9)),
    ]:
        path = tmp_path / name
        path.write_bytes(start + records)
        assert [isinstance(one, Damage) for one in read_archive(path, LIMIT)] == [True], name
