"""Whole builds on small crawls, with Beam."""

import dataclasses
import functools
import hashlib
import json
from pathlib import Path

import crawl_files as crawl
import pyarrow.parquet as pq
import pytest
from corpus_builds import (
    LENIENT,
    build,
    build_elsewhere,
    documents,
    english,
    modern_settings,
    stages,
)
from trees import data_bytes

from mswitch.pipelines.corpus import output_shards
from mswitch.pipelines.corpus.build import CorpusConfig
from mswitch.pipelines.corpus.dedup import exchange
from mswitch.pipelines.corpus.recipes import MC4
from mswitch.pipelines.corpus.stats import format_stats, load_stats, sum_languages
from mswitch.pipelines.corpus.url_normalization import make_document_id
from mswitch.pipelines.errors import UserError
from mswitch.pipelines.faults import FAULT_POINTS
from mswitch.pipelines.outputs import file_sha256
from mswitch.pipelines.records import DOCUMENT_SCHEMA


def shards(files: dict[str, bytes]) -> dict[str, bytes]:
    return {name: data for name, data in files.items() if name.startswith("data/")}


def dropped(corpus: Path) -> dict[str, int]:
    return {reason: n for of_stage in stages(corpus).values() for reason, n in of_stage.items()}


def test_hostile_crawl(tmp_path, hostile_crawl):
    out = tmp_path / "out" / "corpus"
    config = dataclasses.replace(
        LENIENT, keep_und=False, min_validation_documents=2, languages=("de", "en")
    )
    summary = build(hostile_crawl, out, config)
    once = (
        *("not_a_page", "bad_utf8", "no_url", "no_content", "no_timestamp", "bad_timestamp"),
        *("too_large", "too_long", "http_status", "not_html", "nested_too_deeply"),
        *("duplicate_url", "no_own_lines", "undetermined_language"),
    )
    assert dropped(out) == {"damaged": 2, **dict.fromkeys(once, 1)}
    stats = load_stats(out)
    assert [stage["name"] for stage in stats["stages"]] == list(MC4.stages)
    found = documents(out)
    assert stats["stages"][0]["in"] == 25 + 13 + 9
    assert summary["documents"] == len(found) == 12 + 12 + 6 + 1
    assert make_document_id("http://www.a.example/1/") == hashlib.md5(b"a.example/1").digest()
    newest = found["http://en.example/3"]
    assert newest["timestamp"] == "2025-01-01T00:00:00Z"
    assert newest["source"] == "b.warc.wet.gz@0"
    for row in found.values():
        assert row["id"] == make_document_id(row["url"]).hex()
        assert row["lang"] == ("de" if "de.example" in row["url"] or "copy" in row["url"] else "en")
        assert row["lang_score"] >= 0.7
        assert row["record_id"].startswith("<urn:uuid:")
    totals = {row["lang"]: row for row in sum_languages(load_stats(out))}
    assert totals["de"]["validation"] == totals["en"]["validation"] == 2
    assert totals["de"]["bytes"] == sum(
        len(row["text"].encode()) for row in found.values() if row["lang"] == "de"
    )


def test_pages_with_bad_words_are_dropped_and_counted(tmp_path, hostile_crawl):
    words = tmp_path / "words"
    words.mkdir()
    (words / "de").write_text("greta\nGarten\n")  # pages are lowercased, entries are not
    (words / "en").write_text("hugo\n")
    whole, some = tmp_path / "a" / "corpus", tmp_path / "b" / "corpus"
    hard = dataclasses.replace(LENIENT, mc4_release="3.0.1")
    build(hostile_crawl, whole, hard)
    build(hostile_crawl, some, hard, badwords=words)
    word = {"de": "Greta", "en": "Hugo", "und": "1234 "}
    before = documents(whole)
    clean = [url for url, row in before.items() if word[row["lang"]] not in row["text"]]
    assert list(documents(some)) == clean
    assert dropped(some)["bad_words"] == len(before) - len(clean) > 0
    stage = next(row for row in load_stats(some)["stages"] if row["name"] == "badwords")
    assert stage["in"] == len(before)
    rejected = (some / "rejected" / "bad_words.jsonl").read_text().splitlines()
    assert len(rejected) == stage["dropped"]["bad_words"]
    by_language = load_stats(some)["dropped_languages"]
    assert sum(reasons.get("bad_words", 0) for reasons in by_language.values()) == len(rejected)
    assert f"bad_words {by_language['de']['bad_words']}" in format_stats(some)
    assert "on lists of bad words were dropped" in (some / "README.md").read_text()
    # Another place changes nothing, other content does.
    config = json.loads((some / "manifest.json").read_text())["config"]
    assert config["steps"]["badwords"]["badwords"]["languages"] == ["de", "en"]
    assert build(hostile_crawl, some, hard, badwords=words.rename(tmp_path / "w"))["reused"]
    (tmp_path / "w" / "en").write_text("hugo\nboris\n")
    with pytest.raises(UserError, match=r"changed: steps\.badwords\.badwords\.sha256"):
        build(hostile_crawl, some, hard, badwords=tmp_path / "w")
    with pytest.raises(UserError, match="needs lists of bad words"):
        build(hostile_crawl, some, dataclasses.replace(LENIENT, badwords_filter_fraction=1.0))


def test_manifest_and_shards(hostile_corpus, hostile_files):
    out = hostile_corpus
    manifest = json.loads((out / "manifest.json").read_text())
    assert [entry["status"] for entry in manifest["inputs"]] == ["read", "damaged", "read"]
    assert manifest["inputs"][0]["path"] == "../in/a.warc.wet.gz"
    assert manifest["inputs"][0]["bytes"] == hostile_files[0].stat().st_size
    for entry in manifest["shards"]:
        table = pq.read_table(out / entry["path"])
        assert table.schema.equals(DOCUMENT_SCHEMA)
        assert table["id"].to_pylist() == sorted(table["id"].to_pylist())
        assert (len(table), file_sha256(out / entry["path"])) == (entry["rows"], entry["sha256"])
        assert (out / entry["path"]).stat().st_size == entry["bytes"]
    assert str(out.parent) not in (out / "manifest.json").read_text()
    names = "README.md data fingerprints rejected manifest.json stats.json _COMPLETED"
    assert {path.name for path in out.iterdir()} == set(names.split())


def test_rejected_pages_can_be_inspected(tmp_path, hostile_crawl):
    evil = crawl.record("\x9b31m \u202e \x1b]0;" + "x" * 200_000, "http://evil.example/\x1b[2J")
    hostile_crawl.append(crawl.write(tmp_path / "in" / "d.gz", [evil]))
    out = tmp_path / "corpus"
    build(hostile_crawl, out, LENIENT)
    text = (out / "rejected" / "too_long.jsonl").read_text()
    assert not set(text) & set("\x1b\x9b\u202e")
    rows = [json.loads(line) for line in text.splitlines()]
    assert len(rows) == 2
    mine = next(row for row in rows if row["source"] == "d.gz@0")
    assert mine["detail"].startswith("\x9b31m \u202e \x1b]0;xxx")
    assert len(mine["detail"]) == 300
    damage = (out / "rejected" / "damaged.jsonl").read_text()
    assert "b.warc.wet.gz@" in damage
    # Of every record that gave no page: its file, and where it lies.
    places = pq.read_table(out / "rejected" / "records.parquet").to_pylist()
    read = load_stats(out)["stages"][0]["dropped"]
    for reason, count in read.items():
        found = [row for row in places if row["reason"] == reason]
        assert sum(row["records"] for row in found) == (0 if reason == "not_a_page" else count)
        assert all(len(row["offsets"]) == row["records"] for row in found)
    sampled = [json.loads(line)["source"] for line in damage.splitlines()]
    damaged = [row for row in places if row["reason"] == "damaged"]
    placed = [f"{row['file']}@{n}" for row in damaged for n in row["offsets"]]
    assert sorted(placed) == sorted(sampled)


def test_bytes_do_not_depend_on_order_or_buckets_or_runner(tmp_path, hostile_crawl, engine):
    config = dataclasses.replace(LENIENT, shard_bytes=2000)
    build(hostile_crawl, tmp_path / "a" / "corpus", config)
    build(hostile_crawl[::-1], tmp_path / "b" / "corpus", config)
    first, second = data_bytes(tmp_path / "a" / "corpus"), data_bytes(tmp_path / "b" / "corpus")
    assert first == {**second, "manifest.json": first["manifest.json"]}
    assert any("-of-00002" in name for name in first)
    build(hostile_crawl, tmp_path / "c", dataclasses.replace(config, bucket_bytes=100), **engine)
    third = data_bytes(tmp_path / "c")
    assert shards(third) == shards(first)
    assert third["stats.json"] == first["stats.json"]


def test_shards_without_documents_are_written_whatever_the_runner(tmp_path, hostile_crawl, engine):
    """As many shards as documents: some parts of the id space have none."""
    config = dataclasses.replace(LENIENT, shard_bytes=1)
    build(hostile_crawl, tmp_path / "a" / "corpus", config)
    manifest = json.loads((tmp_path / "a" / "corpus" / "manifest.json").read_text())
    rows = [entry["rows"] for entry in manifest["shards"]]
    assert 0 in rows
    assert sum(rows) == len(rows)
    build(hostile_crawl, tmp_path / "b" / "corpus", config, **engine)
    assert data_bytes(tmp_path / "a" / "corpus") == data_bytes(tmp_path / "b" / "corpus")


def test_rerun_does_nothing(tmp_path, hostile_crawl, capsys):
    out = tmp_path / "corpus"
    assert build(hostile_crawl, out, LENIENT)["reused"] is False
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    assert "no validation text in 2 of 2 languages (de, en): " in capsys.readouterr().err
    again = build(hostile_crawl[::-1], out, LENIENT)
    assert again["reused"] is True
    assert "nothing to do" in capsys.readouterr().err
    assert before == {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    with pytest.raises(UserError, match=r"changed: steps.paragraphs.min_lines\)"):
        build(hostile_crawl, out, dataclasses.replace(LENIENT, min_lines=2))
    with hostile_crawl[0].open("ab") as file:
        file.write(b"\0")
    with pytest.raises(UserError, match="changed: inputs"):
        build(hostile_crawl, out, LENIENT)


def test_a_corpus_of_no_language_is_a_warning(tmp_path, capsys):
    uncertain = crawl.record("1234 5678 @@@@ ####\n" * 20, "http://a.example/")
    german = crawl.record(crawl.prose(crawl.GERMAN, 1), "http://de.example/")
    for pages, warned in (([uncertain], True), ([uncertain, german], False)):
        name = f"{len(pages)}.warc.wet.gz"
        build([crawl.write(tmp_path / "in" / name, pages)], tmp_path / name, LENIENT)
        said = capsys.readouterr().err
        assert ("the language of all documents is uncertain (und)" in said) == warned


def test_nothing_survives(tmp_path, hostile_crawl):
    empty = tmp_path / "in" / "empty.warc.gz"
    empty.write_bytes(b"")
    out = tmp_path / "corpus"
    with pytest.raises(UserError, match=r"no document survived.*empty_file 1"):
        build([empty], out, LENIENT)
    with pytest.raises(UserError, match=r"no document survived: all 25 records.*short_lines 24"):
        build(hostile_crawl[:1], out, CorpusConfig())
    assert not out.exists()
    assert not list(tmp_path.glob(".corpus.partial-*"))


def test_advice_fits_what_was_dropped(tmp_path):
    damaged = tmp_path / "a.gz"
    damaged.write_bytes(b"\x1f\x8b\x08\0garbage")
    with pytest.raises(UserError, match=r"\(damaged 1\): give other input \(a\.gz@0: .*\); "):
        build([damaged], tmp_path / "corpus", LENIENT)
    page = crawl.record(crawl.prose(crawl.GERMAN, 1), "http://de.example/")
    long = dataclasses.replace(LENIENT, max_page_characters=10)
    with pytest.raises(
        UserError, match=r"too_long 1\): give .* input, or raise --max-page-characters; "
    ):
        build([crawl.write(tmp_path / "b", [page])], tmp_path / "corpus", long)


def test_advice_names_the_rule_that_dropped_the_pages(tmp_path):
    """Two rules may give one reason."""
    texts = [*map(english, range(3)), english(3)[:60]]
    pages = [crawl.record(text, f"http://a.example/{n}") for n, text in enumerate(texts)]
    file = crawl.write(tmp_path / "a", pages)
    with pytest.raises(UserError, match=r"or lower --set quality\.min_third_longest_line; "):
        build([file], tmp_path / "out", modern_settings("quality.min_third_longest_line=9999"))


def test_a_bad_list_is_named_by_its_own_path_before_the_crawl_is_read(tmp_path, hostile_crawl):
    (tmp_path / "words.csv").write_text("lang,words\nde,der\n")
    with pytest.raises(UserError, match=rf"^{tmp_path}/words.csv: de has fewer words than a page"):
        build(
            hostile_crawl,
            tmp_path / "out",
            modern_settings(f"quality.stop_words={tmp_path}/words.csv"),
        )


def test_a_rule_that_drops_half_or_more_is_a_line(tmp_path, capsys):
    texts = [crawl.prose(crawl.GERMAN, seed) for seed in range(4)]
    pages = [crawl.record(text[: 300 * (n == 0) + 40], f"u{n}") for n, text in enumerate(texts)]
    file = crawl.write(tmp_path / "a", pages)
    config = dataclasses.replace(LENIENT, min_long_line_characters=50)
    build([file], tmp_path / "out", config)
    said = (
        "[corpus] rule paragraphs dropped 3 of the 4 pages that it judged (75 %, short_lines 3): "
        "lower --min-long-line-characters\n"
    )
    assert said in capsys.readouterr().err
    # One that drops what was not asked for is not worth a line.
    german = dataclasses.replace(LENIENT, languages=("de",), language_min_bytes=100)
    build([file], tmp_path / "german", german)
    assert "] rule" not in capsys.readouterr().err


def test_lost_page_is_not_published(tmp_path, hostile_crawl, monkeypatch):
    real = output_shards.plan_shards
    monkeypatch.setattr(output_shards, "plan_shards", lambda *args, **kw: real(*args, **kw)[1:])
    with pytest.raises(RuntimeError, match=r"entered write|documents written"):
        build(hostile_crawl, tmp_path / "corpus", LENIENT)
    assert not (tmp_path / "corpus").exists()


def test_bad_option_before_any_work(tmp_path, hostile_crawl):
    with pytest.raises(UserError, match="--nope"):
        build(hostile_crawl, tmp_path / "corpus", LENIENT, beam_options=["--nope=1"])


@pytest.mark.slow
def test_killed_at_every_point_and_rerun(tmp_path, hostile_crawl):
    """Each run goes on where the one before was killed; the last one leaves the same bytes."""
    points = [point for point in FAULT_POINTS if point.startswith("corpus.")]
    config = dataclasses.replace(LENIENT, min_validation_documents=1, shard_bytes=2000)
    run = functools.partial(build_elsewhere, hostile_crawl, config=config)
    whole, killed = tmp_path / "a" / "corpus", tmp_path / "b" / "corpus"
    run(whole)
    kept: dict[Path, int] = {}
    for point in points:
        run(killed, fault=point)
        finished = list(killed.parent.glob(".corpus.partial-*/work/*/[!.]*.json"))
        # What one run finished, the next left alone.
        assert all(
            path.stat().st_mtime_ns == kept.get(path, path.stat().st_mtime_ns) for path in finished
        )
        kept |= {path: path.stat().st_mtime_ns for path in finished}
    assert {path.parent.name for path in kept} >= {"pages", "url_choice", "finish", "shards"}
    assert "nothing to do" in run(killed)
    assert data_bytes(killed) == data_bytes(whole)
    assert len(shards(data_bytes(whole))) > 4


def test_a_continued_build_keeps_its_groups(tmp_path, hostile_crawl, monkeypatch):
    """Another runner, or version of mswitch, makes other groups."""
    whole, killed = tmp_path / "a" / "corpus", tmp_path / "b" / "corpus"
    build(hostile_crawl, whole)
    build_elsewhere(hostile_crawl, killed, LENIENT, fault="corpus.after_line_choice")
    monkeypatch.setattr(exchange, "_LEAST_GROUPS", 1)
    build(hostile_crawl, killed)
    assert data_bytes(killed) == data_bytes(whole)


def test_stats_tables(tmp_path, hostile_corpus):
    table = format_stats(hostile_corpus)
    assert "German" in table
    assert "duplicate_url 1" in table
    with pytest.raises(UserError, match="does not exist"):
        format_stats(tmp_path / "nowhere")
