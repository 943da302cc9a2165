"""The page: what it says first, that it is valid and acts on nothing, that its parts agree."""

import base64
import csv
import io
import json
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest
from made_reports import assert_inert, make_report, parse_page, visible_words
from report_runs import Scenario, edit_config, read_config, write_runs
from tuned_runs import compare_tuned_from

from mswitch.flows.reports import numbers
from mswitch.flows.reports.pair import write_report
from mswitch.pipelines.languages import languages

GOLDEN = Path(__file__).with_name("pair_page.txt")
FIGURES = {"speedup.svg", "quality.svg", "pooled.svg", "curves.svg", "routing.svg"}


DOCUMENTS = {"de": 8, "en": 9, "sw": 6, "yo": 7, "zh": 6, "zu": 2}


def test_the_page_of_a_pair_says_this(tmp_path):
    """All that a reader sees, with every section that a page can have."""
    truth = {**dict.fromkeys(DOCUMENTS, 3.0), "yo": 0.5}
    runs = write_runs(tmp_path, Scenario(DOCUMENTS, truth, steps=200))
    mixture = {"families": ["Bantu", "Germanic"], "alpha": 0.0, "weights": {}, "max_epochs": 4.0}
    for run in runs:
        edit_config(run, mixture=mixture)
    rows = dict.fromkeys(DOCUMENTS, 20)
    downstream = compare_tuned_from(runs, tmp_path, rights=(5, 7), rows=rows)
    write_report(*runs, tmp_path / "out", downstream=[downstream])
    words = lines_of((tmp_path / "out" / "report.html").read_text(encoding="utf-8"))
    (tmp_path / GOLDEN.name).write_text(words, encoding="utf-8")
    assert words == GOLDEN.read_text(encoding="utf-8"), f"if right, copy {tmp_path / GOLDEN.name}"


def lines_of(html):
    """The words of a page, a line for each block."""
    page = parse_page(html)
    blocks = ("h1", "h2", "h3", "p", "dt", "dd", "li", "figcaption", "tr", "summary", "pre")
    found = (e for e in page.find(".//main").iter() if e.tag in blocks)
    return "".join(
        f"{e.tag}: {' | '.join(map(visible_words, e if e.tag == 'tr' else [e]))}\n" for e in found
    )


def test_with_few_documents_there_is_a_pooled_figure_alone(few):
    summary = few.report["summary"]
    assert summary["languages_in_headline"] == 2
    assert "Too little to judge" in few.verdict
    pooled = summary["pooled"]
    assert pooled["languages"] == 107
    low, high = pooled["step_speedup_ci"]
    assert low < pooled["step_speedup"] < high


def test_without_any_qualifying_language_there_is_no_headline(tmp_path):
    runs = write_runs(tmp_path, Scenario({"de": 4, "sw": 1, "yo": 2}, 3.0))
    made = make_report(runs, tmp_path / "out")
    assert made.summary["median_step_speedup"] is None
    assert made.verdict.startswith("Too little to judge: none of 3 languages")
    assert made.page.find(".//dl[@class='figures']") is None
    assert made.report["summary"]["pooled"]["step_speedup_ci"] is None


@pytest.mark.parametrize(("read", "warned"), [(2**20, False), (4, True)])
def test_little_text_has_a_warning_and_what_was_not_read_does_not_count(tmp_path, read, warned):
    documents = dict.fromkeys(("de", "en", "fr", "sw", "yo"), 9)
    runs = write_runs(tmp_path, Scenario(documents, 3.0, train_tokens=10**10))
    for run in runs:
        edit_config(run, tokens_per_step=read)
    assert bool(make_report(runs, tmp_path / "out").report["summary"]["cautions"]) == warned


def test_nothing_is_fetched(full):
    assert not re.search("https?:|@import", full.html)
    assert_inert(full.page)
    assert all(a.get("href").startswith(("#", "data:")) for a in full.page.iterfind(".//a"))
    assert len(full.html.encode()) < 400_000


def test_what_refers_to_a_part_of_the_page_finds_it_and_drawings_have_words(full):
    page = full.page
    ids = {element.get("id") for element in page.iter()}
    for element in page.iter():
        for attribute in ("aria-labelledby", "for"):
            assert set((element.get(attribute) or "").split()) <= ids
    for drawing in page.iterfind(".//svg"):
        assert drawing.get("role") == "img"
        assert visible_words(drawing.find("title"))
        assert visible_words(drawing.find("desc"))


def test_the_table_is_native_and_accessible(full):
    table = full.page.find(".//div[@class='scroll wide-table']/table")
    assert visible_words(table.find("caption"))
    heads = list(table.find("thead/tr"))
    assert all(head.get("scope") == "col" and head.find("button") is not None for head in heads)
    assert [head.get("aria-sort") for head in heads] == ["ascending"] + [None] * 10
    for row in table.iterfind("tbody/tr"):
        head = row.find("th")
        assert head.get("scope") == "row"
        autonym = head.find("span")
        language = languages()[row.get("data-lang")]
        assert visible_words(autonym) == language.autonym
        assert (autonym.get("lang"), autonym.get("dir")) == (language.code, language.direction)


def test_table_csv_and_json_agree(full):
    rows = full.by_lang()
    text = (full.out / "per_language.csv").read_text(encoding="utf-8")
    lines = {row["lang"]: row for row in csv.DictReader(io.StringIO(text))}
    assert set(lines) == set(rows)
    columns = [
        (3, "documents"),
        (4, "target_tokens"),
        (5, "baseline_nll"),
        (6, "candidate_nll"),
        (7, "delta"),
        (8, "step_speedup"),
        (9, "flop_speedup"),
        (10, "wall_speedup"),
    ]
    seen = set()
    for lang, cells in full.table_rows():
        seen.add(lang)
        row = rows[lang]
        few = row["documents"] < full.report["method"]["minimum_documents"]
        for index, key in columns:
            assert row[key] == float(lines[lang][key])
            value = cells[index].get("data-v")
            if few and key.endswith("_speedup"):
                assert value is None
                assert visible_words(cells[index]).startswith("n/a")
            else:
                assert float(value) == row[key]
        shown = visible_words(cells[8])
        mark = {"none": "", "lower": ">", "upper": "<"}[row["censored"]]
        assert shown.startswith("n/apoint " + mark if few else mark)
        assert numbers.ratio(row["step_speedup"]) in shown
        if row["step_speedup_ci"] is None:
            assert lines[lang]["step_speedup_ci_low"] == ""
        else:
            assert float(lines[lang]["step_speedup_ci_low"]) == row["step_speedup_ci"][0]
            assert float(lines[lang]["step_speedup_ci_high"]) == row["step_speedup_ci"][1]
            assert numbers.number(row["delta_ci"][0]).lstrip("+") in visible_words(cells[7])
    assert seen == set(rows)
    link = full.page.find(".//a[@download='per_language.csv']").get("href")
    inside = base64.b64decode(link.partition("base64,")[2]).decode("utf-8-sig")
    assert inside == text
    embedded = full.page.find(".//script[@type='application/json']")
    assert json.loads("".join(embedded.itertext())) == full.report


def test_figures_are_well_formed_and_alone_too(full):
    for name in FIGURES:
        text = (full.out / name).read_text(encoding="utf-8")
        root = ElementTree.fromstring(text)
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        assert text.count("http") == 1  # the namespace
    quality = (full.out / "quality.svg").read_text(encoding="utf-8")
    assert all(row["name"] in quality for row in full.report["languages"])


HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(1)>\"'&"


def test_hostile_names_stay_text(tmp_path):
    documents = {HOSTILE: 6, "de": 6, "<b>": 1}
    names = (HOSTILE, f"b{HOSTILE}")
    runs = write_runs(tmp_path, Scenario(documents, 3.0, steps=100, preset_names=names))
    for run in runs:
        model = {**read_config(run)["model"], "routing": HOSTILE, HOSTILE: HOSTILE}
        examples = {"config_hash": HOSTILE, "vocabulary_sha256": HOSTILE}
        edit_config(run, device=HOSTILE, model=model, examples=examples)
    made = make_report(runs, tmp_path / "out")
    assert_inert(made.page)
    assert len(made.page.findall(".//b")) == len(made.page.findall(".//dd/b")) == 6
    assert HOSTILE not in made.html
    assert HOSTILE in made.verdict
    embedded = made.page.find(".//script[@type='application/json']")
    assert json.loads("".join(embedded.itertext())) == made.report
    assert HOSTILE in {lang for lang, _ in made.table_rows()}
    for name in FIGURES:
        ElementTree.fromstring((made.out / name).read_text(encoding="utf-8"))
