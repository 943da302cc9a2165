import base64
import email.utils
import gzip
import hashlib
import random
import time
from pathlib import Path
from typing import Any

import google_crc32c
import pytest
from urllib3 import Retry

from mswitch.pipelines.download import CancelledError, Downloader, MissingError, read_digests
from mswitch.pipelines.errors import UserError

QUICK = Retry(3, backoff_factor=0.01)
CONTENT = random.Random(0).randbytes(100_000)


def fetch(server: Any, tmp_path: Path, content: bytes = CONTENT, **options: Any) -> Path:
    server.files.setdefault("/a", content)
    path = tmp_path / "a"
    fetched = Downloader("test", QUICK, **options).fetch(f"{server.url}/a", path)
    assert fetched.size_bytes == path.stat().st_size
    assert fetched.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert [left.name for left in tmp_path.iterdir()] == ["a"]
    return path


def test_a_file_with_a_name_to_complain_to(file_server, tmp_path):
    came = []
    assert fetch(file_server, tmp_path, on_bytes=came.append).read_bytes() == CONTENT
    assert sum(came) == len(CONTENT)
    [(_, headers)] = file_server.requests
    assert headers["User-Agent"].startswith("mswitch/")
    assert "test" in headers["User-Agent"]
    assert headers["Accept-Encoding"] == "identity"


def test_an_interrupted_download_begins_again(file_server, tmp_path):
    cut = [file_server.close_after(30_000), file_server.hang_up, file_server.close_after(10_000)]
    file_server.moods["/a"].extend(cut)
    assert fetch(file_server, tmp_path).read_bytes() == CONTENT
    assert [headers.get("Range") for _, headers in file_server.requests] == [None] * 4


def test_a_server_that_always_breaks_off_is_named_and_nothing_is_left(file_server, tmp_path):
    file_server.moods["/a"].extend([file_server.close_after(40_000)] * 4)
    with pytest.raises(UserError, match=r"/a \(IncompleteRead.*; 4 attempts\): check"):
        fetch(file_server, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("code", [429, 500, 502, 503, 504])
def test_a_busy_server(file_server, tmp_path, code):
    times = ([], [], ["soon"])  # what it says once of when to come again is nonsense
    file_server.moods["/a"].extend(file_server.status(code, *after) for after in times)
    assert fetch(file_server, tmp_path).read_bytes() == CONTENT
    assert len(file_server.requests) == 4


@pytest.mark.parametrize("form", ["seconds", "date"])
def test_retry_after_is_waited_out(file_server, tmp_path, form):
    # A date counts whole seconds: 3 s from now are more than 1 s in any case.
    value = "1" if form == "seconds" else email.utils.formatdate(time.time() + 3, usegmt=True)
    file_server.moods["/a"].append(file_server.status(503, value))
    start = time.monotonic()
    assert fetch(file_server, tmp_path).read_bytes() == CONTENT
    assert time.monotonic() - start >= 1


def test_a_server_that_asks_for_hours(file_server, tmp_path):
    file_server.moods["/a"].append(file_server.status(503, "7200"))
    with pytest.raises(UserError, match="asks to wait 7,200 s"):
        fetch(file_server, tmp_path)


def test_what_no_patience_helps_against(file_server, tmp_path):
    for code in (404, 403, 401, 418):
        kind = MissingError if code in (404, 403) else UserError
        file_server.moods["/a"].append(file_server.status(code))
        before = len(file_server.requests)
        with pytest.raises(kind, match=f"/a.*HTTP {code}") as error:
            fetch(file_server, tmp_path)
        assert type(error.value) is kind
        assert len(file_server.requests) == before + 1
    with pytest.raises(UserError, match="is not a URL"):
        Downloader("test", QUICK).fetch("ftp://a.example/b", tmp_path / "a")


def test_an_unreachable_host_is_one_clear_line(tmp_path):
    for url in ["http://nowhere.invalid/a", "http://127.0.0.1:9/a"]:
        with pytest.raises(UserError, match="cannot download http") as error:
            Downloader("test", QUICK).fetch(url, tmp_path / "a")
        message = str(error.value)
        assert "\n" not in message
        assert len(message) < 250
        assert "Pool" not in message


def base64_of(digest: bytes) -> str:
    return base64.b64encode(digest).decode()


HEADERS = {
    "md5": {"Content-MD5": base64_of(hashlib.md5(CONTENT).digest())},
    "gcs": {"x-goog-hash": f"crc32c={base64_of(google_crc32c.Checksum(CONTENT).digest())}"},
}


@pytest.mark.parametrize("header", HEADERS)
def test_a_corrupt_body_is_fetched_again(file_server, tmp_path, header):
    file_server.headers["/a"] = HEADERS[header]
    file_server.moods["/a"].append(file_server.corrupt)
    assert fetch(file_server, tmp_path).read_bytes() == CONTENT
    assert len(file_server.requests) == 2


@pytest.mark.parametrize("mood", ["corrupt", "cut"])
def test_without_a_checksum_gzip_must_decompress(file_server, tmp_path, mood):
    content = gzip.compress(CONTENT) + gzip.compress(b"more")
    moods = {"corrupt": [file_server.corrupt], "cut": [file_server.without_length]}
    if mood == "cut":
        moods["cut"].append(file_server.close_after(50_000))
    file_server.moods["/a"].append(file_server.both(*moods[mood]))
    assert fetch(file_server, tmp_path, content).read_bytes() == content
    assert len(file_server.requests) == 2


def test_a_server_that_always_corrupts(file_server, tmp_path):
    file_server.headers["/a"] = HEADERS["md5"]
    file_server.moods["/a"].extend([file_server.corrupt] * 4)
    with pytest.raises(UserError, match="damaged: content-md5 states another md5; 4 attempts"):
        fetch(file_server, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_digests_that_cannot_be_read_are_ignored():
    headers = {"x-goog-hash": "md5=,crc32c", "content-md5": "not base64!"}
    assert read_digests(headers) == []


def test_cancelled_downloads_stop_and_can_begin_again(file_server, tmp_path):
    downloader = Downloader("test", QUICK)
    file_server.files["/a"] = CONTENT
    downloader.cancel()
    with pytest.raises(CancelledError):
        downloader.fetch(f"{file_server.url}/a", tmp_path / "a")
    assert fetch(file_server, tmp_path).read_bytes() == CONTENT


def test_head_and_tail(file_server):
    downloader = Downloader("test", QUICK)
    file_server.files |= {"/a": CONTENT, "/b": b"short", "/c": b""}
    for path, content in file_server.files.items():
        size, head, tail = downloader.head_and_tail(f"{file_server.url}{path}", 1000)
        assert (size, head, tail) == (len(content), content[:1000], content[-1000:])
    file_server.moods["/a"].append(file_server.ignore_range)
    with pytest.raises(UserError, match="does not return parts of files"):
        downloader.head_and_tail(f"{file_server.url}/a", 1000)
