"""Input from the Hugging Face Hub, and corpora that are published there, against a peer of it."""

import gzip
import importlib
import importlib.util
import json
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import corpus_files
import hub_server
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from corpus_builds import LENIENT
from crawl_files import ENGLISH, GERMAN, prose
from hub_server import TOKEN, Hub, Repository
from processes import run_mswitch, start_mswitch, wait_for
from trees import data_bytes

from mswitch.flows.cli.main import main
from mswitch.pipelines import hub, storage
from mswitch.pipelines.corpus.build import build_corpus
from mswitch.pipelines.corpus.push import push_corpus
from mswitch.pipelines.corpus.removal import remove_pages
from mswitch.pipelines.crawl.files import find_crawl_files
from mswitch.pipelines.errors import UserError
from mswitch.pipelines.outputs import read_manifest

WEB = "hf://datasets/web/fine"


@pytest.fixture(scope="module")
def served() -> Iterator[Hub]:
    with hub_server.serve(served := Hub()) as address, pytest.MonkeyPatch.context() as patch:
        # The client reads these when it is imported, here or in a worker process.
        patch.setenv("HF_ENDPOINT", address)
        patch.setenv("HF_HUB_DISABLE_XET", "1")
        constants = importlib.import_module("huggingface_hub.constants")

        patch.setattr(constants, "ENDPOINT", address)
        patch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        yield served


@pytest.fixture
def server(served: Hub, monkeypatch: pytest.MonkeyPatch) -> Hub:
    """An empty Hub, whose token this process has."""
    for kept in (served.repositories, served.objects, served.failures):
        kept.clear()
    served.requests.clear()
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    return served


def parquet(texts: tuple[str, ...], seeds: range) -> bytes:
    rows = [{"text": prose(texts, n), "url": f"http://a.example/{n}", "dump": "CC"} for n in seeds]
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows), sink)
    return sink.getvalue().to_pybytes()


CARD = b"""---
configs:
- config_name: deu_Latn
  data_files:
  - split: train
    path: data/deu_Latn/train/*
  - split: test
    path: [data/deu_Latn/test/*]
- config_name: all
  data_files: data/*/train/*.parquet
- config_name: folder
  data_dir: extra
---
# Fine
"""


@pytest.fixture
def web(server: Hub) -> Repository:
    """A data set in the form of FineWeb2, with a part in that of MADLAD."""
    line = json.dumps({"text": prose(GERMAN, 900), "url": "http://b.example/1"}).encode()
    files = {
        "README.md": CARD,
        "data/deu_Latn/train/000_00000.parquet": parquet(GERMAN, range(10, 30)),
        "data/deu_Latn/train/000_00001.parquet": parquet(GERMAN, range(40, 60)),
        "data/deu_Latn/train/000_00002.parquet": parquet(GERMAN, range(70, 90)),
        "data/deu_Latn/test/000_00000.parquet": parquet(GERMAN, range(2)),
        "data/eng_Latn/train/000_00000.parquet": parquet(ENGLISH, range(10, 30)),
        "data/de/de_clean_0000.jsonl.gz": gzip.compress(line, mtime=0),
        "data/de/de_noisy_0000.jsonl.gz": gzip.compress(line * 2, mtime=0),
        "extra/train-00000-of-00001.parquet": parquet(ENGLISH, range(5)),
    }
    server.repositories["web/fine"] = Repository()
    server.repositories["web/fine"].commit(files)
    return server.repositories["web/fine"]


@pytest.mark.parametrize(
    ("split", "paths"),
    [
        ("deu_Latn/train", [f"data/deu_Latn/train/000_0000{n}.parquet" for n in range(3)]),
        ("deu_Latn/test", ["data/deu_Latn/test/000_00000.parquet"]),
        ("folder/train", ["extra/train-00000-of-00001.parquet"]),
        # The card does not name these.
        ("de/clean", ["data/de/de_clean_0000.jsonl.gz"]),
        ("eng_Latn/train", ["data/eng_Latn/train/000_00000.parquet"]),
    ],
)
def test_a_split_is_the_files_that_card_or_folders_name(split, paths, web):
    files = find_crawl_files([f"{WEB}/{split}"])
    prefix = f"hf://datasets/web/fine@{web.head}/"
    assert sorted(file.path for file in files) == [prefix + path for path in paths]
    for file in files:
        content = web.files[file.path.removeprefix(prefix)]
        assert file.size_bytes == len(content)
        with storage.fetch(file.path) as path:
            assert path.read_bytes() == content


def test_a_pattern_of_several_folders_and_a_glob_of_one_level(web):
    found = [file.path.partition("data/")[2] for file in find_crawl_files([f"{WEB}/all/train"])]
    assert sorted(path.partition("/")[0] for path in found) == ["deu_Latn"] * 3 + ["eng_Latn"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (f"{WEB}/fra_Latn/train", "no file is of it; configurations of its card: deu_Latn, all"),
        ("hf://datasets/web/fine", r"give hf://datasets/OWNER/NAME\[@REVISION\]/CONFIG/SPLIT"),
        ("hf://datasets/web/none/de/train", "cannot reach hf://datasets/web/none/de/train: "),
        (f"{WEB}@v9/deu_Latn/train", "cannot reach hf://datasets/web/fine@v9/deu_Latn/train: "),
    ],
)
def test_what_is_not_there_is_one_line(given, message, web):
    with pytest.raises(UserError, match=message) as refused:
        find_crawl_files([given])
    assert "\n" not in str(refused.value)


def test_a_private_data_set_needs_a_token(web, monkeypatch):
    web.private = True
    assert find_crawl_files([f"{WEB}/deu_Latn/test"])
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    hub.open_hub().HfFileSystem.clear_instance_cache()
    with pytest.raises(UserError, match="cannot reach") as refused:
        find_crawl_files([f"{WEB}/deu_Latn/test"])
    assert "hf_wrong" not in str(refused.value)


def test_without_the_extra_the_way_to_install_it_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UserError, match=r"pip install 'mswitch\[hub\]'"):
        find_crawl_files([f"{WEB}/deu_Latn/train"])


def test_a_corpus_is_that_of_the_same_files_here_and_names_their_commit(web, tmp_path, capsys):
    local = []
    for name, content in web.files.items():
        if name.startswith("data/deu_Latn/train/"):
            local.append(tmp_path / Path(name).name)
            local[-1].write_bytes(content)
    build_corpus(list(map(str, local)), tmp_path / "local", LENIENT)
    out, before = tmp_path / "corpus", web.head
    build_corpus([f"{WEB}/deu_Latn/train"], out, LENIENT)
    assert data_bytes(out / "data") == data_bytes(tmp_path / "local" / "data")
    paths = [entry["path"] for entry in read_manifest(out, "corpus")["inputs"]]
    assert all(path.startswith(f"{WEB}@{before}/data/deu_Latn/train/") for path in paths)
    assert f"revision {before}" in capsys.readouterr().err
    # Later content is other input; that of the revision is still there.
    web.commit({**web.files, "data/deu_Latn/train/000_00003.parquet": parquet(GERMAN, range(3))})
    with pytest.raises(UserError, match="inputs"):
        build_corpus([f"{WEB}/deu_Latn/train"], out, LENIENT)
    assert build_corpus([f"{WEB}@{before}/deu_Latn/train"], out, LENIENT)["reused"]


@pytest.mark.slow
def test_a_killed_build_continues_without_downloading_again(server, web, tmp_path):
    words = ["corpus", "build", f"--input={WEB}@{web.head}/deu_Latn/train"]
    words += [f"--out={tmp_path}/corpus", "--min-lines=1", "--min-long-line-characters=1"]
    words += ["--language-threshold=0.7"]
    alone = ["--", "--direct_num_workers=1"]
    done = run_mswitch(*words, *alone, MSWITCH_FAULT="corpus.after_ingest")
    assert done.returncode != 0
    assert server.count("GET", "/resolve/") == 1
    server.failures["/resolve/"] = 1  # which the client tries again
    done = run_mswitch(*words, *alone)
    assert done.returncode == 0, done.stderr
    assert server.count("GET", "/resolve/") == 3 + 1
    build_corpus([f"{WEB}/deu_Latn/train"], tmp_path / "other", LENIENT)
    assert data_bytes(tmp_path / "corpus" / "data") == data_bytes(tmp_path / "other" / "data")


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    out = corpus_files.write_corpus(tmp_path / "corpus", corpus_files.small_texts(), shards=2)
    (out / "README.md").write_bytes(CARD)
    (out / "stats.json").write_text("{}")
    return out


@pytest.mark.parametrize("repository", ["", "name", "a/b/c", "https://hub.example/a/b"])
def test_nothing_is_published_without_an_explicit_name(repository, corpus, server):
    with pytest.raises(UserError, match="give OWNER/NAME"):
        push_corpus(corpus, repository)
    assert server.requests == []


def test_the_command_needs_the_name(corpus, capsys):
    assert main(["corpus", "push", str(corpus)]) == 2
    assert "--repo" in capsys.readouterr().err


def test_a_pushed_corpus_can_be_input(built, server, tmp_path, capsys):
    assert main(["corpus", "push", str(built), "--repo=me/mine", "--json"]) == 0
    pushed: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
    repository = server.repositories["me/mine"]
    assert pushed["revision"] == repository.head
    assert repository.private
    published = {path: data for path, data in repository.files.items() if path != ".gitattributes"}
    assert published.keys() == {
        "README.md",
        "stats.json",
        *(f"data/{path}" for path in data_bytes(built / "data")),
    }
    for path, data in published.items():
        assert data == (built / path).read_bytes()
    again = tmp_path / "again"
    build_corpus(["hf://datasets/me/mine/de/train"], again, LENIENT)
    assert read_manifest(again, "corpus")["shards"][0]["lang"] == "de"
    # The same corpus is the same commit.
    before = server.count("PUT", "/lfs/")
    assert push_corpus(built, "me/mine")["revision"] == repository.head
    assert server.count("PUT", "/lfs/") == before


@pytest.fixture
def built(tmp_path: Path) -> Path:
    """A corpus of one crawl, as a build leaves it."""
    path = tmp_path / "crawl.parquet"
    path.write_bytes(parquet(GERMAN, range(100, 160)))
    build_corpus([str(path)], tmp_path / "built", LENIENT)
    return tmp_path / "built"


def test_what_was_removed_here_is_removed_there(built, server, tmp_path):
    push_corpus(built, "me/mine", public=True)
    assert not server.repositories["me/mine"].private
    (tmp_path / "urls.txt").write_text("http://a.example/120\n")
    remove_pages(built, urls=str(tmp_path / "urls.txt"), basis="other")
    push_corpus(built, "me/mine")
    files = server.repositories["me/mine"].files
    there = {path.removeprefix("data/"): data for path, data in files.items() if "data/" in path}
    assert there == data_bytes(built / "data")
    assert not any("removals" in path or "fingerprints" in path for path in files)


def test_a_killed_push_continues_and_shows_nothing_before_its_end(corpus, server, tmp_path):
    shards = read_manifest(corpus, "corpus")["shards"]
    server.failures["/commit/"] = 10**6
    process = start_mswitch("corpus", "push", corpus, "--repo=me/mine")
    wait_for(lambda: server.count("PUT", "/lfs/") > 0, 120)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not any(path.startswith("data/") for path in server.repositories["me/mine"].files)
    server.failures.clear()
    push_corpus(corpus, "me/mine")
    different = {shard["sha256"] for shard in shards}
    assert server.count("PUT", "/lfs/") in (len(different), len(different) + 1)
    assert len(server.repositories["me/mine"].commits) == 2


def test_a_damaged_corpus_is_not_published(corpus, server):
    path = corpus / read_manifest(corpus, "corpus")["shards"][0]["path"]
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(UserError, match="is damaged: see `mswitch corpus verify"):
        push_corpus(corpus, "me/mine")
    assert len(server.repositories["me/mine"].commits) == 1


def test_an_unfinished_corpus_is_not_published(server, tmp_path):
    with pytest.raises(UserError):
        push_corpus(tmp_path, "me/mine")
    assert server.requests == []
