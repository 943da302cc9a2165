"""Adding crawls to a finished corpus."""

import dataclasses
import json
import os
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import crawl_files as crawl
import numpy as np
import pyarrow.parquet as pq
import pytest
from corpus_builds import LENIENT, build, build_elsewhere, documents, stages
from corpus_files import read_json
from trees import data_bytes

from mswitch.flows.stages.common import finish
from mswitch.pipelines.corpus.build import CorpusConfig
from mswitch.pipelines.corpus.change import _apply_edits
from mswitch.pipelines.corpus.dedup.key_files import read_keys
from mswitch.pipelines.corpus.fingerprints import fingerprint, unpack
from mswitch.pipelines.corpus.survey import read_rejected_samples
from mswitch.pipelines.corpus.url_normalization import make_document_id
from mswitch.pipelines.errors import UserError
from mswitch.pipelines.faults import CHANGE_POINTS
from mswitch.pipelines.outputs import file_sha256

CONFIG = dataclasses.replace(LENIENT, validation_per_mille=300)


@pytest.fixture(scope="module")
def months(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three crawls: the second repeats pages and lines of the first, the third of both."""
    german = partial(crawl.pages, crawl.GERMAN)
    first = german(range(20), "a.example")
    second = german(range(10), "a.example", 5)  # known URLs, with two more lines
    second += german(range(5, 15), "copy.example", 4)  # three known lines, one new
    second += german(range(30, 40), "a.example")
    second += crawl.pages(crawl.ENGLISH, [1], "en.example")
    third = [*first, *second, *german([50], "a.example")]
    return crawl.write_all(tmp_path_factory.mktemp("months"), (first, second, third))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, months: list[Path]) -> Path:
    """A corpus of the first month; no test may change it."""
    out = tmp_path_factory.mktemp("base") / "corpus"
    build(months[:1], out, CONFIG)
    return out


@pytest.fixture
def corpus(base: Path, tmp_path: Path) -> Path:
    """A copy of it, to be added to."""
    return Path(shutil.copytree(base, tmp_path / "corpus"))


def add(out: Path, *inputs: Path) -> dict[str, Any]:
    return build(inputs, out, CONFIG, append=True)


def keys(corpus: Path, kind: str) -> list[bytes]:
    manifest = read_json(corpus / "manifest.json")
    files = [entry["path"] for entry in manifest["fingerprints"] if entry["kind"] == kind]
    rows = np.concatenate([read_keys(str(corpus / path), 2) for path in files])
    return sorted(row.astype(">u8").tobytes() for row in rows)


def test_a_second_crawl(tmp_path, months, corpus):
    before, files = documents(corpus), data_bytes(corpus)
    summary = add(corpus, months[1])
    after = documents(corpus)
    assert summary["documents"] == len(after) == 20 + 10 + 10 + 1
    assert (summary["new_records"], summary["new_documents"]) == (31, 21)
    assert summary["newly_dropped"] == sum(summary["newly_dropped_by_reason"].values()) == 10
    assert before.items() <= after.items()
    for changed in ("manifest.json", "stats.json", "README.md"):
        del files[changed]
    assert files.items() <= data_bytes(corpus).items()
    copies = [row for row in after.values() if row["url"].startswith("http://copy.")]
    assert len(copies) == 10
    assert all(row["text"].count("\n") == 0 for row in copies)
    lines = [line.lower() for row in after.values() for line in row["text"].split("\n")]
    assert len(lines) == len(set(lines))
    assert keys(corpus, "lines") == sorted(map(fingerprint, lines))
    ids = [make_document_id(row["url"]) for row in after.values()]
    assert keys(corpus, "urls") == sorted(ids)
    assert stages(corpus)["url_dedup"] == {"duplicate_url": 10}
    assert not list(tmp_path.glob(".corpus.partial-*"))
    # The split follows from the URL whenever a page comes.
    for path in corpus.glob("data/*/*"):
        ids = b"".join(bytes.fromhex(value) for value in pq.read_table(path)["id"].to_pylist())
        numbers = [(int(h) << 64 | int(low)) % 1000 for h, low in unpack(ids)]
        assert {number < 300 for number in numbers} == {path.name.startswith("validation")}


def test_a_crawl_is_added_through_a_link(tmp_path, months, base):
    out, link = tmp_path / "disk" / "corpus", tmp_path / "link"
    shutil.copytree(base, out)
    link.symlink_to(out)
    add(link, months[1])
    assert len(documents(out)) == 41
    # A rename cannot leave a disk: what is prepared lies beside the directory, not the link.
    assert not list(tmp_path.glob(".link*"))


def test_an_edited_card_gets_the_figures(months, corpus, capsys):
    card = corpus / "README.md"
    card.write_text(card.read_text().replace('license: "other"', "license: cc0-1.0"))
    add(corpus, months[1])
    assert "license: cc0-1.0" in card.read_text()
    assert "41 documents, " in card.read_text()
    # One without the lines that change stays.
    card.write_text("Ours.\n")
    add(corpus, months[2])
    assert card.read_text() == "Ours.\n"
    assert "README.md was edited and stays" in capsys.readouterr().err


def test_figures_follow_beside_lines_that_repeat():
    before, after = "a\nx\n1\nx\nz\n", "a\nx\nnew\n1\nx\n2\nz\n"
    assert _apply_edits(f"Mine\n{before}Ours\n", before, after) == f"Mine\n{after}Ours\n"
    assert _apply_edits(before.replace("x", "y"), before, after) is None


def test_figures_follow_into_sections_that_a_person_moved():
    card = "# T\nx docs {}\n\n## A\nfigures {}\n\n## B\nfigures of {}\n".format
    moved = "# T\n## B\nfigures of {2}\n\nx docs {0}\n\n## A\nfigures {1}\n".format
    assert _apply_edits(moved(10, 1, 2), card(10, 1, 2), card(11, 9, 8)) == moved(11, 9, 8)
    assert _apply_edits("# T\n", card(10, 1, 2), card(11, 9, 8)) is None


@pytest.mark.parametrize("kind", ["data/de/train-*", "fingerprints/urls-*"])
@pytest.mark.parametrize("change", ["edited", "flipped", "removed"])
def test_a_corpus_that_was_edited_is_refused(months, corpus, kind, change):
    [path] = corpus.glob(kind)
    content = bytearray(path.read_bytes())
    content[-20] ^= 1
    path.write_bytes(content[:-1] if change == "edited" else content)
    if change == "removed":
        path.unlink()
    before = data_bytes(corpus)
    with pytest.raises(UserError, match=rf"^{path} is (not as|missing).*: restore it, or build"):
        add(corpus, months[1])
    assert data_bytes(corpus) == before


def test_a_copy_made_without_times_is_added_to(months, corpus):
    for path in corpus.rglob("*.*"):
        os.utime(path)
    assert add(corpus, months[1])["documents"] == 41


def test_what_is_there_is_not_added_again(tmp_path, months, corpus):
    for month in months[1:]:
        add(corpus, month)
    grown, found = data_bytes(corpus), documents(corpus)
    assert len(found) == 42
    for month in months[1:]:
        assert add(corpus, month)["reused"] is True
    assert build(months[:1], corpus, CONFIG)["reused"] is True
    assert data_bytes(corpus) == grown
    # By another name it is another crawl, that brings nothing new.
    add(corpus, Path(shutil.copy(months[0], tmp_path / "copy.warc.wet.gz")))
    assert documents(corpus) == found


def test_the_last_line_says_what_was_lost_of_this_crawl(tmp_path, corpus, capsys):
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"text": "", "url": "http://a.example/"}\n{"content": "x"}\n' * 2)
    finish(add(corpus, rows), json=False)
    assert capsys.readouterr().out.startswith(
        f"{corpus}: done, 4 new records, 0 new documents, 4 newly dropped (no_content 2, "
        "no_text 2), 20 documents, "
    )


def test_buckets_are_cut_for_what_the_corpus_has_too(tmp_path, months, corpus, monkeypatch):
    """A small crawl that is added to a large corpus must not meet all of it in one bucket."""
    small = tmp_path / "small.warc.wet.gz"
    small.write_bytes(months[1].read_bytes()[:1500])
    entries = read_json(corpus / "manifest.json")["fingerprints"]
    sizes = []
    monkeypatch.setattr(
        "mswitch.pipelines.corpus.phases.choose_shared_bits",
        lambda size, most: sizes.append(size) or 1,
    )
    add(corpus, small)
    had = {kind: sum(e["keys"] for e in entries if e["kind"] == kind) for kind in ("urls", "lines")}
    assert sizes[0] > had["urls"] * 40
    assert sizes[1] > had["lines"] * 24


def test_samples_of_an_addition_are_shown_first(tmp_path, months, corpus):
    broken = tmp_path / "broken.warc.wet.gz"
    assert read_rejected_samples(corpus, ["damaged"], 5) == {}
    broken.write_bytes(months[1].read_bytes()[:3000])
    add(corpus, broken)
    [damaged] = read_rejected_samples(corpus, ["damaged"], 5)["damaged"]
    assert damaged["source"].startswith("broken.warc.wet.gz@")


def test_as_on_an_engine(tmp_path, months, engine):
    for name, options in (("local", {}), ("engine", engine)):
        build(months[:1], tmp_path / name, CONFIG, **options)
        build(months[1:2], tmp_path / name, CONFIG, append=True, **options)
    assert data_bytes(tmp_path / "local") == data_bytes(tmp_path / "engine")


def killed(fault: str, out: Path, month: Path) -> str:
    return build_elsewhere([month], out, CONFIG, fault, append=True)


@pytest.mark.kill
def test_killed_and_rerun(tmp_path, months, base, corpus):
    """Killed at one point after another; what was there is readable until the addition is in."""
    whole = Path(shutil.copytree(base, tmp_path / "whole"))
    add(whole, months[1])
    before = documents(base)
    for point in ("corpus.after_line_choice", "corpus.after_shards", *CHANGE_POINTS):
        killed(point, corpus, months[1])
        if point != "corpus.after_change":
            shards = read_json(corpus / "manifest.json")["shards"]
            assert sum(entry["rows"] for entry in shards) == len(before)
    killed("", corpus, months[1])
    assert data_bytes(corpus) == data_bytes(whole)
    assert not list(tmp_path.glob(".corpus.partial-*"))


@pytest.mark.kill
def test_killed_and_another_comes_first(tmp_path, months, base):
    """What was decided goes in before the other; what was not is decided anew after it."""
    _, two, three = months

    def grown(name: str, *additions: Path) -> Path:
        out = Path(shutil.copytree(base, tmp_path / name))
        for month in additions:
            add(out, month)
        return out

    last, first = data_bytes(grown("last", three, two)), data_bytes(grown("first", two, three))
    for point, wanted in (
        ("corpus.after_line_choice", last),
        ("corpus.after_shards", last),
        ("corpus.before_change", first),
        ("corpus.after_change", first),
    ):
        out = grown(point)
        killed(point, out, two)
        for month in (three, two):
            add(out, month)
            documents(out)
        assert data_bytes(out) == wanted, point
        assert not list(tmp_path.glob(f".{point}.partial-*"))


def test_a_corpus_of_another_version_is_refused(tmp_path, months, corpus):
    stats = read_json(corpus / "stats.json")
    stages = stats["stages"]
    stats["stages"] = [*stages[:2], {**stages[1], "name": "url_policy"}, *stages[2:]]
    (corpus / "stats.json").write_text(json.dumps(stats))
    with pytest.raises(UserError, match=r"another version of mswitch.*url_policy.*build it again"):
        add(corpus, months[1])
    assert not list(tmp_path.glob(".corpus.partial-*"))


def test_a_corpus_with_other_columns_is_refused(months, corpus):
    [shard, *_] = sorted(corpus.glob("data/*/*.parquet"), key=lambda path: path.stat().st_size)
    pq.write_table(pq.read_table(shard).drop_columns("record_id"), shard)
    manifest = read_json(corpus / "manifest.json")
    [entry] = [each for each in manifest["shards"] if corpus / each["path"] == shard]
    entry |= {"bytes": shard.stat().st_size, "sha256": file_sha256(shard)}
    (corpus / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match=r"other columns \(id, .*, source\): build it again"):
        add(corpus, months[1])


def test_an_addition_that_was_given_up_leaves_nothing(months, corpus):
    left = ("data/de/train-added-001-00000-of-00009.parquet", "rejected/added-001/damaged.jsonl")
    for path in left:
        (corpus / path).parent.mkdir(parents=True, exist_ok=True)
        (corpus / path).write_bytes(b"half an addition")
    add(corpus, months[1])
    assert [path for path in left if (corpus / path).exists()] == []
    assert len(documents(corpus)) == 41


def test_refusals(tmp_path, months, corpus):
    with pytest.raises(UserError, match="does not exist"):
        add(tmp_path / "none", months[1])
    other = dataclasses.replace(CONFIG, min_lines=2)
    with pytest.raises(
        UserError, match=r"other settings \(changed: steps.paragraphs.min_lines, was 1\)"
    ):
        build(months[1:], corpus, other, append=True)
    recipe = tmp_path / "recipe.py"
    recipe.write_text(
        "from mswitch.pipelines.corpus.recipes import IdentifyLanguage, Recipe\n"
        "MINE = Recipe('mine', [IdentifyLanguage(language_threshold=0.7)])"
    )
    build(months[:1], tmp_path / "mine", CorpusConfig(recipe=str(recipe)))
    with pytest.raises(UserError, match="with recipe mine: give --recipe FILE again to add"):
        build(months[1:], tmp_path / "mine", CorpusConfig(), append=True)
    bare = dataclasses.replace(CONFIG, keep_fingerprints=False)
    build(months[:1], tmp_path / "bare", bare)
    with pytest.raises(UserError, match="without --keep-fingerprints"):
        build(months[1:], tmp_path / "bare", bare, append=True)
