"""A corpus in a bucket, built by this machine: the bytes of a local build."""

import dataclasses
import signal
from pathlib import Path

import crawl_files as crawl
import pytest
from corpus_builds import LENIENT, build_elsewhere
from processes import run_mswitch
from trees import data_bytes, put, send

from mswitch.pipelines import storage
from mswitch.pipelines.corpus.build import build_corpus
from mswitch.pipelines.corpus.removal import remove_pages
from mswitch.pipelines.corpus.stats import load_stats
from mswitch.pipelines.corpus.verify import verify_corpus
from mswitch.pipelines.errors import UserError
from mswitch.pipelines.outputs import read_manifest

CONFIG = dataclasses.replace(LENIENT, min_validation_documents=1, shard_bytes=2000)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A damaged, an empty and two sound files."""
    folder = tmp_path_factory.mktemp("crawl")
    pages = [
        crawl.pages(crawl.GERMAN, range(9), "de.example"),
        crawl.pages(crawl.ENGLISH, range(9), "en.example"),
    ]
    paths = crawl.write_all(folder, pages)
    damaged = folder / "2.warc.wet.gz"
    damaged.write_bytes(b"".join(crawl.members(pages[0][:2]))[:-30])
    empty = folder / "3.warc.wet.gz"
    empty.touch()
    return [*paths, damaged, empty]


@pytest.fixture(scope="module")
def local_data(files: list[Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    out = tmp_path_factory.mktemp("local") / "corpus"
    build_corpus([str(path) for path in files], out, CONFIG)
    return data_bytes(out / "data")


@pytest.mark.slow
def test_from_a_bucket_to_a_bucket(bucket, files, local_data):
    crawls = send(files[0].parent, f"{bucket}/crawl") + "/*.gz"
    out = f"{bucket}/corpus"
    summary = build_corpus([crawls], out, CONFIG)
    assert data_bytes(f"{out}/data") == local_data
    assert storage.list_names(out) >= {"_COMPLETED", "manifest.json", "stats.json"}
    assert storage.match(f"{out}/work/**") == []
    assert storage.match(f"{out}/rejected/**") != []
    inputs = read_manifest(out, "corpus")["inputs"]
    assert [row["status"] for row in inputs] == ["read", "read", "damaged", "empty_file"]
    assert all(row["path"].startswith("gs://") for row in inputs)
    assert load_stats(out)["stages"][0]["dropped"] == {"damaged": 1, "empty_file": 1}
    again = build_corpus([crawls], out, CONFIG)
    assert again == {**summary, "reused": True}
    # A file that was replaced is another input.
    put(f"{bucket}/crawl/{files[0].name}", files[1].read_bytes())
    with pytest.raises(UserError, match=r"changed: inputs"):
        build_corpus([crawls], out, CONFIG)


def test_a_pattern_that_matches_nothing(bucket):
    with pytest.raises(UserError, match="matches no file"):
        build_corpus([f"{bucket}/nothing/*"], f"{bucket}/corpus", CONFIG)


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["corpus.after_ingest", "corpus.before_marker"])
def test_killed_and_continued(files, bucket, fault, local_data):
    out = f"{bucket}/corpus"
    build_elsewhere(files, out, CONFIG, fault, beam_options=["--direct_num_workers=1"])
    assert not storage.exists(f"{out}/_COMPLETED")
    build_corpus(list(map(str, files)), out, CONFIG, beam_options=["--direct_num_workers=1"])
    assert data_bytes(f"{out}/data") == local_data
    assert storage.match(f"{out}/work/**") == []


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["corpus.after_shards", "corpus.before_change"])
def test_an_addition_is_killed_and_continued_and_keeps_others_out(files, bucket, fault, tmp_path):
    """There is no lock there: what was begun is finished first, or removed by hand."""
    base, second, third = (str(path) for path in files[:3])
    one_worker = {"beam_options": ["--direct_num_workers=1"], "append": True}
    local, out = tmp_path / "corpus", f"{bucket}/corpus"
    for place in (local, out):
        build_corpus([base], place, CONFIG)
    build_corpus([second], local, CONFIG, append=True)
    wanted = data_bytes(local / "data")
    build_elsewhere([second], out, CONFIG, fault, **one_worker)
    if fault == "corpus.after_shards":
        with pytest.raises(UserError, match=r"is being changed by another command.*_CHANGING-"):
            build_corpus([third], out, CONFIG, **one_worker)
        build_corpus([second], out, CONFIG, **one_worker)
    else:
        assert build_corpus([second], out, CONFIG, **one_worker)["reused"]
    assert data_bytes(f"{out}/data") == wanted
    assert storage.match(f"{out}/_CHANGING-**") == []
    rows = sum(entry["rows"] for entry in read_manifest(out, "corpus")["shards"])
    assert rows == load_stats(out)["stages"][-1]["out"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "fault", ["corpus.after_removal", "corpus.before_change", "corpus.after_change"]
)
def test_a_removal_is_killed_and_continued(files, bucket, fault, tmp_path):
    urls = tmp_path / "urls.txt"
    urls.write_text("http://de.example/3\nhttp://en.example/4\n")
    local, out = tmp_path / "corpus", f"{bucket}/corpus"
    for place in (local, out):
        build_corpus([str(path) for path in files[:2]], place, CONFIG)
    remove_pages(local, urls=str(urls))
    options = ["corpus", "remove", out, f"--urls={urls}", "--basis=other"]
    for point in (fault, ""):
        done = run_mswitch(*options, "--", "--direct_num_workers=1", MSWITCH_FAULT=point)
        assert done.returncode == (-signal.SIGKILL if point else 0)
    for folder in ("data", "rejected", "fingerprints"):
        assert data_bytes(f"{out}/{folder}") == data_bytes(local / folder)
    assert verify_corpus(out)["problems"] == []
    assert storage.match(f"{out}/_CHANGING-**") == []
