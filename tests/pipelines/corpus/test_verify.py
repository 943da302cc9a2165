"""`mswitch corpus verify`: no change of a file of a corpus goes unsaid."""

import contextlib
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import crawl_files as crawl
import pytest
from corpus_builds import build, english, modern_settings
from corpus_files import read_json

from mswitch.flows.cli.main import main
from mswitch.pipelines import storage
from mswitch.pipelines.corpus import verify
from mswitch.pipelines.corpus.removal import remove_pages
from mswitch.pipelines.corpus.removed import load_removed
from mswitch.pipelines.errors import UserError
from mswitch.pipelines.outputs import SEAL

ITEM = "Which of the rivers that pass through the old capital also pass through the harbour town?"


@pytest.fixture(scope="module")
def grown(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus to which a crawl was added, and from which a page was removed: all kinds of file."""
    work = tmp_path_factory.mktemp("grown")
    months = crawl.write_all(
        work / "in",
        [
            [
                *(
                    crawl.record(english(n), f"http://{n}.example/")
                    for n in range(first, first + 4)
                ),
                crawl.record(f"{english(first + 9)} {ITEM}", f"http://{first}.example/leak"),
                crawl.record("", f"http://{first}.example/empty"),
            ]
            for first in (0, 100)
        ],
    )
    (work / "quiz.txt").write_text(f"{ITEM}\n")
    (work / "urls.txt").write_text("http://1.example/\nhttp://0.example/leak\n")
    config = modern_settings(f"decontamination.evaluation_sets={work}/quiz.txt")
    build(months[:1], work / "corpus", config)
    build(months[1:], work / "corpus", config, append=True)
    remove_pages(work / "corpus", urls=str(work / "urls.txt"))
    return work / "corpus"


@pytest.fixture
def corpus(grown: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, verified by this process alone."""
    monkeypatch.setattr(verify, "worker_processes", lambda runner: contextlib.nullcontext())
    return Path(shutil.copytree(grown, tmp_path / "corpus"))


def said(corpus: Path) -> str:
    """What is said of a corpus, besides that the data card is not checked."""
    load_removed.cache_clear()  # as in another process
    try:
        found = verify.verify_corpus(corpus)
    except UserError as error:
        return str(error)
    return "\n".join([*found["problems"], *(set(found["unchecked"]) - {"README.md"})])


def without_records(corpus: Path) -> None:
    """Make it a corpus of a version that kept no checksums of samples and statistics."""
    manifest = read_json(corpus / "manifest.json")
    for key in ("files", SEAL):
        del manifest[key]
    storage.write_json(corpus / "manifest.json", manifest)


def flip(content: bytes, draws: random.Random) -> bytes:
    place = draws.randrange(len(content))
    return (
        content[:place] + bytes([content[place] ^ draws.randrange(1, 256)]) + content[place + 1 :]
    )


def truncate(content: bytes, draws: random.Random) -> bytes:
    return content[: draws.choice([0, draws.randrange(len(content))])]


def test_all_of_a_corpus_is_accounted_for(corpus, capsys):
    assert said(corpus) == ""
    assert main(["corpus", "verify", str(corpus)]) == 0
    assert "not checked, without a checksum: README.md\n" in capsys.readouterr().out
    named = {entry["path"] for entry in read_json(corpus / "manifest.json")["files"]}
    files = {str(path.relative_to(corpus)) for path in corpus.rglob("*") if path.is_file()}
    beside = {path for path in files if not path.startswith(("data/", "fing", "removals/"))}
    assert beside == {*named, "manifest.json", "_COMPLETED", "README.md"}
    assert any("rejected/added-001/" in path for path in named)


@pytest.mark.parametrize("change", [flip, truncate])
def test_no_changed_character_goes_unsaid(corpus, change: Callable[..., bytes]):
    draws = random.Random(1)
    for path in sorted(path for path in corpus.rglob("*") if path.is_file()):
        name, content = str(path.relative_to(corpus)), path.read_bytes()
        if not content:  # samples of which none is left
            continue
        for _ in range(40 if name.endswith(".json") or name == "removals/key" else 8):
            path.write_bytes(change(content, draws))
            assert (name == "README.md") == (said(corpus) == ""), name
            assert name in said(corpus) or name == "README.md"
        path.write_bytes(content)
    assert said(corpus) == ""


def test_no_file_too_few_or_too_many_goes_unsaid(corpus):
    for path in sorted(path for path in corpus.rglob("*") if path.is_file()):
        name, content = str(path.relative_to(corpus)), path.read_bytes()
        path.unlink()
        assert path.name in said(corpus) or name == "README.md"
        path.write_bytes(content)
        more = path.with_name(f"{path.stem}-more{path.suffix}")
        more.write_bytes(content)
        assert more.name in said(corpus)
        more.unlink()
    shutil.rmtree(corpus / "rejected")
    assert said(corpus).count(" is missing") >= 4


def test_statistics_are_not_edited(corpus):
    stats = read_json(corpus / "stats.json")
    stats["languages"]["en"]["train"]["characters"] += 1
    storage.write_json(corpus / "stats.json", stats)
    assert said(corpus) == "stats.json is damaged (its SHA-256 is not the manifest's)"


def test_a_corpus_of_an_earlier_version(corpus, capsys):
    """What it has no checksum of is named, and still read."""
    without_records(corpus)
    found = verify.verify_corpus(corpus)
    unchecked = ["README.md", "decontamination.json", "rejected", "stats.json"]
    assert (found["problems"], found["unchecked"]) == ([], unchecked)
    for name, content in [
        ("decontamination.json", ""),
        ("decontamination.json", "{}"),
        ("rejected/no_content.jsonl", '{"url": "http://x'),
        ("stats.json", "{}"),
    ]:
        before = (corpus / name).read_text()
        (corpus / name).write_text(content)
        assert main(["corpus", "verify", str(corpus)]) == 1
        assert name in capsys.readouterr().out.partition("problems")[0]
        (corpus / name).write_text(before)


def test_accounts_that_do_not_balance_are_said_in_words(corpus):
    without_records(corpus)
    stats = read_json(corpus / "stats.json")
    stats["stages"][1]["out"] += 1
    storage.write_json(corpus / "stats.json", stats)
    [problem] = verify.verify_corpus(corpus)["problems"]
    assert problem.startswith("stats.json: accounts do not balance at stage ")
    assert "{" not in problem


@pytest.mark.parametrize(
    "name", ["decontamination.json", "stats.json", "rejected/no_content.jsonl"]
)
def test_a_removal_names_what_is_damaged(corpus, tmp_path, name):
    (tmp_path / "urls.txt").write_text("http://2.example/\n")
    (corpus / name).write_text('{"url": ')
    with pytest.raises(UserError, match=f"{name} is (damaged|not JSON)"):
        remove_pages(corpus, urls=str(tmp_path / "urls.txt"))


def test_a_corpus_of_an_earlier_version_grows_smaller(corpus, tmp_path):
    without_records(corpus)
    (tmp_path / "urls.txt").write_text("http://2.example/\n")
    remove_pages(corpus, urls=str(tmp_path / "urls.txt"))
    manifest = json.loads((corpus / "manifest.json").read_text())
    assert "files" not in manifest
    assert verify.verify_corpus(corpus)["problems"] == []
