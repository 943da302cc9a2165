"""Adding crawls to a corpus of profile `modern`."""

import dataclasses
import json
import shutil
from pathlib import Path

import crawl_files as crawl
import numpy as np
import pyarrow.parquet as pq
import pytest
from corpus_builds import build, build_elsewhere, documents, english, modern_settings, stages
from trees import data_bytes

from mswitch.pipelines import storage
from mswitch.pipelines.corpus.build import CorpusConfig
from mswitch.pipelines.corpus.dedup import near_stars
from mswitch.pipelines.corpus.dedup.exchange import Group, write_groups
from mswitch.pipelines.corpus.dedup.key_files import read_keys, write_keys
from mswitch.pipelines.corpus.dedup.near import NearDedup, rank_pages
from mswitch.pipelines.corpus.dedup.near_exchange import NearDuplicates
from mswitch.pipelines.corpus.recipes import MODERN
from mswitch.pipelines.corpus.work_directory import WorkDirectory
from mswitch.pipelines.faults import CHANGE_POINTS, MODERN_POINTS

ITEM = "Which of the rivers that pass through the old capital also pass through the harbour town?"


@pytest.fixture
def config(tmp_path: Path) -> CorpusConfig:
    (tmp_path / "quiz.txt").write_text(f"{ITEM}\n")
    return modern_settings(f"decontamination.evaluation_sets={tmp_path}/quiz.txt")


@pytest.fixture
def months(tmp_path: Path) -> list[Path]:
    """Three crawls: the second has near-duplicates of the first, the third is both and a page.

    In the first, `long` stands for itself and `copy`. `b.example/1` is longer and would win.
    """
    long, tail = english(1, 40), english(2, 8)
    first = [crawl.record(english(seed), f"http://en.example/{seed}") for seed in range(100, 108)]
    first += [
        crawl.record(f"{long} It was printed twice.", "http://en.example/long"),
        crawl.record(long, "http://en.example/copy"),
        crawl.record(f"{english(6)} {ITEM}", "http://en.example/leak"),
    ]
    second = [
        crawl.record(
            f"{long} It was printed twice, and once more in colour.", "http://b.example/1"
        ),
        crawl.record(f"{tail} {english(100)} A word more.", "http://b.example/mixed"),
        crawl.record(f"{english(100)} The end.", "http://b.example/100"),
        crawl.record(english(101), "http://en.example/101/", date=crawl.LATER),
        crawl.record(english(200), "http://b.example/200"),
        crawl.record(f"{english(200)} Again.", "http://b.example/200-again"),
        crawl.record(f"{english(9)} {ITEM}", "http://b.example/leak"),
    ]
    third = [*first, *second, crawl.record(english(300), "http://c.example/300")]
    return crawl.write_all(tmp_path / "in", (first, second, third))


def band_keys(corpus: Path) -> np.ndarray:
    manifest = json.loads((corpus / "manifest.json").read_text())
    files = [entry["path"] for entry in manifest["fingerprints"] if entry["kind"] == "bands"]
    return np.concatenate([read_keys(str(corpus / path), 2) for path in files])


def test_near_duplicates_of_what_is_there_are_dropped(tmp_path, months, config):
    out = tmp_path / "corpus"
    build(months[:1], out, config)
    before, near = documents(out), stages(out)["near_dedup"]["near_duplicate"]
    assert before["http://en.example/long"]["cluster_size"] == 2
    build(months[1:2], out, config, append=True)
    after = documents(out)
    assert pq.read_schema(next(out.glob("data/en/*"))).equals(MODERN.documents)
    # What was there is as it was, sizes of clusters included.
    assert before.items() <= after.items()
    new = after.keys() - before.keys()
    assert new == {"http://b.example/mixed", "http://b.example/200-again"}
    assert after["http://b.example/200-again"]["cluster_size"] == 2
    assert stages(out)["near_dedup"]["near_duplicate"] - near == 3
    assert stages(out)["url_dedup"] == {"duplicate_url": 1}
    keys = band_keys(out)
    assert len(keys) == len(np.unique(keys, axis=0)) == 14 * len(after)
    report = json.loads((out / "decontamination.json").read_text())
    assert report["sets"] == {"quiz": {"items": 1, "found": 1, "too_short": 0}}
    assert {match["url"] for match in report["matches"]} == {
        "http://en.example/leak",
        "http://b.example/leak",
    }
    card = (out / "README.md").read_text()
    assert "cluster_size" in card


def test_a_crawl_that_repeats_both_adds_its_new_page_alone(tmp_path, months, config):
    out = tmp_path / "corpus"
    build(months[:1], out, config)
    for month in months[1:]:
        build([month], out, config, append=True)
    found = documents(out)
    assert "http://c.example/300" in found
    assert len(found) == 8 + 1 + 2 + 1


def test_buckets_do_not_decide(tmp_path, months, config):
    """The number of files of kept keys follows from their size."""
    for size in (1000, 256 << 20):
        cut = dataclasses.replace(config, bucket_bytes=size)
        build(months[:1], tmp_path / str(size), cut)
        build(months[1:2], tmp_path / str(size), cut, append=True)
    many, one = tmp_path / "1000", tmp_path / str(256 << 20)
    assert data_bytes(many / "data") == data_bytes(one / "data")
    ordered = [band_keys(corpus) for corpus in (many, one)]
    assert np.unique(ordered[0], axis=0).tolist() == np.unique(ordered[1], axis=0).tolist() != []


def test_rounds_of_tasks_give_the_same_corpus(tmp_path, months, config, monkeypatch):
    """Where every language counts as large."""
    for pairs in (near_stars.LARGE_PAIRS, 0):
        monkeypatch.setattr(near_stars, "LARGE_PAIRS", pairs)
        for month in months:
            build([month], tmp_path / str(pairs), config, append=month != months[0])
    assert data_bytes(tmp_path / "0") == data_bytes(tmp_path / "10000000")


@pytest.mark.kill
def test_killed_and_rerun(tmp_path, months, config):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    build(months[:1], whole, config)
    shutil.copytree(whole, killed)
    build(months[1:2], whole, config, append=True)
    for point in (*MODERN_POINTS, *CHANGE_POINTS, ""):
        build_elsewhere(months[1:2], killed, config, point, append=True)
    assert data_bytes(killed) == data_bytes(whole)
    assert not list(tmp_path.glob(".killed.partial-*"))


def test_who_is_like_a_dropped_page_is_dropped(tmp_path):
    group = Group(0, range(1), 6, 0)
    work = WorkDirectory(str(tmp_path))
    rules = NearDuplicates(NearDedup(), work, write_groups(work, [group], {}))
    for what in ("keys", "matches", "clusters"):
        storage.make_directory(rules.directory(what))
    pages = np.arange(6, dtype=np.uint64)
    ranks = rank_pages(np.full(6, 100), np.zeros(6, np.int64), np.column_stack([pages, pages]))
    Path(rules.file("keys", 0, "ranks")).write_bytes(ranks.tobytes())
    of_group = np.uint64(1 << 30)  # 0 is the corpus
    edges = np.array([[1, 0], [2, 1], [4, 3], [5, 4]], np.uint64) + of_group
    edges[0, 1] = 0
    write_keys(rules.file("matches", 0, "pairs"), [edges], len(edges))
    assert sum(rules.cluster(part)["pages"] for part in range(16)) == 5
    assert rules.sizes(group).tolist() == [1, 0, 0, 3, 0, 0]
