"""Columns of the input in the corpus, and its labels of languages."""

import dataclasses
import functools
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import crawl_files as crawl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from corpus_builds import FRAME, LENIENT, build, build_elsewhere, documents
from corpus_files import read_json
from hypothesis import given
from hypothesis import strategies as st
from published_rows import LABELS, Form, make_row, write_rows
from trees import data_bytes

from mswitch.flows.cli.main import main
from mswitch.pipelines.corpus.build import CorpusConfig
from mswitch.pipelines.corpus.removal import remove_pages
from mswitch.pipelines.corpus.stats import format_stats
from mswitch.pipelines.corpus.verify import verify_corpus
from mswitch.pipelines.crawl.columns import (
    KINDS,
    MAX_VALUE_BYTES,
    Column,
    choose_columns,
    convert_value,
    find_kind,
    join_kinds,
)
from mswitch.pipelines.errors import UserError

ALL = dataclasses.replace(LENIENT, keep=("all",), validation_per_mille=300)
#: Columns of the input with a row's label.
LABEL_COLUMNS: dict[Form, str] = {"fineweb2": "language,language_script", "hplt": "lang"}
#: Columns that are parts of a page, so that the corpus has them under its own names.
PARTS = {"text", "url", "id", "date", "u", "ts"}


def kept(row: dict[str, Any]) -> dict[str, Any]:
    """What a corpus keeps of a row, if it keeps all."""
    texts = {
        path: json.dumps(value) if isinstance(value, list) else value for path, value in row.items()
    }
    return {Column(path).name: value for path, value in texts.items() if path not in PARTS}


def assert_kept(corpus: Path, form: Form, numbers: Iterable[int]) -> None:
    """Check that the corpus has these rows with all their columns."""
    rows = {row.get("url") or row["u"]: row for row in (make_row(form, n) for n in numbers)}
    stored = documents(corpus)
    assert stored.keys() == rows.keys()
    for url, row in rows.items():
        expected = kept(row)
        assert {name: stored[url].get(name) for name in expected} == expected
        assert stored[url]["timestamp"] == (row.get("date") or row["ts"])
        assert stored[url]["record_id"] == row["id"]


@pytest.mark.parametrize("form", LABEL_COLUMNS)
def test_columns_come_out_as_they_went_in(tmp_path, form, capfd):
    """Also of an addition, of a corpus built from it, and after a removal."""
    first, second = write_rows(tmp_path / "in", form, 60)
    corpus, stricter, narrow = (tmp_path / name for name in ("corpus", "stricter", "narrow"))
    build([first], corpus, ALL)
    assert_kept(corpus, form, range(0, 60, 2))
    build([second], corpus, dataclasses.replace(ALL, keep=None), append=True)
    assert_kept(corpus, form, range(60))
    changed = dataclasses.replace(ALL, keep=None, language_threshold=0.75)
    build([], stricter, changed, source_corpus=corpus)
    assert_kept(stricter, form, range(60))
    name = "dump" if form == "fineweb2" else "collection"
    build([], narrow, dataclasses.replace(ALL, keep=(name,)), source_corpus=corpus)
    columns = {name for row in documents(narrow).values() for name in row}
    assert columns & kept(make_row(form, 0)).keys() == {name}
    gone = tmp_path / "urls.txt"
    url = make_row(form, 7).get("url") or make_row(form, 7)["u"]
    gone.write_text(f"{url}\n")
    remove_pages(corpus, urls=str(gone), basis="other")
    assert_kept(corpus, form, [n for n in range(60) if n != 7])
    assert verify_corpus(corpus)["problems"] == []
    card = (corpus / "README.md").read_text()
    kind = "int64" if form == "fineweb2" else "string"
    path = "minhash_cluster_size" if form == "fineweb2" else "lang"
    meaning = f"column `{path}` of the input; empty if a page has none"
    assert f"| `{Column(path).name}` | {kind} | {meaning} |" in card
    said = capfd.readouterr().err
    assert f"[corpus] keeps {'dump=string' if form == 'fineweb2' else 'c=string'}, " in said
    with pytest.raises(UserError, match=f"corpus has no column other: choose among .*{name}"):
        build([], tmp_path / "no", dataclasses.replace(ALL, keep=("other",)), source_corpus=corpus)


def test_another_kind_of_input_has_no_such_columns(tmp_path):
    rows = write_rows(tmp_path / "in", "fineweb2", 12, files=1)
    rows += write_rows(tmp_path / "in", "madlad", 12, files=1)
    build(rows, tmp_path / "corpus", dataclasses.replace(LENIENT, keep=("dump,language_score",)))
    stored = documents(tmp_path / "corpus").values()
    without = [row for row in stored if row["url"].startswith("file:///made/")]
    assert without
    assert {(row["dump"], row["language_score"]) for row in without} == {(None, None)}
    assert all(row["dump"] for row in stored if row not in without)


def test_a_value_that_does_not_fit_is_counted(tmp_path, capfd):
    rows = [make_row("fineweb2", n) for n in range(6)]
    rows[0] |= {"dump": "x" * MAX_VALUE_BYTES, "file_path": "\ud83d"}
    rows[1] |= {"dump": "x" * (MAX_VALUE_BYTES + 1), "minhash_cluster_size": "three"}
    rows[2] |= {"minhash_cluster_size": 3.5, "language_score": 1}
    rows[3] |= {"minhash_cluster_size": 1 << 63, "language_score": None}
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    keep = ("dump,file_path,minhash_cluster_size=int64,language_score",)
    build([tmp_path / "a.jsonl"], tmp_path / "corpus", dataclasses.replace(LENIENT, keep=keep))
    stored = documents(tmp_path / "corpus")
    sizes = [stored[row["url"]]["minhash_cluster_size"] for row in rows]
    assert sizes == [1, None, None, None, 5, 6]
    assert len(stored[rows[0]["url"]]["dump"]) == MAX_VALUE_BYTES
    assert stored[rows[2]["url"]]["language_score"] == 1.0
    [entry] = read_json(tmp_path / "corpus" / "manifest.json")["inputs"]
    assert entry["lost_values"] == {"dump": 1, "file_path": 1, "minhash_cluster_size": 3}
    said = capfd.readouterr().err
    assert "empty now (minhash_cluster_size 3, dump 1, file_path 1)" in said.replace("\n", " ")


def test_bytes_that_are_no_text_cost_only_the_value(tmp_path):
    row = make_row("fineweb2", 0)
    table = pa.Table.from_pylist([{**row, "raw": b"\xff\xfe", "at": {"n": 1}}])
    pq.write_table(table, tmp_path / "a.parquet")
    build([tmp_path / "a.parquet"], tmp_path / "corpus", ALL)
    [stored] = documents(tmp_path / "corpus").values()
    assert (stored["raw"], stored["at_n"]) == (None, 1)


def test_lists_of_parquet_are_named_and_refused_or_counted(tmp_path, capfd):
    """Alone they are refused; beside JSON Lines, whose lists are read, each is a lost value."""
    table = pa.Table.from_pylist(
        [
            {**make_row("hplt", n), "at": {"n": n, "tags": [{"a": n}]}, "at_n": "other"}
            for n in range(6)
        ]
    )
    pq.write_table(table, tmp_path / "a.parquet")
    for options in ({"language_from": "lang"}, {"keep": ("lang=string",)}):
        with pytest.raises(UserError, match="lang is a list in Parquet, which is not read: omit"):
            build([tmp_path / "a.parquet"], tmp_path / "no", CorpusConfig(**options))
    with pytest.raises(UserError, match=r"at\.tags is a list in Parquet"):
        build([tmp_path / "a.parquet"], tmp_path / "no", CorpusConfig(keep=("at.tags",)))
    build([tmp_path / "a.parquet"], tmp_path / "all", ALL)
    said = capfd.readouterr().err.replace("\n", " ")
    assert "lists in Parquet are not kept: at.tags, doc_scores, lang, prob, seg_langs" in said
    assert "repeated or invalid names are not kept: at_n" in said
    for row in documents(tmp_path / "all").values():
        assert (row["collection"], type(row["at_n"])) == ("wide17", int)
        assert not {"at_tags", "doc_scores", "input_lang", "prob", "seg_langs"} & row.keys()
    rows = {n: make_row("hplt", n) for n in range(6, 12)}
    (tmp_path / "b.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows.values()))
    inputs = [tmp_path / "a.parquet", tmp_path / "b.jsonl"]
    build(inputs, tmp_path / "both", dataclasses.replace(LENIENT, keep=("prob,seg_langs",)))
    entries = read_json(tmp_path / "both" / "manifest.json")["inputs"]
    assert [entry.get("lost_values") for entry in entries] == [{"prob": 6, "seg_langs": 6}, None]
    stored = documents(tmp_path / "both").values()
    assert len(stored) == 12
    lists = [json.dumps(row["seg_langs"]) for row in rows.values()]
    assert sorted(row["seg_langs"] for row in stored if row["seg_langs"]) == sorted(lists)


def test_a_damaged_file_beside_others_has_no_columns(tmp_path):
    [good] = write_rows(tmp_path / "in", "fineweb2", 6, files=1)
    (tmp_path / "in" / "a.parquet").write_bytes(b"PAR1" + bytes(99) + b"PAR1")
    keep = dataclasses.replace(LENIENT, keep=("dump",))
    build([tmp_path / "in" / "a.parquet", good], tmp_path / "corpus", keep)
    assert all(row["dump"] for row in documents(tmp_path / "corpus").values())


def test_a_rule_reads_a_kept_column(tmp_path):
    rule = """
    def reason(self, page):
        page.columns["mine"] = page.columns["minhash_cluster_size"] or 0
        return "large_cluster" if page.columns["mine"] > 3 else None
"""
    recipe = tmp_path / "mine.py"
    recipe.write_text(FRAME.format(rule=rule, options=""))
    rows = write_rows(tmp_path / "in", "fineweb2", 27)
    config = CorpusConfig(recipe=str(recipe), keep=("minhash_cluster_size",))
    build(rows, tmp_path / "corpus", config)
    sizes = [row["minhash_cluster_size"] for row in documents(tmp_path / "corpus").values()]
    assert sorted(sizes) == [1, 1, 1, 2, 2, 2, 3, 3, 3]
    command = ["corpus", "inspect", f"{rows[0]}@2", "--recipe", str(recipe), "--keep", "all"]
    assert main([*command, "--json"]) == 0


def test_a_name_that_is_taken_has_a_prefix():
    assert [Column(path).name for path in ("lang", "a.b", "__index_level_0__", "q_other")] == [
        "input_lang",
        "a_b",
        "input___index_level_0__",
        "q_other",
    ]
    with pytest.raises(UserError, match=r"--keep a_b: column a_b already exists: omit it"):
        CorpusConfig(keep=("a.b=string,a_b=string",))
    with pytest.raises(UserError, match="choose bool, int64, float64, string"):
        CorpusConfig(keep=("a=text",))
    with pytest.raises(UserError, match="a name has letters"):
        CorpusConfig(keep=("a|b",))
    with pytest.raises(UserError, match="give --language-from"):
        CorpusConfig(language_labels="trust")


def test_an_unknown_column_is_refused_with_those_that_exist(tmp_path):
    rows = write_rows(tmp_path / "in", "hplt", 6)
    config = dataclasses.replace(LENIENT, language_from="language")
    with pytest.raises(UserError, match="the input has no column language: choose among f, o, "):
        build(rows, tmp_path / "corpus", config)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=5,
)


@given(st.lists(VALUES, max_size=6), st.sampled_from(KINDS))
def test_values_are_null_or_of_their_kind(values, kind):
    converted = [convert_value(value, kind) for value in values if value is not None]
    array = pa.array(converted, kind)
    assert len(array) == len(converted)
    joined = functools.reduce(join_kinds, map(find_kind, values), "")
    backwards = functools.reduce(join_kinds, map(find_kind, reversed(values)), "")
    assert joined == backwards
    for value in values:
        # What the kind was found on is not lost, except numbers that Arrow cannot hold and half
        # characters.
        large = isinstance(value, int | float) and abs(value) >= 1 << 63
        if value is not None and not large and "\\ud" not in json.dumps(value):
            assert convert_value(value, joined) is not None


@given(st.dictionaries(st.text("ab._-|é", max_size=5), st.sampled_from(KINDS), max_size=9))
def test_all_are_those_whose_names_a_corpus_can_have(kinds):
    chosen = choose_columns(["all"], kinds, set(), "it")
    columns = [Column(*entry.split("=")) for entry in chosen]
    names = {Column(path).name for path in kinds if path and "|" not in path}
    assert [column.name for column in columns] == sorted(names)
    assert all(kinds[column.path] == column.kind for column in columns)
    assert choose_columns(chosen, kinds, set(), "it") == chosen
    assert choose_columns(["all", *chosen[:1]], kinds, set(), "it") == chosen


@pytest.mark.parametrize("form", LABEL_COLUMNS)
def test_labels_are_trusted(tmp_path, form):
    rows = write_rows(tmp_path / "in", form, 60)
    config = dataclasses.replace(LENIENT, language_from=LABEL_COLUMNS[form])
    profiles = {
        "mc4": dataclasses.replace(config, language_threshold=None),
        "modern": dataclasses.replace(
            config, profile="modern", language_threshold=None, set=("quality.drop=false",)
        ),
    }
    for name, other in (("mc4", False), ("modern", True)):
        out = tmp_path / f"{name}-corpus"
        build(rows, out, dataclasses.replace(profiles[name], other_languages=other or None))
        expected = {"ast": "ast-Latn" if other else "und"}
        for row in documents(out).values():
            stated = row["url"].split("/")[2].removesuffix(".example")
            assert row["lang"] == expected.get(stated, stated)
            assert row["lang_score"] == float(row["lang"] != "und")
            assert row.get("script") in (None, "Latn", "Cyrl", "Hebr", "Hani")
            assert row.get("lang_second", "") == ""
        stored = {row["lang"] for row in documents(out).values()}
        assert ("ast-Latn  ast-Latn" in format_stats(out)) == other
        assert {*stored} == {expected.get(code, code) for code, _, _ in LABELS}
        assert "labels" not in read_json(out / "stats.json")
        card = (out / "README.md").read_text()
        assert f"The input's labels (`{LABEL_COLUMNS[form]}`) decided languages" in card


@pytest.mark.parametrize("profile", ["mc4", "modern"])
def test_disagreements_are_counted_by_language(tmp_path, profile, capfd):
    """Two labels are wrong, one is missing, one is of a language that the table lacks."""
    rows = [
        {
            "text": crawl.prose(crawl.ENGLISH if n % 2 else crawl.GERMAN, n, 6),
            "url": f"http://a.example/{n}",
            "language": "eng" if n % 2 else "deu",
            "language_script": "Latn",
        }
        for n in range(40)
    ]
    for number in (0, 20):
        rows[number] |= {"language": "nld"}
    rows[1] |= {"language": None, "language_script": None}
    rows[3] |= {"language": "ast"}
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[:20]))
    (tmp_path / "b.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[20:]))
    config = CorpusConfig(
        profile=profile,
        min_lines=1,
        min_long_line_characters=1,
        language_from="language,language_script",
        language_labels="compare",
        language_threshold=0.7 if profile == "mc4" else None,
        set=("quality.drop=false",) if profile == "modern" else (),
    )
    out, plain = tmp_path / "corpus", tmp_path / "plain"
    build([tmp_path / "a.jsonl"], out, config)
    build([tmp_path / "b.jsonl"], out, config, append=True)
    labels = read_json(out / "stats.json")["labels"]
    assert labels == {"de is de": 18, "en is en": 18, "nl is de": 2, "und is en": 2}
    assert "18 of 20 labels agree" not in (said := capfd.readouterr().err)
    assert "17 of 20 labels agree with the identified language; " in said
    assert "19 of 20 labels agree with the identified language; " in said
    assert "most frequent disagreements: und is en 2, nl is de 1" in said
    without = dataclasses.replace(config, language_from=None, language_labels=None)
    build([tmp_path / "a.jsonl", tmp_path / "b.jsonl"], plain, without)
    assert {url: row["lang"] for url, row in documents(plain).items()} == {
        url: row["lang"] for url, row in documents(out).items()
    }


def test_options_of_the_command(tmp_path, capsys):
    rows = write_rows(tmp_path / "in", "hplt", 12, files=1)
    command = ["corpus", "build", f"--input={rows[0]}", f"--out={tmp_path / 'corpus'}"]
    command += ["--min-lines=1", "--min-long-line-characters=1", "--keep", "prob,seg_langs"]
    command += ["--language-from=lang", "--language-labels=trust", "--other-languages"]
    assert main([*command, "--json"]) == 0
    summary = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert summary["documents"] == 12
    config = read_json(tmp_path / "corpus" / "manifest.json")["config"]
    assert config["keep"] == ["lang=string", "prob=string", "seg_langs=string"]
    [plan] = [["corpus", "plan", f"--input={rows[0]}", "--keep=all", "--language-from=lang"]]
    assert main([*plan, "--min-lines=1", "--min-long-line-characters=1", "--json"]) == 0


def test_settings_without_these_options_have_the_same_identity():
    assert not {"keep", "language_from", "language_labels", "other_languages"} & {
        *CorpusConfig().settings(),
        *CorpusConfig().settings()["steps"]["language"],
    }


#: Number of rows of each set.
ROWS = int(os.environ.get("MSWITCH_ROWS", "100000"))
#: Every page stays, if its URL is new; languages are identified beside the labels.
PLAIN = """
from mswitch.pipelines.corpus.recipes import IdentifyLanguageAndScript, Recipe, UrlDedup
PLAIN = Recipe("plain", [IdentifyLanguageAndScript(other_languages=True)], [UrlDedup()])
"""
POINTS = ("ingest", "url_choice", "finish", "shards")


@pytest.mark.kill
@pytest.mark.parametrize("form", ["fineweb2", "hplt", "madlad"])
def test_sets_of_published_corpora_survive_kills(tmp_path, form):
    """All rows come out, with all their columns; what labels say is counted for each."""
    recipe = tmp_path / "plain.py"
    recipe.write_text(PLAIN)
    rows = write_rows(tmp_path / "in", form, ROWS, files=4)
    labels = LABEL_COLUMNS.get(form)
    config = CorpusConfig(
        recipe=str(recipe),
        keep=("all",) if labels else None,
        language_from=labels,
        language_labels="compare" if labels else None,
        shard_bytes=4 << 20,
    )
    whole, killed = tmp_path / "whole" / "corpus", tmp_path / "killed" / "corpus"
    build(rows, whole, config)
    for point in POINTS:
        build_elsewhere(rows, killed, config, fault=f"corpus.after_{point}")
        assert not killed.exists()
    build_elsewhere(rows, killed, config)
    assert data_bytes(killed) == data_bytes(whole)
    stored = 0
    for path in sorted(whole.glob("data/*/*.parquet")):
        for row in pq.read_table(path).to_pylist():
            number = int(row["text"].rpartition(" ")[2])
            expected = kept(make_row(form, number))
            assert {name: row[name] for name in expected} == expected
            stored += 1
    assert stored == ROWS
    stats = read_json(whole / "stats.json")
    counts = stats.get("labels", {})
    assert sum(counts.values()) == (ROWS if labels else 0)
    assert all(counts[f"{lang} is {lang}"] > 0.15 * ROWS for lang, *_ in LABELS[:-1] if counts)
    print(f"{form}: {ROWS:,} rows, languages {counts or [*stats['languages']]}")
