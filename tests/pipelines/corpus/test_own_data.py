"""A corpus from a person's own JSONL and Parquet, and what they are told where it goes wrong."""

import dataclasses
import gzip
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import crawl_files as crawl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from corpus_builds import LENIENT, documents

from mswitch.pipelines.corpus.build import build_corpus
from mswitch.pipelines.errors import UserError
from mswitch.pipelines.outputs import read_manifest

Rows = list[dict[str, Any]]


@pytest.fixture
def rows() -> Rows:
    return [
        {"text": crawl.prose(crawl.GERMAN, seed), "url": f"http://de.example/{seed}", "date": day}
        for seed, day in enumerate([20240105, "2024-01-06", 1704600000000, 1704700000.5])
    ]


def jsonl(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def renamed(rows: Rows) -> Rows:
    return [{"content": r["text"], "at": {"link": r["url"], "day": r["date"]}} for r in rows]


def texts(corpus: Path) -> dict[str, tuple[str, str]]:
    """Text and timestamp by URL."""
    return {url: (row["text"], row["timestamp"]) for url, row in documents(corpus).items()}


def test_fields_of_other_names_give_the_same_corpus(tmp_path, rows):
    standard, mapped = tmp_path / "standard", tmp_path / "mapped"
    build_corpus([str(jsonl(tmp_path / "a.jsonl", rows))], standard, LENIENT)
    assert "field" not in read_manifest(standard, "corpus")["config"]
    names = ("text=content", "url=at.link", "timestamp=at.day")
    config = dataclasses.replace(LENIENT, field=names)
    first, second = (jsonl(tmp_path / n, renamed(rows[i::2])) for i, n in enumerate("bc"))
    build_corpus([str(first)], mapped, config)
    assert read_manifest(mapped, "corpus")["config"]["field"] == list(names)
    with pytest.raises(UserError, match=r"other settings \(changed: field, was \[\"text=content"):
        build_corpus([str(second)], mapped, LENIENT, append=True)
    build_corpus([str(second)], mapped, config, append=True)
    assert texts(mapped) == texts(standard)
    assert [timestamp for _, (_, timestamp) in sorted(texts(mapped).items())] == [
        "2024-01-05T00:00:00Z",
        "2024-01-06T00:00:00Z",
        "2024-01-07T04:00:00Z",
        "2024-01-08T07:46:40.500000Z",
    ]


def test_the_newest_wins_whatever_form_its_date_has(tmp_path, rows):
    same = [{**row, "url": "http://de.example/"} for row in rows]
    build_corpus([str(jsonl(tmp_path / "a", same[::-1]))], tmp_path / "out", LENIENT)
    [(text, timestamp)] = texts(tmp_path / "out").values()
    assert (text, timestamp) == (rows[3]["text"], "2024-01-08T07:46:40.500000Z")


def test_pages_without_dates_are_counted_and_told(tmp_path, rows, capfd):
    undated = [{"text": r["text"], "url": r["url"], "seen": {"at\x1b": r["date"]}} for r in rows]
    other_form = {**rows[2], "date": "5.1.2024"}
    jsonl(tmp_path / "a.jsonl", [*rows[:1], undated[1], other_form])
    table = pa.Table.from_pylist([{"text": r["text"], "url": r["url"], "on": 1} for r in rows[3:]])
    pq.write_table(table, tmp_path / "b.parquet")
    jsonl(tmp_path / "c.jsonl", rows[:1])
    inputs, out = [str(tmp_path / "*.*")], tmp_path / "out" / "corpus"
    summary = build_corpus(inputs, out, LENIENT)
    assert summary["undated_pages"] == {"../../a.jsonl": 2, "../../b.parquet": 1}
    assert build_corpus(inputs, out, LENIENT)["undated_pages"] == summary["undated_pages"]
    manifest = read_manifest(out, "corpus")
    assert [entry.get("undated") for entry in manifest["inputs"]] == [2, 1, None]
    [line] = [line for line in capfd.readouterr().err.splitlines() if "warning" in line]
    assert "3 pages have no readable date" in line
    assert "(a.jsonl, b.parquet): looked for timestamp, metadata.timestamp, date, " in line
    assert "the fields of a.jsonl are text, url, date; map one with --field timestamp=" in line
    assert "accepted are ISO 8601, YYYY, " in line
    assert summary["dropped_by_reason"] == {"duplicate_url": 1}


def test_fields_of_a_parquet_without_dates(tmp_path, rows, capfd):
    table = [{"text": r["text"], "url": r["url"], "a\x1bt": {"day": 1}} for r in rows]
    pq.write_table(pa.Table.from_pylist(table), tmp_path / "a.parquet")
    build_corpus([str(tmp_path / "a.parquet")], tmp_path / "out", LENIENT)
    assert "the fields of a.parquet are text, url, a?t.day; map one" in capfd.readouterr().err


def warc_headers(url: str) -> dict[str, str]:
    return {
        "warc-record-id": "<urn:uuid:1>",
        "warc-date": "2022-11-28T12:00:00Z",
        "warc-target-uri": url,
        "warc-type": "conversion",
    }


URL = "http://de.example/1"
HASH = "d41d8cd98f00b204e9800998ecf8427e"
WEB = {"id": "<urn:uuid:1>", "dump": "CC-MAIN-2022-49", "url": URL, "date": "2022-11-28T12:00:00Z"}
WEB |= {"file_path": "s3://a", "language_score": 0.9}
HPLT = {"f": "a.warc", "o": 7, "s": 9, "rs": 9, "u": URL, "c": "text/html", "id": HASH}
HPLT |= {"ts": "2022-11-28T12:00:00Z", "lang": ["deu_Latn"], "seg_langs": ["deu_Latn"]}
#: Rows without their text, as these corpora are published.
PUBLISHED: dict[str, dict[str, Any]] = {
    "FineWeb2": {**WEB, "language_script": "Latn", "minhash_cluster_size": 3, "top_langs": "{}"},
    "FineWeb": {**WEB, "language": "en", "token_count": 7},
    "HPLT": HPLT,
    "OSCAR of Hugging Face": {"id": 7, "meta": {"warc_headers": warc_headers(URL)}},
    "OSCAR": {"warc_headers": warc_headers(URL), "metadata": {"identification": {"prob": 1.0}}},
    "CulturaX": {"timestamp": "2022/11/28 12:00:00", "url": URL, "source": "mC4"},
    "mC4": {"timestamp": "2022-11-28T12:00:00Z", "url": URL},
    "datatrove": {"id": HASH, "metadata": {"url": URL, "date": "2022-11-28T12:00:00Z"}},
}


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
@pytest.mark.parametrize("name", PUBLISHED)
def test_published_corpora_are_recognised(tmp_path, capfd, rows, name, form):
    row = {**PUBLISHED[name], "content" if name == "OSCAR" else "text": rows[0]["text"]}
    path = tmp_path / f"a.{form}"
    if form == "jsonl":
        jsonl(path, [row])
    else:
        pq.write_table(pa.Table.from_pylist([row]), path)
    summary = build_corpus([str(path)], tmp_path / "out", LENIENT)
    assert texts(tmp_path / "out") == {URL: (rows[0]["text"], "2022-11-28T12:00:00Z")}
    assert not summary["made_urls"]
    [line] = [line for line in capfd.readouterr().err.splitlines() if "has the fields of" in line]
    assert line.startswith(f"[corpus] has the fields of {name}")
    assert line.endswith(": " + path.name)


def test_documents_without_a_url_get_one_and_are_counted(tmp_path, capfd, rows):
    """Those of MADLAD-400, whose files have the same names in each language's directory."""
    for number, folder in enumerate("ab"):
        (tmp_path / folder).mkdir()
        jsonl(tmp_path / folder / "c.jsonl", [{"text": r["text"]} for r in rows[number::2]])
    jsonl(tmp_path / "d.jsonl", [{"id": n, "text": "\n".join(rows[n]["text"])} for n in (0, 1)])
    out, inputs = tmp_path / "out", [str(tmp_path / "?" / "*"), str(tmp_path / "*.jsonl")]
    summary = build_corpus(inputs, out, LENIENT)
    assert summary["made_urls"] == {"../a/c.jsonl": 2, "../b/c.jsonl": 2, "../d.jsonl": 2}
    assert summary["documents"] >= 4
    assert "duplicate_url" not in summary["dropped_by_reason"]
    assert {url.partition("/made/")[0] for url in texts(out)} == {"file://"}
    forms = [entry["form"] for entry in read_manifest(out, "corpus")["inputs"]]
    assert forms == ["MADLAD-400", "MADLAD-400", "OSCAR 2019"]
    error = capfd.readouterr().err
    assert "has the fields of MADLAD-400: c.jsonl, c.jsonl" in error
    assert "6 pages have no URL and got one made from file and row (c.jsonl, c.jsonl, " in error
    # The same files elsewhere are the same documents.
    (tmp_path / "a" / "c.jsonl").rename(tmp_path / "e.jsonl")
    again = tmp_path / "again"
    build_corpus([str(tmp_path / "e.jsonl")], again, LENIENT)
    assert {url.split("/")[4] for url in texts(again)} < {url.split("/")[4] for url in texts(out)}


def test_what_was_lost_is_named(tmp_path, rows, capfd):
    folder = tmp_path / "in"
    folder.mkdir()
    cut = jsonl(folder / "cut.jsonl", rows)
    packed = gzip.compress(cut.read_bytes())
    (folder / "cut.jsonl.gz").write_bytes(packed[: len(packed) // 2])
    cut.write_bytes(cut.read_bytes()[:-50])
    (folder / "array.json").write_text(json.dumps(rows))
    (folder / "pretty.json").write_text(json.dumps(rows[0], indent=1))
    jsonl(folder / "sound.jsonl", [*rows, *renamed(rows)])
    summary = build_corpus([f"{folder}/*"], tmp_path / "out", LENIENT)
    reasons = summary["dropped_by_reason"]
    assert list(reasons.values()) == sorted(reasons.values(), reverse=True)
    assert summary["dropped"] == sum(reasons.values())
    del reasons["duplicate_url"]
    once = dict.fromkeys(("bad_json", "damaged", "json_array", "pretty_json"), 1)
    assert reasons == {"no_text": 4, **once}
    assert summary["unread_inputs"] == {
        "../in/array.json": "json_array",
        "../in/cut.jsonl": "damaged",
        "../in/cut.jsonl.gz": "damaged",
        "../in/pretty.json": "pretty_json",
    }
    told = [line for line in capfd.readouterr().err.splitlines() if "warning" in line]
    assert "array.json (json_array, 0 pages read), cut.jsonl (damaged, 3 pages read), " in told[0]
    by_reason = {line.split()[2]: line for line in told[1:]}
    assert set(by_reason) == {"no_text", "bad_json", "json_array", "pretty_json"}
    assert by_reason["no_text"].endswith(
        "--field text=NAME; the fields are content, at.link, at.day"
    )
    assert "no_text 4, such as sound.jsonl@" in by_reason["no_text"]
    assert by_reason["json_array"].endswith("jq -c '.[]'")


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
def test_a_build_of_other_fields_fails_with_the_option_and_a_sample(tmp_path, rows, form):
    path = tmp_path / f"a.{form}"
    table = [{**row, "at": {**row["at"], "day": 1}} for row in renamed(rows)]
    if form == "jsonl":
        jsonl(path, table)
    else:
        pq.write_table(pa.Table.from_pylist(table), path)
    out = tmp_path / "corpus"
    with pytest.raises(UserError) as caught:
        build_corpus([str(path)], out, LENIENT)
    message = str(caught.value)
    assert "all 4 records of 1 files were dropped (no_text 4): a." in message
    assert "--field text=NAME; the fields are content, at.link, at.day; " in message
    assert "thresholds" not in message
    rejected = tmp_path / "corpus.rejected.jsonl"
    assert f"{rejected} has samples" in message
    samples = [json.loads(line) for line in rejected.read_text().splitlines()]
    assert [sample["reason"] for sample in samples] == ["no_text"] * 4
    assert not out.exists()
    # They say nothing of a later build that something survives.
    jsonl(tmp_path / f"a.{form}", rows)
    build_corpus([str(path)], out, LENIENT)
    assert not rejected.exists()
