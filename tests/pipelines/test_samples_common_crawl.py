import gzip
import hashlib
import json
import math
import re
import signal
import time
from pathlib import Path
from typing import Any

import crawl_files as crawl
import pytest
from corpus_builds import LENIENT
from hypothesis import given
from hypothesis import strategies as st
from processes import start_mswitch, wait_for
from trees import data_bytes
from urllib3 import Retry

from mswitch.flows.cli.main import main
from mswitch.pipelines.corpus.build import build_corpus
from mswitch.pipelines.errors import UserError
from mswitch.pipelines.outputs import MARKER, read_manifest
from mswitch.pipelines.samples.common_crawl import choose, write_sample

DUMP = "CC-MAIN-2024-10"
QUICK = Retry(3, backoff_factor=0.01)
LIST = f"/crawl-data/{DUMP}/wet.paths.gz"


def list_of(paths: list[str]) -> bytes:
    return gzip.compress("".join(f"{path}\n" for path in paths).encode(), mtime=0)


@pytest.fixture
def dump(file_server: Any) -> Any:
    """A dump of 9 WET files with four German pages each, whose ETags say nothing."""
    paths = [f"crawl-data/{DUMP}/segments/{n // 3}.0/wet/CC-{n:05}.warc.wet.gz" for n in range(9)]
    for number, path in enumerate(paths):
        seeds = range(10 * number, 10 * number + 4)
        pages = crawl.pages(crawl.GERMAN, seeds, f"{number}.example")
        file_server.files[f"/{path}"] = b"".join(crawl.members(pages))
        file_server.headers[f"/{path}"] = {"ETag": f'"{number:032x}-38"'}
    file_server.files[LIST] = list_of(paths)
    file_server.paths = paths
    return file_server


def sample(server: Any, out: Path, **options: Any) -> dict[str, Any]:
    given = {"base_url": server.url, "retry": QUICK, **options}
    return write_sample(out, DUMP, given.pop("segments", 3), **given)


def test_files_from_all_over_the_dump(dump, tmp_path):
    out = tmp_path / "crawl"
    result = sample(dump, out)
    chosen = [dump.paths[1], dump.paths[4], dump.paths[7]]
    assert {path.name for path in (out / "wet").iterdir()} == {Path(p).name for p in chosen}
    assert (result["files"], result["listed"], result["reused"]) == (3, 9, False)
    manifest = read_manifest(out, "sample")
    assert [file["crawl_path"] for file in manifest["files"]] == chosen
    for file in manifest["files"]:
        content = (out / file["path"]).read_bytes()
        assert content == dump.files[f"/{file['crawl_path']}"]
        assert file["bytes"] == len(content)
        assert file["sha256"] == hashlib.sha256(content).hexdigest()
    assert set(data_bytes(out)) == {
        MARKER,
        "manifest.json",
        *(f["path"] for f in manifest["files"]),
    }
    dump.requests.clear()
    assert sample(dump, out)["reused"] is True
    assert dump.requests == []


def test_what_is_downloaded_is_input_of_a_corpus(dump, tmp_path):
    sample(dump, tmp_path / "crawl")
    result = build_corpus([str(tmp_path / "crawl/wet/*")], tmp_path / "corpus", LENIENT)
    assert result["documents"] == 12


@pytest.mark.parametrize("concurrency", [1, 3])
def test_no_more_downloads_at_a_time_than_allowed(dump, tmp_path, concurrency):
    def slow(handler: Any) -> bool:
        time.sleep(0.05)
        return False

    for path in dump.paths:
        dump.moods[f"/{path}"].append(slow)
    sample(dump, tmp_path / "crawl", segments=9, concurrency=concurrency)
    assert dump.most_active <= concurrency


def test_a_run_that_gave_up_keeps_the_files_that_are_complete(dump, tmp_path):
    second = f"/{dump.paths[4]}"
    dump.moods[second].extend([dump.hang_up] * 4)
    with pytest.raises(UserError, match="the same command then continues with this file"):
        sample(dump, tmp_path / "crawl", concurrency=1)
    assert not (tmp_path / "crawl").exists()
    dump.requests.clear()
    sample(dump, tmp_path / "crawl", concurrency=1)
    assert [path for path, _ in dump.requests] == [second, f"/{dump.paths[7]}"]


def test_a_killed_run_goes_on(dump, tmp_path):
    """What it had of the file that it was at is overwritten."""
    second = f"/{dump.paths[4]}"
    dump.moods[second].append(lambda handler: time.sleep(60) or True)
    words = ["--dump", DUMP, "--segments", 3, "--base-url", dump.url, "--concurrency", 1]
    process = start_mswitch("sample", "common-crawl", "--out", tmp_path / "crawl", *words)
    try:
        wait_for(lambda: process.poll() or any(path == second for path, _ in dump.requests))
    finally:
        process.kill()
    assert process.wait() == -signal.SIGKILL
    dump.requests.clear()
    sample(dump, tmp_path / "crawl", concurrency=1)
    assert [path for path, _ in dump.requests] == [second, f"/{dump.paths[7]}"]
    assert list((tmp_path / "crawl").rglob(".*.part")) == []


def test_the_command(dump, tmp_path, capsys):
    options = ["--dump", DUMP, "--segments", "2", "--base-url", f"{dump.url}/", "--json"]
    assert main(["sample", "common-crawl", "--out", str(tmp_path / "crawl"), *options]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (result["stage"], result["files"]) == ("sample", 2)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--dump", "CC-MAIN-2024-99"], r"there is no dump CC-MAIN-2024-99.*HTTP 404"),
        (["--dump", "../../etc"], "not the name of a dump"),
        (["--segments", "10"], "has only 9 files"),
        (["--segments", "0"], "at least 1"),
        (["--concurrency", "100"], "give 1 to 8"),
        (["--base-url", "file:///etc"], "give an http:// or https:// address"),
        (["--format", "warc"], "there is no dump CC-MAIN-2024-10 with warc files"),
    ],
)
def test_wrong_options_are_one_line_and_exit_code_2(dump, tmp_path, capsys, options, complaint):
    given = {"--dump": DUMP, "--segments": "1", "--base-url": dump.url}
    given |= dict([options])
    words = [word for pair in given.items() for word in pair]
    assert main(["sample", "common-crawl", "--out", str(tmp_path / "crawl"), *words]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert re.search(complaint, line)
    assert not (tmp_path / "crawl").exists()


@pytest.mark.parametrize(
    ("listed", "complaint"),
    [
        (gzip.compress(b"<html>", mtime=0), "is not a path of a crawl"),
        (list_of(["crawl-data/../../../etc/passwd.gz"]), "is not a path of a crawl"),
        (list_of(["crawl-data/x/.hidden.gz"]), "is not a path of a crawl"),
        (list_of(["/crawl-data/x/a.gz"]), "is not a path of a crawl"),
        (list_of(["https://a.example/crawl-data/a.gz"]), "is not a path of a crawl"),
        (b"<html>no list</html>", "is not a list of files"),
        (gzip.compress("ä".encode(), mtime=0), "is not a list of files"),
        (list_of([]), "has only 0 files"),
        (list_of(["crawl-data/a/x.gz", "crawl-data/b/x.gz"]), "have the same name"),
    ],
)
def test_a_list_is_not_trusted(dump, tmp_path, listed, complaint):
    dump.files[LIST] = listed
    with pytest.raises(UserError, match=complaint):
        sample(dump, tmp_path / "crawl", segments=2)
    assert sorted(path.name for path in tmp_path.rglob("*.gz")) in ([], [".wet.paths.gz"])


@given(st.integers(1, 200), st.data())
def test_choices_are_distinct_spread_and_in_order(size, data):
    count = data.draw(st.integers(1, size))
    listed = [f"crawl-data/{n}.gz" for n in range(size)]
    numbers = [listed.index(path) for path in choose(listed, count, DUMP)]
    assert len(set(numbers)) == count
    for number, chosen in enumerate(numbers):
        assert number * size // count <= chosen < math.ceil((number + 1) * size / count)
