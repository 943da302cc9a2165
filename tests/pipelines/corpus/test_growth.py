"""Adding crawls to a finished corpus."""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import crawl_files as crawl
import numpy as np
import pyarrow.parquet as pq
import pytest
from corpus_builds import LENIENT, data_bytes

from flows.cli.commands.common import finish
from pipelines.corpus.build import CorpusConfig, build_corpus
from pipelines.corpus.fingerprints import fingerprint, normalize_url, unpack
from pipelines.corpus.ledger import check_accounts
from pipelines.corpus.stats import load_stats
from pipelines.corpus.survey import rejected_samples
from pipelines.errors import UserError
from pipelines.faults import GROWTH_POINTS

DataBytes = Callable[[Path], dict[str, bytes]]

CHILD = """
import sys
from pipelines.corpus.build import CorpusConfig, build_corpus
build_corpus(sys.argv[2:], sys.argv[1], CorpusConfig(
    min_lines=1, min_long_line_characters=1, language_threshold=0.7, validation_per_mille=300),
    append=True)
"""


@pytest.fixture
def config() -> CorpusConfig:
    return dataclasses.replace(LENIENT, validation_per_mille=300)


@pytest.fixture
def months(tmp_path: Path) -> list[Path]:
    """Three crawls: the second repeats pages and lines of the first, the third of both."""

    def page(seed: int, lines: int = 3, host: str = "a") -> bytes:
        return crawl.record(crawl.prose(crawl.GERMAN, seed, lines), f"http://{host}.example/{seed}")

    first = [page(seed) for seed in range(20)]
    second = [page(seed, 5) for seed in range(10)]  # known URLs, with two more lines
    second += [page(seed, 4, "copy") for seed in range(5, 15)]  # three known lines, one new
    second += [page(seed) for seed in range(30, 40)]
    second += [crawl.record(crawl.prose(crawl.ENGLISH, 1), "http://en.example/1")]
    third = [*first, *second, page(50)]
    names = ("one", "two", "three")
    return [
        crawl.write(tmp_path / "in" / f"{name}.warc.wet.gz", records)
        for name, records in zip(names, (first, second, third), strict=True)
    ]


def documents(corpus: Path) -> dict[str, dict]:
    manifest = json.loads((corpus / "manifest.json").read_text())
    rows = [
        row for e in manifest["shards"] for row in pq.read_table(corpus / e["path"]).to_pylist()
    ]
    found = {row["id"]: row for row in rows}
    assert len(found) == len(rows)
    on_disk = {str(path.relative_to(corpus)) for path in corpus.glob("data/*/*")}
    assert on_disk == {entry["path"] for entry in manifest["shards"]}
    check_accounts(load_stats(corpus)["stages"], len(rows))
    return found


def keys(corpus: Path, kind: str) -> list[bytes]:
    manifest = json.loads((corpus / "manifest.json").read_text())
    files = [entry["path"] for entry in manifest["fingerprints"] if entry["kind"] == kind]
    rows = np.concatenate([np.load(corpus / path) for path in files])
    return sorted(row.astype(">u8").tobytes() for row in rows)


def test_a_second_crawl(tmp_path, months, config):
    out = tmp_path / "corpus"
    build_corpus([str(months[0])], out, config)
    before, files = documents(out), data_bytes(out)
    summary = build_corpus([str(months[1])], out, config, append=True)
    after = documents(out)
    assert summary["documents"] == len(after) == 20 + 10 + 10 + 1
    assert (summary["new_records"], summary["new_documents"]) == (31, 21)
    assert summary["newly_dropped"] == sum(summary["newly_dropped_by_reason"].values()) == 10
    assert before.items() <= after.items()
    changed = {"manifest.json", "stats.json", "README.md", "croissant.json"}
    assert {k: v for k, v in data_bytes(out).items() if k in files and k not in changed} == {
        k: v for k, v in files.items() if k not in changed
    }
    copies = [row for row in after.values() if row["url"].startswith("http://copy.")]
    assert len(copies) == 10
    assert all(row["text"].count("\n") == 0 for row in copies)
    lines = [line.lower() for row in after.values() for line in row["text"].split("\n")]
    assert len(lines) == len(set(lines))
    assert keys(out, "lines") == sorted(map(fingerprint, lines))
    ids = [fingerprint(normalize_url(row["url"])) for row in after.values()]
    assert keys(out, "urls") == sorted(ids)
    reasons = {s["name"]: s["dropped"] for s in load_stats(out)["stages"]}
    assert reasons["url_dedup"] == {"duplicate_url": 10}
    assert not list(tmp_path.glob(".corpus.partial-*"))


def test_a_crawl_is_added_through_a_link(tmp_path, months, config):
    out, link = tmp_path / "disk" / "corpus", tmp_path / "link"
    link.symlink_to(out)
    out.parent.mkdir()
    for number, month in enumerate(months[:2]):
        build_corpus([str(month)], link, config, append=number > 0)
    assert len(documents(out)) == 41
    # A rename cannot leave a disk: what is prepared lies beside the directory, not the link.
    assert not list(tmp_path.glob(".link*"))


def test_a_card_that_was_edited_stays(tmp_path, months, config, capsys):
    out = tmp_path / "corpus"
    build_corpus([str(months[0])], out, config)
    edited = (out / "README.md").read_text().replace('license: "other"', "license: cc0-1.0")
    assert "cc0" in edited
    (out / "README.md").write_text(edited)
    build_corpus([str(months[1])], out, config, append=True)
    assert (out / "README.md").read_text() == edited
    assert "README.md was edited and stays" in capsys.readouterr().err
    assert (
        "41" in (out / "croissant.json").read_text()
        or "two.warc" in (out / "croissant.json").read_text()
    )


def test_the_split_follows_from_the_url_whenever_a_page_comes(tmp_path, months, config):
    out = tmp_path / "corpus"
    build_corpus([str(months[0])], out, config)
    build_corpus([str(months[1])], out, config, append=True)
    for path in out.glob("data/*/*"):
        ids = b"".join(bytes.fromhex(value) for value in pq.read_table(path)["id"].to_pylist())
        numbers = [(int(h) << 64 | int(low)) % 1000 for h, low in unpack(ids)]
        assert {number < 300 for number in numbers} == {path.name.startswith("validation")}


def test_what_is_there_is_not_added_again(tmp_path, months, config):
    out = tmp_path / "corpus"
    inputs = [[str(month)] for month in months]
    build_corpus(inputs[0], out, config)
    build_corpus(inputs[1], out, config, append=True)
    build_corpus(inputs[2], out, config, append=True)
    assert len(documents(out)) == 42
    grown = data_bytes(out)
    for month in (1, 2):
        assert build_corpus(inputs[month], out, config, append=True)["reused"] is True
    assert build_corpus(inputs[0], out, config)["reused"] is True
    assert data_bytes(out) == grown


def test_a_crawl_that_brings_nothing_new(tmp_path, months, config):
    out = tmp_path / "corpus"
    build_corpus([str(months[1])], out, config)
    before = documents(out)
    copy = months[1].with_name("copy.warc.wet.gz")
    copy.write_bytes(months[1].read_bytes())
    build_corpus([str(copy)], out, config, append=True)
    assert documents(out) == before


def test_the_last_line_says_what_was_lost_of_this_crawl(tmp_path, months, config, capsys):
    out, rows = tmp_path / "corpus", tmp_path / "in" / "rows.jsonl"
    before = build_corpus([str(months[0])], out, config)
    assert "new_records" not in before
    rows.write_text('{"text": "", "url": "http://a.example/"}\n{"content": "x"}\n' * 2)
    summary = build_corpus([str(rows)], out, config, append=True)
    finish(summary, json=False)
    assert capsys.readouterr().out.startswith(
        f"{out}: done, 4 new records, 0 new documents, 4 newly dropped (no_content 2, no_text 2), "
        f"{before['documents']} documents, "
    )


def test_buckets_are_cut_for_what_the_corpus_has_too(tmp_path, months, config, monkeypatch):
    """A small crawl that is added to a large corpus must not meet all of it in one bucket."""
    out, small = tmp_path / "corpus", months[0].with_name("small.warc.wet.gz")
    build_corpus([str(months[1])], out, config)
    small.write_bytes(months[0].read_bytes()[:1500])
    entries = json.loads((out / "manifest.json").read_text())["fingerprints"]
    sizes = []
    monkeypatch.setattr(
        "pipelines.corpus.phases.shared_bits", lambda size, most: sizes.append(size) or 1
    )
    build_corpus([str(small)], out, config, append=True)
    had = {kind: sum(e["keys"] for e in entries if e["kind"] == kind) for kind in ("urls", "lines")}
    assert sizes[0] > had["urls"] * 40
    assert sizes[1] > had["lines"] * 24


def test_samples_of_an_addition_are_shown_first(tmp_path, months, config):
    out, broken = tmp_path / "corpus", months[0].with_name("broken.warc.wet.gz")
    build_corpus([str(months[0])], out, config)
    assert rejected_samples(out, ["damaged"], 5) == {}
    broken.write_bytes(months[1].read_bytes()[:3000])
    build_corpus([str(broken)], out, config, append=True)
    [damaged] = rejected_samples(out, ["damaged"], 5)["damaged"]
    assert damaged["source"].startswith("broken.warc.wet.gz@")


@pytest.mark.slow
def test_as_on_an_engine(tmp_path, months, config, monkeypatch):
    for name, runners in (("local", ("local",)), ("engine", ())):
        monkeypatch.setattr("pipelines.corpus.phases.RUNNERS_BY_REFERENCE", runners)
        build_corpus([str(months[0])], tmp_path / name, config)
        build_corpus([str(months[1])], tmp_path / name, config, append=True)
    assert data_bytes(tmp_path / "local") == data_bytes(tmp_path / "engine")


@pytest.mark.slow
def test_killed_and_rerun(tmp_path, months, config):
    """Killed at one point after another; what was there is readable until the addition is in."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    build_corpus([str(months[0])], whole, config)
    shutil.copytree(whole, killed)
    build_corpus([str(months[1])], whole, config, append=True)
    before = documents(killed)

    def run(fault: str) -> int:
        environment = {**os.environ, "MSWITCH_FAULT": fault}
        command = [sys.executable, "-c", CHILD, str(killed), str(months[1])]
        return subprocess.run(command, env=environment, capture_output=True, check=False).returncode

    for point in ("corpus.after_line_dedup", "corpus.after_shard", *GROWTH_POINTS):
        assert run(point) == -signal.SIGKILL, point
        if point != "corpus.after_growth":
            manifest = json.loads((killed / "manifest.json").read_text())
            assert sum(entry["rows"] for entry in manifest["shards"]) == len(before)
    assert run("") == 0
    assert data_bytes(killed) == data_bytes(whole)
    assert not list(tmp_path.glob(".killed.partial-*"))


@pytest.mark.slow
def test_killed_and_another_comes_first(tmp_path, months, config):
    """What was decided goes in before the other; what was not is decided anew after it."""
    one, two, three = ([str(month)] for month in months)

    def built(name: str, *additions: list[str]) -> Path:
        out = tmp_path / name
        build_corpus(one, out, config)
        for inputs in additions:
            build_corpus(inputs, out, config, append=True)
        return out

    last, first = data_bytes(built("last", three, two)), data_bytes(built("first", two, three))
    for point, wanted in (
        ("corpus.after_line_dedup", last),
        ("corpus.after_shard", last),
        ("corpus.before_growth", first),
        ("corpus.after_growth", first),
    ):
        out = built(point)
        command = [sys.executable, "-c", CHILD, str(out), *two]
        killed = subprocess.run(
            command, env={**os.environ, "MSWITCH_FAULT": point}, capture_output=True, check=False
        )
        assert killed.returncode == -signal.SIGKILL, point
        build_corpus(three, out, config, append=True)
        documents(out)
        build_corpus(two, out, config, append=True)
        documents(out)
        assert data_bytes(out) == wanted, point
        assert not list(tmp_path.glob(f".{point}.partial-*"))


def test_a_corpus_whose_statistics_are_not_its_own_is_refused(tmp_path, months, config):
    out = tmp_path / "corpus"
    build_corpus([str(months[0])], out, config)
    stats = json.loads((out / "stats.json").read_text())
    next(iter(stats["languages"]["de"].values()))["documents"] += 1
    (out / "stats.json").write_text(json.dumps(stats))
    with pytest.raises(UserError, match=r"20 documents by manifest.json and 21 by stats.json"):
        build_corpus([str(months[1])], out, config, append=True)


def test_an_addition_that_was_given_up_leaves_nothing(tmp_path, months, config):
    out = tmp_path / "corpus"
    build_corpus([str(months[0])], out, config)
    stray = out / "data" / "de" / "train-added-001-00000-of-00009.parquet"
    stray.write_bytes(b"half an addition")
    build_corpus([str(months[1])], out, config, append=True)
    assert not stray.exists()
    assert len(documents(out)) == 41


def test_refusals(tmp_path, months, config):
    inputs = [str(months[1])]
    with pytest.raises(UserError, match="does not exist"):
        build_corpus(inputs, tmp_path / "none", config, append=True)
    out = tmp_path / "corpus"
    build_corpus([str(months[0])], out, config)
    with pytest.raises(UserError, match=r"other settings \(changed: min_lines, was 1\)"):
        build_corpus(inputs, out, dataclasses.replace(config, min_lines=2), append=True)
    recipe = tmp_path / "recipe.py"
    recipe.write_text(
        "from pipelines.corpus.recipes import IdentifyLanguage, Recipe\n"
        "MINE = Recipe('mine', [IdentifyLanguage(language_threshold=0.7)])"
    )
    build_corpus([str(months[0])], tmp_path / "mine", CorpusConfig(recipe=str(recipe)))
    with pytest.raises(UserError, match="with recipe mine: give --recipe FILE again to add"):
        build_corpus(inputs, tmp_path / "mine", CorpusConfig(), append=True)
    bare = dataclasses.replace(config, keep_fingerprints=False)
    build_corpus([str(months[0])], tmp_path / "bare", bare)
    with pytest.raises(UserError, match="without --keep-fingerprints"):
        build_corpus(inputs, tmp_path / "bare", bare, append=True)


def test_a_corpus_whose_accounts_have_other_stages_is_refused_at_once(tmp_path, months, config):
    out = tmp_path / "corpus"
    build_corpus([str(months[0])], out, config)
    stats = json.loads((out / "stats.json").read_text())
    stats["stages"].insert(2, {**stats["stages"][1], "name": "url_policy"})
    (out / "stats.json").write_text(json.dumps(stats))
    with pytest.raises(UserError, match=r"another version of mswitch.*url_policy.*build it again"):
        build_corpus([str(months[1])], out, config, append=True)
    assert not list(tmp_path.glob(".corpus.partial-*"))
