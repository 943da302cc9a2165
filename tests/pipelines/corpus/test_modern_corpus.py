"""Whole builds of profile `modern` on a small crawl, with Beam."""

import collections
import dataclasses
import json
import re
from pathlib import Path

import crawl_files as crawl
import pyarrow.parquet as pq
import pytest
from corpus_builds import build, documents, english, modern_settings, stages
from trees import data_bytes

from mswitch.pipelines.corpus.recipes import MODERN
from mswitch.pipelines.corpus.stats import format_stats, load_stats
from mswitch.pipelines.corpus.survey import survey
from mswitch.pipelines.errors import UserError
from mswitch.pipelines.outputs import read_manifest

HTML = "Content-Type: text/html\r\n"
ITEM = "Which of the rivers that pass through the old capital also pass through the harbour town?"


def html(text: str, head: str = "") -> str:
    return f"<html><head>{head}</head><body><main><p>{text}</p></main></body></html>"


@pytest.fixture
def pages(tmp_path: Path) -> list[Path]:
    german = " ".join(
        crawl.GERMAN[i % 2].format(crawl.NAMES[i % 10], crawl.NAMES[(i + 3) % 10], 1900 + 7 * i)
        for i in range(6)
    )
    long = english(1, 40)
    first = [crawl.record(english(seed), f"http://en.example/{seed}") for seed in range(100, 108)]
    first += [
        crawl.record(f"{long} It was printed twice.", "http://en.example/long"),
        crawl.record("Too short. Mail jane@example.org.", "http://en.example/short"),
        crawl.record(english(5), "http://bad.example/blocked"),
        crawl.record(german, "http://de.example/1"),
        crawl.record(f"{english(6)} {ITEM}", "http://en.example/leak"),
        crawl.record(f"{english(3, 1)} " * 20, "http://en.example/spam"),
        crawl.record("12345 67890 " * 20, "http://en.example/numbers"),
    ]
    second = [
        crawl.record(long, "http://en.example/copy"),
        crawl.record(f"{long} Again.", "http://www.en.example/third"),
        crawl.record(english(100), "http://en.example/100/", date=crawl.LATER),
        crawl.record(f"{english(7)} Mail jane@example.org now.", "http://en.example/mail"),
    ]
    third = [
        crawl.response(html(english(8)), "http://html.example/1"),
        crawl.response(
            html(english(9), "<meta name=robots content=noai>"), "http://html.example/2"
        ),
        crawl.response(
            html(english(10)), "http://html.example/3", headers=f"{HTML}TDM-Reservation: 1"
        ),
        crawl.response("<div>" * 5000, "http://www.bad.example/never-parsed"),
    ]
    by_name = {"a.warc.wet.gz": first, "b.warc.wet.gz": second, "c.warc.gz": third}
    return [crawl.write(tmp_path / "in" / name, records) for name, records in by_name.items()]


@pytest.fixture
def lists(tmp_path: Path) -> tuple[str, ...]:
    (tmp_path / "block.txt").write_text("bad.example\n")
    rows = [{"question": ITEM}, {"question": "Too short to check?"}, {"question": english(77, 2)}]
    (tmp_path / "quiz.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return (
        f"blocklist.blocklists={tmp_path}/block.txt",
        f"decontamination.evaluation_sets={tmp_path}/quiz.jsonl",
    )


def test_every_rule_has_its_stage(tmp_path, pages, lists):
    out = tmp_path / "corpus"
    build(pages, out, modern_settings(*lists))
    stats = load_stats(out)
    by_stage = stages(out)
    assert list(by_stage) == list(MODERN.stages)
    assert {name: reasons for name, reasons in by_stage.items() if reasons} == {
        "read": {"blocked_url": 2, "opt_out_noai": 1, "opt_out_tdm_reservation": 1},
        "language": {"undetermined_language": 1},
        "paragraphs": {"short_lines": 1},
        "quality": {"repeated_ngrams": 1},
        "url_dedup": {"duplicate_url": 1},
        "near_dedup": {"near_duplicate": 2},
        "decontamination": {"evaluation_item": 1},
    }
    by_language = collections.Counter()
    for reasons in stats["dropped_languages"].values():
        by_language.update(reasons)
    later = ("language", "quality", "url_dedup", "near_dedup", "decontamination")
    assert by_language == {reason: n for name in later for reason, n in by_stage[name].items()}
    assert stats["dropped_languages"]["und"] == {"undetermined_language": 1}
    found = documents(out)
    assert stats["stages"][0]["in"] == 15 + 4 + 4
    sizes = {url: row["cluster_size"] for url, row in found.items()}
    assert sizes.pop("http://en.example/long") == 3
    assert set(sizes.values()) == {1}
    assert "http://en.example/100/" in found
    mail = found["http://en.example/mail"]
    assert mail["text"].endswith("Mail [EMAIL] now.")
    assert mail["masked_emails"] == 1
    [dropped] = (out / "rejected" / "short_lines.jsonl").read_text().splitlines()
    assert json.loads(dropped)["detail"] == "Too short. Mail [EMAIL]."
    german = found["http://de.example/1"]
    assert (german["lang"], german["script"]) == ("de", "Latn")
    assert german["q_stop_words"] >= 2
    for path in out.glob("data/*/*"):
        assert pq.read_schema(path).equals(MODERN.documents)
    assert "near_dedup" in format_stats(str(out))
    for lang, of_lang in survey(out)["languages"].items():
        assert of_lang["documents"] == sum(of_lang["scores"]) == (1 if lang == "de" else 11)
    report = json.loads((out / "decontamination.json").read_text())
    assert report["sets"] == {"quiz": {"items": 3, "found": 1, "too_short": 1}}
    assert [match["url"] for match in report["matches"]] == ["http://en.example/leak"]


def test_false_charsets_are_corrected_and_counted(tmp_path):
    responses = [
        crawl.response(
            html(english(seed).replace("house", "café")).encode(charset),
            f"http://{seed}.example/",
            headers=f"Content-Type: text/html; charset={declared}",
        )
        for seed, charset, declared in (
            (8, "utf-8", "windows-1251"),
            (9, "latin-1", "utf-8"),
            (10, "latin-1", "ISO-8859-1"),
            (11, "utf-8", ""),
        )
    ]
    record = crawl.record(english(12), "http://12.example/")
    by_name = {"a.warc.gz": responses, "b.warc.wet.gz": [record]}
    out = tmp_path / "corpus"
    build(
        [crawl.write(tmp_path / name, of) for name, of in by_name.items()], out, modern_settings()
    )
    found = {
        url: (row["charset"], row["declared_charset"], "café" in row["text"])
        for url, row in documents(out).items()
    }
    assert found == {
        "http://8.example/": ("utf-8", "cp1251", True),
        "http://9.example/": ("cp1252", "utf-8", True),
        "http://10.example/": ("cp1252", "cp1252", True),
        "http://11.example/": ("utf-8", "", True),
        "http://12.example/": ("", "", False),
    }
    inputs = read_manifest(out, "corpus")["inputs"]
    assert [entry.get("corrected_charsets") for entry in inputs] == [2, None]


def test_bytes_depend_neither_on_order_nor_on_buckets_nor_on_the_runner(tmp_path, pages, engine):
    config = modern_settings()
    build(pages, tmp_path / "one", config)
    build(pages[::-1], tmp_path / "two", dataclasses.replace(config, bucket_bytes=100), **engine)
    one, two = data_bytes(tmp_path / "one" / "data"), data_bytes(tmp_path / "two" / "data")
    assert one == two
    assert one


def test_languages_are_pruned_before_the_shuffles(tmp_path, pages):
    build(pages, tmp_path / "all", modern_settings())
    build(pages, tmp_path / "de", dataclasses.replace(modern_settings(), languages=("de",)))
    assert {row["lang"] for row in documents(tmp_path / "de").values()} == {"de"}
    few, all_ = (load_stats(tmp_path / name)["shuffled_bytes"] for name in ("de", "all"))
    assert few["near_dedup"] == 14 * 24
    assert few["url_dedup"] < all_["url_dedup"]


def test_lists_are_part_of_the_settings(tmp_path, pages, lists):
    out = tmp_path / "corpus"
    build(pages, out, modern_settings(*lists))
    assert build(pages, out, modern_settings(*lists))["reused"]
    (tmp_path / "block.txt").write_text("other.example\n")
    with pytest.raises(UserError, match="other settings or inputs"):
        build(pages, out, modern_settings(*lists))
    for gone in ("block.txt", "quiz.jsonl"):
        (tmp_path / gone).unlink()
        with pytest.raises(UserError, match=re.escape(gone)):
            build(pages, out, modern_settings(*[name for name in lists if gone in name]))


def test_bad_words_are_those_of_the_language(tmp_path, pages):
    lists = tmp_path / "lists"
    lists.mkdir()
    (lists / "en").write_text("printed\n")
    (lists / "de").write_text("mail\n")
    out = tmp_path / "corpus"
    config = dataclasses.replace(modern_settings(), badwords_filter_fraction=1.0)
    build(pages, out, config, badwords=lists)
    found = documents(out)
    assert stages(out)["badwords"] == {"bad_words": 1}
    assert "http://en.example/long" not in found
    assert "http://en.example/mail" in found
    assert (out / "rejected" / "bad_words.jsonl").exists()


def test_lines_may_be_deduplicated_too(tmp_path):
    footer = english(99, 2)
    pages = [
        crawl.record(f"{english(seed)}\n{footer}", f"http://en.example/{seed}")
        for seed in range(100, 106)
    ]
    # Of near-duplicates the longest stays, and owns what they share, whoever's URL is smaller.
    shared = english(1, 20)
    pages += [
        crawl.record(f"{shared}\n{english(2, 20)}{' More.' * n}", f"http://near.example/{n}")
        for n in range(4)
    ]
    month = crawl.write(tmp_path / "in" / "a.warc.wet.gz", pages)
    out = tmp_path / "corpus"
    config = dataclasses.replace(modern_settings(), dedup_scope="language")
    build([month], out, config)
    found = documents(out)
    stats = load_stats(out)
    names = [stage["name"] for stage in stats["stages"]]
    assert names[names.index("near_dedup") + 1] == "line_dedup"
    assert len(found) == 7
    assert sum(footer in row["text"] for row in found.values()) == 1
    assert found["http://near.example/3"]["text"].startswith(shared)
    repeats = {"global_duplicate": 5, "local_duplicate": 0}
    assert stats["lines"] == {"in": 14, "out": 9, "dropped": repeats}
    later = [crawl.record(f"{english(200)}\n{footer}", "http://later.example/")]
    month = crawl.write(tmp_path / "in" / "b.warc.wet.gz", later)
    build([month], out, config, append=True)
    assert documents(out)["http://later.example/"]["text"] == english(200)
