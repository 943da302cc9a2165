"""The report of two runs: what it says, what it refuses, and that its parts agree."""

import base64
import csv
import dataclasses
import io
import json
import re
import shutil
import statistics
from pathlib import Path
from xml.etree import ElementTree

import html5lib
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flows.report import text as report_text
from flows.report.build import ReportConfig, write_report
from pipelines.errors import UserError
from pipelines.languages import languages

FIELDS = {
    "lang",
    "name",
    "baseline_nll",
    "candidate_nll",
    "delta",
    "delta_ci",
    "step_speedup",
    "step_speedup_ci",
    "censored",
    "flop_speedup",
    "wall_speedup",
    "documents",
    "target_tokens",
}
FILES = {"report.html", "report.json", "per_language.csv"}
FIGURES = {"speedup.svg", "quality.svg", "pooled.svg", "curves.svg", "routing.svg"}


@dataclasses.dataclass(frozen=True)
class Made:
    """A written report, read back."""

    out: Path
    summary: dict
    report: dict
    html: str

    @property
    def page(self):
        parser = html5lib.HTMLParser(namespaceHTMLElements=False)
        return parser.parse(self.html)

    def by_lang(self):
        return {row["lang"]: row for row in self.report["languages"]}


def make(pair, out, **config) -> Made:
    summary = write_report(*pair, out, ReportConfig(**config))
    report = json.loads((out / "report.json").read_text(encoding="utf-8"))
    return Made(out, summary, report, (out / "report.html").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def full(full_pair, tmp_path_factory):
    return make(full_pair, tmp_path_factory.mktemp("report") / "full")


@pytest.fixture(scope="module")
def few(few_pair, tmp_path_factory):
    return make(few_pair, tmp_path_factory.mktemp("report") / "few")


def words(element) -> str:
    return re.sub(r"\s+", " ", "".join(element.itertext())).strip()


def read_config(run):
    return json.loads((run / "config.json").read_text())


def edit_config(run: Path, **changes):
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps({**config, **changes}))


def test_the_directory_holds_a_published_stage(full):
    names = {path.name for path in full.out.iterdir()}
    assert names == FILES | FIGURES | {"manifest.json", "_COMPLETED"}
    manifest = json.loads((full.out / "manifest.json").read_text())
    assert manifest["stage"] == "report"
    assert {file["path"] for file in manifest["files"]} == FILES | FIGURES
    assert full.summary["stage"] == "report"
    assert full.summary["reused"] is False
    assert full.summary["verdict"] == full.report["summary"]["verdict"]


def test_languages_that_mc4_lacks_have_rows_like_others(make_runs, scenario, tmp_path):
    documents = {"en": 8, "hr": 7, "bs": 6, "sr-Latn": 8}
    runs = make_runs(tmp_path, scenario(documents, dict.fromkeys(documents, 3.0), steps=200))
    made = make(runs, tmp_path / "report", resamples=100)
    rows = made.by_lang()
    assert set(rows) == set(documents)
    assert rows["sr-Latn"]["name"] == "Serbian (Latin)"
    assert all(row["in_headline"] for row in rows.values())


def test_every_language_has_every_field(full):
    rows = full.by_lang()
    assert set(rows) == {code for code, language in languages().items() if language.mc4}
    for lang, row in rows.items():
        assert set(row) >= FIELDS
        assert row["name"] == languages()[lang].name
        assert row["censored"] in ("none", "lower", "upper")
        assert row["delta"] == pytest.approx(row["candidate_nll"] - row["baseline_nll"], abs=2e-5)
        enough = row["documents"] >= 5
        assert (row["step_speedup_ci"] is not None) == enough
        assert (row["delta_ci"] is not None) == enough
        assert row["in_headline"] == enough
        assert row["step_speedup"] != 0


def test_the_true_speed_ups_are_found(full):
    rows = full.by_lang()
    # The fixtures' truth: median exp(1.3) = 3.7, and four languages set by hand.
    found = full.report["summary"]["median_step_speedup"]
    assert found["ci"][0] < 3.67 < found["ci"][1]
    shown = [row["step_speedup"] for row in rows.values() if row["in_headline"]]
    assert found["value"] == pytest.approx(statistics.median(shown), rel=1e-5)
    assert rows["az"]["censored"] == rows["fi"]["censored"] == "upper"
    assert rows["sw"]["censored"] == rows["ja"]["censored"] == "lower"
    assert rows["sw"]["step_speedup"] == pytest.approx(1000)
    assert full.report["summary"]["languages_on_a_plateau"] == 2
    assert rows["eo"]["baseline_steps"] < 200


def test_flops_and_time_scale_the_steps(full):
    for row in full.report["languages"]:
        assert row["flop_speedup"] == pytest.approx(row["step_speedup"] * 1.02 / 1.09, rel=1e-4)
        # Median of 0.2 and 0.31 plus 0 to 4 ms; the 40 s of the first two steps do not count.
        assert row["wall_speedup"] == pytest.approx(row["step_speedup"] * 0.202 / 0.312, rel=1e-3)


def test_compiling_steps_do_not_count_as_training_time(pair, tmp_path):
    for run, secs in zip(pair, ([40, 40, 0.2, 0.3], [70, 70, 0.5, 0.5]), strict=True):
        lines = [
            json.dumps({"step": step, "train/step_secs": taken})
            for step, taken in enumerate(secs, start=1)
        ]
        (run / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    made = make(pair, tmp_path / "out")
    assert made.report["method"]["wall_factor"] == pytest.approx(0.25 / 0.5)


def test_times_on_different_devices_are_not_compared(pair, tmp_path):
    edit_config(pair[1], device="TPU v5p")
    made = make(pair, tmp_path / "out")
    assert {row["wall_speedup"] for row in made.report["languages"]} == {None}
    assert made.report["summary"]["median_wall_speedup"] is None
    assert "not timed on the same device" in made.html
    cells = [words(row[-1]) for row in made.page.iterfind(".//tbody/tr[@data-lang]")]
    assert cells == ["n/a"] * 3


def test_the_verdict_comes_first_and_says_how_sure_it_is(full):
    body = words(full.page.find(".//h1"))
    assert body == full.report["summary"]["verdict"]
    assert "95% interval" in body
    assert "54 languages" in body
    assert "proves nothing about the method" in full.html


def test_with_few_documents_the_page_says_so(few):
    summary = few.report["summary"]
    assert summary["languages_in_headline"] == 2
    assert "Too few languages to judge" in words(few.page.find(".//h1"))
    assert "105 of 107 languages have under 5 validation documents" in few.html
    pooled = summary["pooled"]
    assert pooled["languages"] == 107
    low, high = pooled["step_speedup_ci"]
    assert low < pooled["step_speedup"] < high
    assert "Pooled, not the headline" in few.html


def test_without_any_qualifying_language_there_is_no_headline(make_runs, scenario, tmp_path):
    documents = {"de": 4, "sw": 1, "yo": 2}
    runs = make_runs(tmp_path, scenario(documents, dict.fromkeys(documents, 3.0)))
    made = make(runs, tmp_path / "out")
    assert made.summary["median_step_speedup"] is None
    assert words(made.page.find(".//h1")).startswith("No verdict on any language")
    assert made.page.find(".//dl[@class='figures']") is None
    assert made.report["summary"]["pooled"]["step_speedup_ci"] is None


def test_much_text_needs_no_warning(make_runs, scenario, tmp_path):
    documents = dict.fromkeys(("de", "en", "fr", "sw", "yo"), 9)
    truth = dict.fromkeys(documents, 3.0)
    runs = make_runs(tmp_path, scenario(documents, truth, train_tokens=10**10))
    made = make(runs, tmp_path / "out")
    assert made.report["summary"]["cautions"] == []
    assert "proves nothing" not in made.html


def test_nothing_is_fetched(full):
    assert "http:" not in full.html
    assert "https:" not in full.html
    assert "@import" not in full.html
    policy = full.page.find(".//meta[@http-equiv='Content-Security-Policy']").get("content")
    assert "default-src 'none'" in policy
    for element in full.page.iter():
        if not isinstance(element.tag, str):
            continue
        assert element.tag not in ("img", "iframe", "object", "embed", "video", "audio", "base")
        for name, value in element.attrib.items():
            if name in ("src", "href", "srcset", "action", "data", "poster"):
                assert value.startswith(("#", "data:")), (element.tag, value)
        for target in re.findall(r"url\(([^)]*)\)", element.get("style", "")):
            assert target.startswith("#")
    assert len(full.html.encode()) < 400_000


def test_the_page_is_valid_and_its_ids_are_unique(full):
    parser = html5lib.HTMLParser(strict=True, namespaceHTMLElements=False)
    page = parser.parse(full.html)
    ids = [element.get("id") for element in page.iter() if element.get("id")]
    assert len(ids) == len(set(ids))
    for element in page.iter():
        for attribute in ("aria-labelledby", "for"):
            assert set((element.get(attribute) or "").split()) <= set(ids)
    for drawing in page.iterfind(".//svg"):
        assert drawing.get("role") == "img"
        assert words(drawing.find("title"))
        assert words(drawing.find("desc"))


def test_the_table_is_native_and_accessible(full):
    table = full.page.find(".//div[@class='scroll wide-table']/table")
    assert words(table.find("caption"))
    heads = list(table.find("thead/tr"))
    assert all(head.get("scope") == "col" and head.find("button") is not None for head in heads)
    assert [head.get("aria-sort") for head in heads] == ["ascending"] + [None] * 10
    for row in table.iterfind("tbody/tr"):
        head = row.find("th")
        assert head.get("scope") == "row"
        autonym = head.find("span")
        language = languages()[row.get("data-lang")]
        assert words(autonym) == language.autonym
        assert (autonym.get("lang"), autonym.get("dir")) == (language.code, language.direction)


def table_rows(made):
    for row in made.page.iterfind(".//tbody/tr[@data-lang]"):
        yield row.get("data-lang"), list(row)


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
    for lang, cells in table_rows(full):
        seen.add(lang)
        row = rows[lang]
        few = row["documents"] < full.report["method"]["minimum_documents"]
        for index, key in columns:
            assert row[key] == float(lines[lang][key])
            value = cells[index].get("data-v")
            if few and key.endswith("_speedup"):
                assert value is None
                assert words(cells[index]).startswith("n/a")
            else:
                assert float(value) == row[key]
        shown = words(cells[8])
        mark = {"none": "", "lower": ">", "upper": "<"}[row["censored"]]
        assert shown.startswith("n/apoint " + mark if few else mark)
        assert report_text.ratio(row["step_speedup"]) in shown
        if row["step_speedup_ci"] is None:
            assert lines[lang]["step_speedup_ci_low"] == ""
        else:
            assert float(lines[lang]["step_speedup_ci_low"]) == row["step_speedup_ci"][0]
            assert float(lines[lang]["step_speedup_ci_high"]) == row["step_speedup_ci"][1]
            assert report_text.number(row["delta_ci"][0]).lstrip("+") in words(cells[7])
    assert seen == set(rows)
    link = full.page.find(".//a[@download='per_language.csv']").get("href")
    inside = base64.b64decode(link.partition("base64,")[2]).decode("utf-8-sig")
    assert inside == text
    embedded = full.page.find(".//script[@type='application/json']")
    assert json.loads("".join(embedded.itertext())) == full.report


def test_an_undefined_speed_up_is_not_zero(make_runs, scenario, tmp_path):
    documents = dict.fromkeys(("de", "yo"), 6)
    runs = make_runs(tmp_path, scenario(documents, dict.fromkeys(documents, 1.0)))
    for run in runs:
        for path in (run / "eval").iterdir():
            table = pq.read_table(path).to_pydict()
            # `yo` gets worse with every step.
            table["nats"] = [
                100 + int(path.stem) if lang == "yo" else nats
                for lang, nats in zip(table["lang"], table["nats"], strict=True)
            ]
            pq.write_table(pa.table(table), path)
    made = make(runs, tmp_path / "out")
    row = made.by_lang()["yo"]
    assert (row["step_speedup"], row["step_speedup_ci"]) == (None, None)
    assert row["in_headline"] is False
    cells = dict(table_rows(made))["yo"]
    assert [words(cell) for cell in cells[8:]] == ["n/a"] * 3
    assert all(cell.get("data-v") is None for cell in cells[8:])


def test_figures_are_well_formed_and_alone_too(full):
    for name in FIGURES:
        text = (full.out / name).read_text(encoding="utf-8")
        root = ElementTree.fromstring(text)
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        assert text.count("http") == 1  # the namespace
    quality = (full.out / "quality.svg").read_text(encoding="utf-8")
    assert all(row["name"] in quality for row in full.report["languages"])


HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(1)>\"'&"


def test_hostile_names_stay_text(make_runs, scenario, tmp_path):
    documents = {HOSTILE: 6, "de": 6, "<b>": 1}
    truth = dict.fromkeys(documents, 3.0)
    runs = make_runs(
        tmp_path, scenario(documents, truth, steps=100, preset_names=(HOSTILE, f"b{HOSTILE}"))
    )
    for run in runs:
        edit_config(run, device=HOSTILE, model={HOSTILE: HOSTILE})
        examples = {"config_hash": HOSTILE, "vocabulary_sha256": HOSTILE}
        edit_config(run, examples=examples)
    made = make(runs, tmp_path / "out")
    html5lib.HTMLParser(strict=True).parse(made.html)
    assert made.page.findall(".//img") == []
    assert len(made.page.findall(".//b")) == len(made.page.findall(".//dd/b")) == 6
    assert len(made.page.findall(".//script")) == 2
    assert HOSTILE not in made.html
    assert HOSTILE in words(made.page.find(".//h1"))
    embedded = made.page.find(".//script[@type='application/json']")
    assert json.loads("".join(embedded.itertext())) == made.report
    assert HOSTILE in {lang for lang, _ in table_rows(made)}
    for name in FIGURES:
        ElementTree.fromstring((made.out / name).read_text(encoding="utf-8"))


def contents(out):
    return {path.name: path.read_bytes() for path in out.iterdir()}


def test_the_same_runs_elsewhere_give_the_same_bytes(pair, tmp_path):
    first = make(pair, tmp_path / "first")
    moved = [tmp_path / "elsewhere" / f"other-{run.name}" for run in pair]
    for source, target in zip(pair, moved, strict=True):
        shutil.copytree(source, target)
        edit_config(target, examples={**read_config(target)["examples"], "path": "/gone"})
    second = make(moved, tmp_path / "deep" / "second")
    assert contents(first.out) == contents(second.out)


def test_again_it_does_nothing_and_says_so(pair, tmp_path, capsys):
    first = make(pair, tmp_path / "out")
    before = {path: path.stat().st_mtime_ns for path in first.out.iterdir()}
    again = write_report(*pair, tmp_path / "out")
    assert again == {**first.summary, "reused": True}
    assert {path: path.stat().st_mtime_ns for path in first.out.iterdir()} == before
    assert "already complete" in capsys.readouterr().err


def test_other_settings_or_inputs_are_refused(pair, tmp_path):
    make(pair, tmp_path / "out")
    with pytest.raises(UserError, match=r"made with other settings or inputs \(changed: report\)"):
        make(pair, tmp_path / "out", seed=1)
    edit_config(pair[1], parameters=1)
    with pytest.raises(UserError, match="changed: candidate"):
        make(pair, tmp_path / "out")


def test_another_seed_moves_the_intervals_only(pair, tmp_path):
    one, other = (make(pair, tmp_path / f"out{seed}", seed=seed).by_lang() for seed in (0, 1))
    assert one["de"]["step_speedup"] == other["de"]["step_speedup"]
    assert one["de"]["step_speedup_ci"] != other["de"]["step_speedup_ci"]


def test_a_language_that_was_not_trained_on_stays_out(pair, tmp_path):
    for run in pair:
        trained = read_config(run)["languages"]
        edit_config(run, languages={lang: trained[lang] for lang in ("sw", "yo")})
    made = make(pair, tmp_path / "out")
    assert made.by_lang()["de"]["in_headline"] is False
    assert made.report["summary"]["languages_without_training_text"] == 1
    assert made.report["summary"]["pooled"]["languages"] == 2
    assert "no training text" in made.html


def test_numbers_are_written_for_readers():
    assert report_text.bounded(4.236) == "4.24×"
    assert report_text.bounded(1.0, "upper") == "<\N{NARROW NO-BREAK SPACE}1.00×"
    assert report_text.bounded(1000.0, "lower") == ">\N{NARROW NO-BREAK SPACE}1,000×"
    assert report_text.bounded(None) == "n/a"
    assert report_text.ratio(9.996) == "10.0"
    assert report_text.ratio(99.96) == "100"
    assert report_text.signed(-0.0004) == "0.000"
    assert report_text.signed(0.1234) == "+0.123"
    assert report_text.signed(-0.1234) == "−0.123"
    assert report_text.large(582_400_000) == "582 million"
    assert report_text.large(1.02e15) == "1.02 × 10¹⁵"
    assert report_text.large(40_096) == "40,096"


@pytest.mark.parametrize(
    ("ci", "reach", "value", "words_"),
    [
        ([2.0, 5.0], [3.0, 3.0], 3.0, "reached a’s final quality in 3.00× fewer steps"),
        ([0.5, 0.8], [0.6, 0.6], 0.6, "b was slower"),
        ([0.8, 1.3], [1.1, 1.1], 1.1, "No clear difference"),
        ([1.0, 1.0], [0.0, 1.0], 1.0, "less than 1.00×.*same bound in 95% of resamples"),
        ([50.0, 90.0], [90.0, None], 90.0, "in more than 90.0× fewer steps"),
    ],
)
def test_the_verdict_follows_the_interval(ci, reach, value, words_):
    summary = {
        "languages": 9,
        "languages_in_headline": 7,
        "confidence_percent": "95",
        "median_step_speedup": {"value": value, "ci": ci, "range": reach},
    }
    assert re.search(words_, report_text.verdict(summary, "a", "b"))
