"""Input by URL: over HTTP, and through Beam's file systems."""

import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import crawl_files as crawl
import pytest
from apache_beam.io.filesystem import FileMetadata, FileSystem
from corpus_builds import LENIENT
from file_server import hang_up, status
from urllib3 import Retry

from mswitch.pipelines.corpus.build import build_corpus
from mswitch.pipelines.corpus.plan import plan_build
from mswitch.pipelines.corpus.rules.blocklist import load_blocklist
from mswitch.pipelines.corpus.rules.decontamination import read_evaluation_sets
from mswitch.pipelines.corpus.rules.langid_model import IdentifyLanguageByModel
from mswitch.pipelines.corpus.rules.stop_words import read_stop_words
from mswitch.pipelines.crawl.files import CrawlFile, find_crawl_files
from mswitch.pipelines.download import Downloader
from mswitch.pipelines.errors import UserError
from mswitch.pipelines.outputs import read_manifest


class MemoryFileSystem(FileSystem):
    """What Beam needs of a file system to read from it; an object store in a dictionary."""

    files: ClassVar[dict[str, bytes]] = {}
    opened: ClassVar[list[str]] = []
    written_at: ClassVar[float] = 0.0

    @classmethod
    def scheme(cls) -> str:
        return "memory"

    def join(self, basepath: str, *paths: str) -> str:
        return "/".join([basepath, *paths])

    def split(self, path: str) -> Any:
        return path.rsplit("/", 1)

    def has_dirs(self) -> bool:
        return False

    def _list(self, dir_or_prefix: str) -> Iterator[FileMetadata]:
        for path, content in self.files.items():
            if path.startswith(dir_or_prefix):
                yield FileMetadata(path, len(content), self.written_at)

    def open(self, path: str, *arguments: Any, **options: Any) -> Any:
        self.opened.append(path)
        return io.BytesIO(self.files[path])

    def exists(self, path: str) -> bool:
        return path in self.files

    def size(self, path: str) -> int:
        return len(self.files[path])

    def metadata(self, path: str) -> FileMetadata:
        return FileMetadata(path, len(self.files[path]), self.written_at)

    def _refuse(self, *arguments: Any, **options: Any) -> Any:
        raise NotImplementedError

    mkdirs = create = copy = rename = last_updated = delete = _refuse


@pytest.fixture
def memory() -> Iterator[dict[str, bytes]]:
    MemoryFileSystem.files.clear()
    yield MemoryFileSystem.files
    MemoryFileSystem.files.clear()


@pytest.fixture(params=["http", "memory"])
def put(request: pytest.FixtureRequest) -> Callable[[str, bytes], str]:
    """Give a function that puts a file where only a URL reaches it."""
    if request.param == "http":
        server = request.getfixturevalue("file_server")

        def to_server(name: str, content: bytes) -> str:
            server.files[f"/{name}"] = content
            return f"{server.url}/{name}"

        return to_server
    files = request.getfixturevalue("memory")

    def to_memory(name: str, content: bytes) -> str:
        files[f"memory://bucket/{name}"] = content
        return f"memory://bucket/{name}"

    return to_memory


def read(file: CrawlFile) -> list[str]:
    return crawl.contents(crawl.read(file))


def lines(count: int) -> bytes:
    objects = ({"text": f"t{i}", "url": f"u{i}"} for i in range(count))
    return "".join(f"{json.dumps(one)}\n" for one in objects).encode()


def test_a_url_is_what_the_file_is(tmp_path, put):
    contents = {
        "a.wet.gz": b"".join(crawl.members([crawl.record("text", "u")] * 3)),
        "b.jsonl": lines(30_000),
        "c": b"",
        "d.html": b"<html>",
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
        url = put(f"deep/{name}", content)
        if name == "d.html":
            with pytest.raises(UserError, match=r"d\.html is none of"):
                find_crawl_files([url])
            continue
        [remote] = find_crawl_files([url])
        [local] = find_crawl_files([str(tmp_path / name)])
        assert remote.path == url
        assert (remote.name, remote.size_bytes) == (local.name, local.size_bytes)
        assert read(remote) == read(local)


def test_globs_on_an_object_store(memory):
    for name in ("x/b.jsonl", "x/a.jsonl", "y/c.jsonl", "x/d.html"):
        memory[f"memory://bucket/{name}"] = lines(1)
    memory["memory://bucket/x/d.html"] = b"<html>"
    files = find_crawl_files(["memory://bucket/*/*.jsonl", "memory://bucket/x/a.jsonl"])
    assert [file.name for file in files] == ["a.jsonl", "b.jsonl", "c.jsonl"]
    assert read(find_crawl_files(["memory://bucket/x/*"])[-1]) == ["unknown_format"]
    with pytest.raises(UserError, match="matches no file"):
        find_crawl_files(["memory://bucket/z/*"])


def test_a_glob_on_an_object_store_reads_no_file(memory, monkeypatch):
    for name in "abc":
        memory[f"memory://bucket/{name}.jsonl"] = lines(1)
    MemoryFileSystem.opened.clear()
    before = find_crawl_files(["memory://bucket/*.jsonl"])
    assert find_crawl_files(["memory://bucket/*.jsonl"]) == before
    assert not MemoryFileSystem.opened
    assert {file.format for file in before} == {None}
    monkeypatch.setattr(MemoryFileSystem, "written_at", 1.0)
    after = find_crawl_files(["memory://bucket/*.jsonl"])
    assert [file.path for file in after] == [file.path for file in before]
    assert not {file.digest for file in after} & {file.digest for file in before}


def test_a_url_that_does_not_exist(file_server, memory):
    with pytest.raises(UserError, match="does not exist on the server"):
        find_crawl_files([f"{file_server.url}/missing.gz"])
    with pytest.raises(UserError, match="does not exist: give WARC"):
        find_crawl_files(["memory://bucket/missing.gz"])


def test_a_corpus_from_a_url(tmp_path, file_server):
    pages = [crawl.record(crawl.prose(crawl.GERMAN, i), f"http://a.example/{i}") for i in range(6)]
    file_server.files["/a.wet.gz"] = b"".join(crawl.members(pages))
    url = f"{file_server.url}/a.wet.gz"
    result = build_corpus([url], tmp_path / "corpus", LENIENT)
    assert result["documents"] == 6
    manifest = json.loads((tmp_path / "corpus" / "manifest.json").read_text())
    assert manifest["inputs"][0]["path"] == url


SECRETS = ("anna", "p@ss", "X-Amz-Signature", "5ec7e7")


def signed(server: Any, name: str, signature: str, content: bytes) -> str:
    path = f"/{name}?X-Amz-Signature={signature}&part=1"
    server.files[path] = content
    return f"{server.url}{path}".replace("://", "://anna:p@ss@")


def everything_written(folder: Path) -> str:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return b"\n".join(path.read_bytes() for path in files).decode(errors="replace")


def test_secrets_of_a_url_are_neither_written_nor_printed(file_server, tmp_path, capfd):
    wet = b"".join(crawl.members(crawl.pages(crawl.GERMAN, range(3), "de.example")))
    url = signed(file_server, "a.warc.wet.gz", "5ec7e7-1", wet)
    out = tmp_path / "corpus"
    build_corpus([url], out, LENIENT)
    [entry] = read_manifest(out, "corpus")["inputs"]
    assert entry["path"] == f"{file_server.url}/a.warc.wet.gz"
    # Signed anew it is the same input, and counts once.
    again = signed(file_server, "a.warc.wet.gz", "5ec7e7-2", wet)
    assert build_corpus([again, url], out, LENIENT)["reused"]
    # What a server has under one path and several queries is several inputs.
    more = b"".join(crawl.members(crawl.pages(crawl.GERMAN, range(3, 5), "de.example")))
    other = signed(file_server, "a.warc.wet.gz", "5ec7e7-3", more)
    assert build_corpus([url, other], tmp_path / "both", LENIENT)["documents"] == 5
    build_corpus([other], out, LENIENT, append=True)
    assert build_corpus([other], out, LENIENT, append=True)["reused"]
    broken = signed(file_server, "b.jsonl", "5ec7e7", b'{"text": 1}')
    with pytest.raises(UserError, match="no document survived") as caught:
        build_corpus([broken], tmp_path / "broken", LENIENT)
    plan_build([url], LENIENT)
    said = "".join([*capfd.readouterr(), str(caught.value)])
    assert "b.jsonl" in said
    text = everything_written(tmp_path) + said
    assert not [secret for secret in SECRETS if secret in text]


@pytest.mark.parametrize("mood", [status(404), status(500), status(418), hang_up])
@pytest.mark.parametrize("name", ["a.warc.gz", "", "a.csv"])
def test_errors_name_a_url_without_its_secrets(file_server, monkeypatch, capfd, mood, name):
    monkeypatch.setattr(Downloader.__init__, "__defaults__", (Retry(1), lambda count: None))
    url = signed(file_server, name, "5ec7e7", b"a,b\n1,2\n")
    if name != "a.csv":
        file_server.moods[url.partition(file_server.url.partition("//")[2])[2]].extend([mood] * 9)
    with pytest.raises(UserError) as caught:
        find_crawl_files([url])
    text = str(caught.value) + "".join(capfd.readouterr())
    assert f"{file_server.url}/{name}" in text
    assert not [secret for secret in SECRETS if secret in text]


@pytest.mark.parametrize(
    ("read", "name", "content"),
    [
        (lambda url: load_blocklist([url]), "spam.txt", b"no domain"),
        (lambda url: load_blocklist([url]), "spam.txt", b""),
        (lambda url: [*read_evaluation_sets([url])], "set.jsonl", b"{"),
        (lambda url: [*read_evaluation_sets([url, url])], "set.jsonl", b"{}"),
        (lambda url: [*read_evaluation_sets([url])], "set.csv", b"{}"),
        (read_stop_words, "words.csv", b"lang\nde"),
        (lambda url: IdentifyLanguageByModel(model=url).prepare(""), "lid.bin", b"no model"),
    ],
)
def test_errors_name_a_list_without_the_secrets_of_its_url(file_server, read, name, content):
    url = signed(file_server, name, "5ec7e7", content)
    with pytest.raises(UserError, match=f"{file_server.url}/{name}") as caught:
        read(url)
    assert not [secret for secret in SECRETS if secret in str(caught.value)]


def test_a_blocklist_is_not_named_by_the_query_of_its_url(file_server):
    url = signed(file_server, "spam", "5ec7e7.a", b"bad.example")
    assert load_blocklist([url]).names == ("spam",)
