"""The statistics page of a corpus: that it agrees with the shards, and that nothing in it acts."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from made_reports import assert_inert, parse_page, visible_words

from mswitch.flows.cli.main import main
from mswitch.flows.reports.corpus_page import write_page
from mswitch.flows.reports.numbers import fine_percent
from mswitch.flows.reports.pages import visible
from mswitch.pipelines import storage
from mswitch.pipelines.errors import UserError
from mswitch.pipelines.outputs import stage_output
from mswitch.pipelines.records import DOCUMENT_SCHEMA

HOSTILE = "</script><img src=x onerror=alert(1)>\u202e\x1b[31m'\"`{{7*7}}&amp;"
TEXTS = {"de": "Straße und Über", "ru": "Привет, мир x", "und": "1234"}


def document(lang: str, number: int) -> dict[str, Any]:
    host = f"{lang}.example" if number else HOSTILE
    return {
        "id": f"{number:032x}",
        "url": f"https://{host}/{HOSTILE}",
        "text": f"{TEXTS[lang]}{HOSTILE if number == 1 else ''}",
        "lang": lang,
        "lang_score": 0.7 + number / 20,
        "timestamp": "2024-01-01T00:00:00Z",
        "source": f"{HOSTILE}@0",
        "record_id": HOSTILE,
    }


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Three languages of four pages each, with hostile URLs, texts and rejected records."""
    shards, languages = [], {}
    config = {"language_threshold": 0.7, "keep_und": True, "inputs": [1, 2], "odd": HOSTILE}
    out = tmp_path / f"corpus{HOSTILE.replace('/', '')}"
    with stage_output(out, stage="corpus", config=config) as staged:
        for lang in TEXTS:
            rows = [document(lang, number) for number in range(4)]
            path = f"data/{lang}/train-00000-of-00001.parquet"
            (staged.directory / path).parent.mkdir(parents=True)
            pq.write_table(pa.Table.from_pylist(rows, DOCUMENT_SCHEMA), staged.directory / path)
            shards.append({"path": path, "lang": lang, "split": "train", "rows": len(rows)})
            size = sum(len(row["text"].encode()) for row in rows)
            total = {"documents": 4, "characters": size, "bytes": size}
            languages[lang] = {"train": total}
        stages = [
            {"name": "read", "in": 20, "out": 15, "dropped": {"bad_utf8": 4, "not_a_page": 1}},
            {"name": "write", "in": 15, "out": 12, "dropped": {"short_lines": 3}},
        ]
        lines = {"in": 12, "out": 12, "dropped": {}}
        drops = {"de": {"near_duplicate": 3, HOSTILE: 4}, "sw": {"near_duplicate": 1}}
        stats = {"languages": languages, "stages": stages, "lines": lines}
        stats["dropped_languages"] = drops
        storage.write_json(staged.directory / "stats.json", stats)
        (staged.directory / "rejected").mkdir()
        row = {"stage": "read", "source": HOSTILE, "url": HOSTILE, "detail": HOSTILE}
        (staged.directory / "rejected" / "bad_utf8.jsonl").write_text(
            "".join(json.dumps({**row, "detail": f"{HOSTILE}{n}"}) + "\n" for n in range(9))
        )
        staged.publish({"inputs": [], "shards": shards})
    return out


def page_of(corpus: Path | str, place: Path):
    write_page(corpus, place / "stats.html")
    return parse_page((place / "stats.html").read_text())


def test_nothing_hostile_acts(corpus, tmp_path):
    page = page_of(corpus, tmp_path)
    assert not set((tmp_path / "stats.html").read_text()) & set("\u202e\x1b")
    assert "49" not in visible_words(page.find(".//h2[@id='samples-h']/.."))
    assert_inert(page)


def test_a_sample_without_url_is_shown(corpus, tmp_path):
    row = {"stage": "read", "reason": "not_a_page", "source": "a.jsonl@0", "detail": "no JSON"}
    (corpus / "rejected" / "not_a_page.jsonl").write_text(json.dumps(row) + "\n")
    page = page_of(corpus, tmp_path)
    shown = [visible_words(element) for element in page.findall(".//div[@class='sample']")]
    assert "a.jsonl@0 no JSON" in shown


def test_what_is_shown_is_what_was_written(corpus, tmp_path):
    page = page_of(corpus, tmp_path)
    assert visible_words(page.find(".//h1")).startswith("12 documents in 3 languages")
    table = page.find(".//div[@class='scroll wide-table']/table")
    rows = {
        visible_words(row[1]): [cell.get("data-v") for cell in row]
        for row in table.findall("tbody/tr")
    }
    assert set(rows) == set(TEXTS)
    heads = [button.get("data-key") for button in table.iter("button")]
    german, russian = (dict(zip(heads, rows[lang], strict=True)) for lang in ("de", "ru"))
    assert german["name"] == "german"
    assert german["train"] == "4"
    assert german["validation"] == "0"
    assert float(german["in_script"]) == 1
    assert 0.4 < float(russian["in_script"]) < 0.95
    assert float(german["median_score"]) == pytest.approx(0.75, abs=0.05)
    assert german["distinct_sites"] == "2"
    assert (german["dropped"], russian["dropped"]) == ("7", "0")
    details = page.findall(".//details[@class='language']")
    assert [visible_words(one).count("near_duplicate 3") for one in details] == [1, 0, 0]
    assert float(german["largest_site"]) == 0.75
    # The hostile host is no host; digits have no script.
    undetermined = dict(zip(heads, rows["und"], strict=True))
    assert undetermined["in_script"] is None
    sites = visible_words(page.find(".//h2[@id='sites-h']/.."))
    assert "(none)325.0%" in sites
    stages = [
        [visible_words(cell) for cell in row]
        for row in page.findall(".//table[@class='stages']/tbody/tr")
    ]
    assert stages[0] == ["read", "20", "15", "5", "25.0%", "bad_utf8 4not_a_page 1"]
    samples = page.findall(".//div[@class='sample']")
    assert len(samples) == 5
    shown = visible_words(samples[0])
    assert "</script><img src=x onerror=alert(1)>\\u202e\\u001b[31m'\"`{{7*7}}&amp;0" in shown


def test_the_corpus_stays_as_it_is_and_the_bytes_are_the_same(corpus, tmp_path):
    before = {path: path.stat().st_mtime_ns for path in corpus.rglob("*")}
    pages = []
    for name in ("a.html", "b.html"):
        write_page(corpus, tmp_path / name)
        pages.append((tmp_path / name).read_bytes())
    assert pages[0] == pages[1]
    assert {path: path.stat().st_mtime_ns for path in corpus.rglob("*")} == before


def test_a_corpus_that_is_the_working_directory_has_its_name(corpus, tmp_path, monkeypatch):
    monkeypatch.chdir(corpus)
    assert visible_words(page_of(".", tmp_path).find(".//title")).startswith("corpus")


def test_a_place_that_takes_no_page_is_named_first(corpus, tmp_path, capsys):
    for file in (corpus / "stats.html", tmp_path, Path("/proc/stats.html")):
        with pytest.raises(UserError, match="choose another --html"):
            write_page(corpus, file)
    assert not (corpus / "stats.html").exists()
    assert "survey" not in capsys.readouterr().err


def test_the_command_prints_a_table_and_json(corpus, tmp_path, capsys):
    file = tmp_path / "stats.html"
    assert main(["corpus", "stats", str(corpus), "--html", str(file)]) == 0
    printed = capsys.readouterr().out
    assert "bad_utf8 4" in printed
    assert str(file) in printed
    assert main(["corpus", "stats", str(corpus), "--html", str(file), "--json"]) == 0
    summary = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert summary["html"] == str(file)
    assert summary["survey"]["languages"]["de"]["documents"] == 4
    assert main(["corpus", "stats", str(corpus), "--json"]) == 0
    assert "survey" not in json.loads(capsys.readouterr().out)


def test_shares_and_invisible_characters_are_written_for_readers():
    assert [fine_percent(share) for share in (0, 1e-6, 0.0123, 0.99999, 1)] == [
        "0%",
        "<0.1%",
        "1.2%",
        ">99.9%",
        "100%",
    ]
    assert visible("a\u202eb\x00\u200b\tc\n") == "a\\u202eb\\u0000\\u200b\tc\n"
