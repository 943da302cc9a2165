"""Bad words, blocklists and evaluation sets in a bucket: read as those on this machine are."""

import gzip
import json
from pathlib import Path
from typing import Any

import crawl_files as crawl
import pytest
from trees import put, send

from mswitch.pipelines import storage
from mswitch.pipelines.corpus import build as corpus_build
from mswitch.pipelines.corpus.build import build_corpus
from mswitch.pipelines.corpus.config import parse_config
from mswitch.pipelines.corpus.rules.badwords import MAX_LIST_BYTES, identity, load_badwords
from mswitch.pipelines.corpus.rules.blocklist import load_blocklist
from mswitch.pipelines.corpus.rules.decontamination import Decontaminate, read_evaluation_sets
from mswitch.pipelines.corpus.stats import load_stats
from mswitch.pipelines.dataflow.conductor import conduct
from mswitch.pipelines.dataflow.launch import build_request
from mswitch.pipelines.errors import UserError

ITEM = "Which of the rivers that pass through the old capital also pass through the harbour town?"
SETTINGS = (
    "profile=modern;min_lines=1;min_long_line_characters=1;badwords_filter_fraction=1;"
    "quality.min_words=5;quality.min_stop_words=0;quality.max_top_ngram_shares=1,1,1;"
    "quality.max_duplicate_ngram_shares=1,1,1,1,1,1"
)
BEAM = ["--project=p", "--region=r", "--temp_location=gs://bucket/tmp"]


def put_folder(url: str) -> None:
    """What consoles make of an empty folder."""
    bucket, _, name = url.removeprefix("gs://").partition("/")
    storage.google_client(0).bucket(bucket).blob(f"{name}/").upload_from_string(b"")


@pytest.fixture
def lists(tmp_path: Path) -> Path:
    folder = tmp_path / "lists"
    files = {
        "words/en": b"rutabaga\n",
        "words/fr-CA-u-sd-caqc": b"navet\n",
        "words/README.md": b"# lists",
        "words/.git/HEAD": b"ref",
        "ut1/b/adult/domains": b"adult.example\n",
        "ut1/a/domains": b"bad.example\n",
        "ut1/a-b/domains": b"bad.example\n",
        "ut1/a/urls": b"good.example/adult\n",
        "ut1/a/usage": b"black\n",
        "mine.txt": b"# mine\nworse.example\n",
        "quiz.jsonl.gz": gzip.compress(json.dumps({"question": ITEM}).encode(), mtime=0),
        "cloze.txt": b"First.\n\nThird.\n",
    }
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


@pytest.fixture
def remote_lists(lists: Path, bucket: str) -> str:
    url = send(lists, f"{bucket}/lists")
    for name in ("", "/words", "/ut1", "/ut1/a", "/ut1/domains"):
        put_folder(url + name)
    return url


def test_lists_are_the_same_wherever_they_lie(lists, remote_lists):
    for here, there in ((str(lists), remote_lists), (f"{lists}/", f"{remote_lists}/")):
        words = load_badwords(storage.join(there, "words"))
        assert words == load_badwords(storage.join(here, "words"))
        assert identity(words)["languages"] == ["en", "fr"]
        names = ("ut1", "mine.txt", "ut1/b/adult", "ut1/a/")
        far, near = (load_blocklist([f"{at.rstrip('/')}/{name}" for name in names])
                     for at in (there, here))  # fmt: skip
        assert far.names == near.names == ("a", "a-b", "adult", "mine")
        assert far.digest == near.digest
        sets = [[storage.join(at, name) for name in ("quiz.jsonl.gz", "cloze.txt")]
                for at in (there, here)]  # fmt: skip
        far, near = (list(read_evaluation_sets(paths)) for paths in sets)
        assert far == near
        assert [item.text for item in far] == [ITEM, "First.", "Third."]
        far, near = (Decontaminate(tuple(paths)).settings() for paths in sets)
        assert far == near


def test_what_cannot_be_read_is_named_with_the_fix(bucket):
    gone = f"{bucket}/gone"
    with pytest.raises(UserError, match=rf"^bad words {gone} has no list: give a directory"):
        load_badwords(gone)
    nowhere = "gs://no-such-bucket/lists"
    for read in (load_badwords, lambda url: load_blocklist([url])):
        with pytest.raises(UserError, match=rf"^cannot list {nowhere}/\*\*: .*404"):
            read(nowhere)
    for read, what in (
        (lambda url: load_blocklist([url]), "blocklist"),
        (lambda url: list(read_evaluation_sets([url])), "evaluation set"),
        (lambda url: Decontaminate((url,)).settings(), "evaluation set"),
    ):
        with pytest.raises(UserError, match=rf"^cannot read the {what} {gone}.txt \(404.*give a"):
            read(f"{gone}.txt")
    put(f"{bucket}/ut1/adult/domain", b"a.example")
    with pytest.raises(UserError, match=rf"^{bucket}/ut1 has no file domains or urls"):
        load_blocklist([f"{bucket}/ut1"])
    url = put(f"{bucket}/list.txt", b"a.example\nhttp://b.example/")
    with pytest.raises(UserError, match=rf"^{url}, line 2: .* is not a domain"):
        load_blocklist([url])
    url = put(f"{bucket}/set.jsonl", b"{")
    with pytest.raises(UserError, match=rf"^cannot read the evaluation set {url}: "):
        list(read_evaluation_sets([url]))
    for folder, name, data, message in (
        ("a", "words.txt", b"word", "is not a list"),
        ("b", "de/words", b"word", "is not a list"),
        ("c", "de", b"x\n" * (MAX_LIST_BYTES // 2 + 1), "is larger than"),
        ("d", "de", b"\xff", "is not UTF-8"),
    ):
        put(f"{bucket}/{folder}/{name}", data)
        named = f"{bucket}/{folder}/{name.partition('/')[0]}"
        with pytest.raises(UserError, match=rf"^bad words {named} {message}"):
            load_badwords(f"{bucket}/{folder}")


@pytest.fixture
def crawls(tmp_path: Path) -> list[Path]:
    """Two crawls, each with a page for every list."""

    def pages(start: int) -> list[bytes]:
        text = [crawl.prose(crawl.ENGLISH, start + n).replace("\n", " ") for n in range(4)]
        return [
            crawl.record(text[0], f"http://en.example/{start}"),
            crawl.record(f"{text[1]} Rutabaga!", f"http://en.example/{start}/words"),
            crawl.record(f"{text[2]} {ITEM}", f"http://en.example/{start}/leak"),
            crawl.record(text[3], f"http://www.bad.example/{start}"),
        ]

    return [crawl.write(tmp_path / "in" / f"{n}.warc.wet.gz", pages(40 * n)) for n in range(2)]


def test_the_template_adds_to_a_corpus_whose_lists_were_local(
    crawls, lists, remote_lists, bucket, tmp_path, monkeypatch
):
    """Only a build of the same settings can, digests of lists included."""
    config = parse_config(
        f"{SETTINGS};blocklist.blocklists={lists}/ut1,{lists}/mine.txt;"
        f"decontamination.evaluation_sets={lists}/quiz.jsonl.gz"
    )
    corpus = tmp_path / "corpus"
    here: dict[str, Any] = {"beam_options": ["--direct_num_workers=1"]}
    build_corpus([str(crawls[0])], corpus, config, badwords=lists / "words", **here)
    crawl = put(f"{bucket}/crawl/1", crawls[1].read_bytes())
    request, _ = build_request(
        [f"--input={crawl}", f"--out={bucket}/corpus",
         "--append=true", f"--badwords={remote_lists}/words",
         f"--set={SETTINGS};blocklist.blocklists={remote_lists}/ut1,{remote_lists}/mine.txt;"
         f"decontamination.evaluation_sets={remote_lists}/quiz.jsonl.gz", *BEAM]
    )  # fmt: skip

    def build_here(inputs: Any, out: str, *args: Any, runner: str, **rest: Any) -> None:
        assert (out, runner) == (f"{bucket}/corpus", "dataflow")
        build_corpus(inputs, corpus, *args, **{**rest, **here})

    monkeypatch.setattr(corpus_build, "build_corpus", build_here)
    conduct(request)
    stages = load_stats(corpus)["stages"]
    assert {stage["name"]: stage["dropped"] for stage in stages if stage["dropped"]} == {
        "read": {"blocked_url": 2},
        "decontamination": {"evaluation_item": 2},
        "badwords": {"bad_words": 2},
    }
    assert stages[-1]["out"] == 2
