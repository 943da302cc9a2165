"""`pipelines.storage` on gs:// and s3://, through Beam, against servers on loopback."""

import contextlib
import os
from pathlib import Path

import pytest
from sentencepiece_models import train_model
from trees import put

from mswitch.pipelines import storage
from mswitch.pipelines.errors import UserError
from mswitch.pipelines.vocabulary.model import open_vocabulary


@pytest.mark.parametrize("name", ["b.bin", "b.bin.gz"])
def test_a_file_is_there_once_it_is_published(either, name):
    url = storage.join(either, "a", name)
    data = os.urandom(100_000)
    assert not storage.exists(url)
    put(url, data)
    assert storage.exists(url)
    assert storage.read_bytes(url) == data
    with storage.fetch(url) as path:
        assert path.read_bytes() == data
    assert not path.exists()
    put(f"{either}/c", b"12")
    assert storage.file_sizes(either) == {f"a/{name}": 100_000, "c": 2}
    assert storage.list_names(either) == {"c"}
    storage.remove_tree(either)
    assert storage.file_sizes(either) == {}


def test_nothing_is_published_if_the_body_fails(bucket):
    url = storage.join(bucket, "half")
    with contextlib.suppress(ZeroDivisionError), storage.publish(url) as path:
        path.write_bytes(b"half")
        raise ZeroDivisionError
    assert not storage.exists(url)


@pytest.mark.parametrize("data", [b"", b"\x1f\x8b\x08 not gzip", b"{}"])
def test_bytes_pass_unchanged_whatever_the_name_says(bucket, data):
    for name in ("plain", "named.gz", "named.bz2", "named.json"):
        put(storage.join(bucket, name), data)
        assert storage.read_bytes(storage.join(bucket, name)) == data


def test_names_and_patterns(bucket):
    names = ["1.json", "2.json", "deep/3.json", "deep/er/4.json", "deep/er/4.txt"]
    for number, name in enumerate(names):
        put(storage.join(bucket, name), b"x" * number)
    put(f"{bucket}-other/1.json")
    assert storage.list_names(bucket) == {"1.json", "2.json"}
    assert storage.list_names(storage.join(bucket, "nowhere")) == set()

    def match(pattern: str) -> list[str]:
        return [status.path[len(bucket) + 1 :] for status in storage.match(bucket + pattern)]

    assert match("/*.json") == names[:2]
    assert match("/**.json") == names[:4]
    assert match("/**") == names
    assert match("/deep/*/?.txt") == names[4:]
    assert match("/2.json") == ["2.json"]
    assert match("/absent") == []
    [status] = storage.match(f"{bucket}/2.json")
    assert status.size_bytes == 1
    assert status.updated > 1.7e9
    assert len(storage.match(f"{bucket}/**", limit=2)) == 2


def test_many_small_files_come_in_order(bucket):
    urls = [storage.join(bucket, f"{number}.json") for number in range(40)]
    for number, url in enumerate(urls):
        storage.write_json(url, {"number": number})
    assert [value["number"] for value in storage.read_json_files(urls)] == list(range(40))


@pytest.mark.slow
def test_a_tree_is_removed_and_no_more(bucket):
    for number in range(110):
        put(storage.join(bucket, "tree", str(number % 7), str(number)))
    put(f"{bucket}/tree-beside")
    storage.remove_tree(f"{bucket}/tree")
    assert storage.match(f"{bucket}/tree/**") == []
    assert storage.exists(f"{bucket}/tree-beside")
    storage.remove_tree(f"{bucket}/tree")


def test_what_is_not_there_or_served_is_a_readable_error(storage_server):
    with pytest.raises(UserError, match=r"cannot list gs://no-such-bucket/x/\*: .*404") as caught:
        storage.match("gs://no-such-bucket/x/*")
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="ftp:// cannot be reached"):
        storage.exists("ftp://host/file")


def test_a_worker_process_uses_the_same_options(monkeypatch):
    from apache_beam.io.filesystems import FileSystems
    from apache_beam.options.pipeline_options import GoogleCloudOptions

    monkeypatch.setattr(storage, "_options", {})
    monkeypatch.setattr(FileSystems, "_pipeline_options", None)
    storage.use_options({"impersonate_service_account": "robot@project"})
    assert storage.used_options() == {"impersonate_service_account": "robot@project"}
    storage.exists(str(Path("/")))
    assert FileSystems._pipeline_options is None
    with pytest.raises(UserError):
        storage.exists("ftp://host/file")
    options = FileSystems._pipeline_options
    assert options is not None
    account = options.view_as(GoogleCloudOptions).impersonate_service_account
    assert account == "robot@project"


def test_a_vocabulary_in_a_bucket(bucket, tmp_path):
    model = train_model(["all human beings are born free and equal in dignity"] * 20, 330)
    (tmp_path / "given.model").write_bytes(model)
    here = open_vocabulary(tmp_path / "given.model")
    url = storage.join(bucket, "vocabs", "sentencepiece.model")
    with pytest.raises(UserError, match=r"gs://.*sentencepiece\.model does not exist"):
        open_vocabulary(url)
    put(url, model)
    there = open_vocabulary(url)
    assert (there.path, there.model, there.sha256) == (url, here.model, here.sha256)
    with pytest.raises(UserError, match="is not a finished vocabulary output"):
        open_vocabulary(storage.join(bucket, "vocabs"))
