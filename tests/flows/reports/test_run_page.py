"""The page of one fine-tuned run."""

import json
from pathlib import Path

import pytest
from made_reports import assert_inert, parse_page, visible_words
from report_runs import edit_config
from tuned_runs import right_of_ten, write_tuned

from mswitch.flows.cli.app import run as run_command
from mswitch.flows.reports.downstream import write_run_page

ROWS = {"de": 20, "sw": 20, "zh": 4}
HOSTILE = "<script>alert(1)</script></script>\u202e<b onclick=alert(2)>{row}</b>"


def hostile(lang: str, row: int, answer: str) -> str:
    return answer if row % 2 else "</td><script>alert(3)</script>\x1b[31m"


def read(out: Path):
    text = (out / "run.html").read_text(encoding="utf-8")
    return json.loads((out / "run.json").read_text()), text, parse_page(text)


def page_of(run: Path):
    write_run_page(run, run.with_name("page"))
    return read(run.with_name("page"))


def test_it_has_curve_languages_and_worst_predictions(tmp_path, capsys):
    def model(lang: str, row: int, answer: str) -> str:
        return right_of_ten({"de": 9, "sw": 2, "zh": 3}[lang])(lang, row, answer)

    tuned = write_tuned(tmp_path / "tuned", model, rows=ROWS)
    out = tmp_path / "page"
    assert run_command(["report", "run", str(tuned), "--out", str(out), "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert (summary["languages"], round(summary["accuracy"], 1)) == (3, 61.7)
    data, _, page = read(out)
    assert data["validation"] == {
        "metric": "accuracy",
        "step": 160,
        "values": {"80": 40, "160": 60},
    }
    assert len(list(page.iterfind(".//figure/{*}svg"))) == 2
    rows = {row.get("data-lang"): list(row) for row in page.iterfind(".//tbody/tr[@data-lang]")}
    cells = [visible_words(cell) for cell in rows["de"]]
    assert cells[3:7] == ["200", "20", "20", "35.0"]
    assert cells[7].startswith("90.0")
    assert " to " in cells[7]
    assert visible_words(rows["zh"][7]) == "75.0no interval"
    # The worst language first, and of its rows those that are wrong.
    worst = list(page.iterfind(".//details"))
    assert [visible_words(each.find("summary")).split(":")[0] for each in worst] == [
        "Swahili",
        "Chinese",
        "German",
    ]
    marks = [row[2].get("class") for row in worst[1].iterfind(".//tbody/tr")]
    assert marks == ["wrong", None, None, None]
    assert write_run_page(tuned, out)["reused"]


def test_groups_that_languages_share_count_once(tmp_path):
    tuned = write_tuned(tmp_path / "tuned", right_of_ten(5), rows=ROWS, group="page {number}")
    data, text, _ = page_of(tuned)
    assert (data["summary"]["rows"], data["summary"]["groups"]) == (44, 20)
    assert "44 in 20 groups" in text


def test_what_a_model_wrote_is_text(tmp_path):
    tuned = write_tuned(
        tmp_path / "tuned", hostile, rows=ROWS, inputs=HOSTILE.replace("{", "{{").replace("}", "}}")
    )
    data, text, page = page_of(tuned)
    assert_inert(page)
    cells = [visible_words(cell) for cell in page.iterfind(".//details//tbody/tr/td")]
    assert "</td><script>alert(3)</script>\\u001b[31m" in cells
    assert HOSTILE.replace("\u202e", "\\u202e") in cells
    assert "\x1b" not in text
    assert data["languages"][0]["worst"][0]["prediction"].startswith("</td><script>")


@pytest.mark.parametrize(
    ("changed", "began"),
    [
        ({}, "random parameters"),
        ({"huggingface": {}, "examples": None}, "an imported model"),
        (
            {"teacher": {"preset": "mswitch-tiny", "step": 1000, "init": True}},
            "parameters of its teacher mswitch-tiny, step 1,000",
        ),
        (
            {"teacher": {"preset": "mswitch-tiny", "step": 1000, "init": False}},
            "random parameters, taught by mswitch-tiny, step 1,000",
        ),
    ],
)
def test_it_says_what_the_run_began_with(tmp_path, changed, began):
    tuned = write_tuned(tmp_path / "tuned", right_of_ten(5), rows=ROWS, origin=None)
    edit_config(tuned, **changed)
    _, _, page = page_of(tuned)
    rows = {visible_words(row[0]): visible_words(row[1]) for row in page.iterfind(".//tr")}
    assert rows["Began with"] == began


def test_a_step_that_other_examples_chose_has_no_curve_and_is_said(tmp_path):
    tuned = write_tuned(tmp_path / "tuned", right_of_ten(5), rows=ROWS)
    selected = json.loads((tuned / "selected.json").read_text())
    (tuned / "selected.json").write_text(json.dumps({**selected, "tasks": "others"}))
    data, _, page = page_of(tuned)
    assert data["runs"][0]["seeds"][0]["step"] == 160
    assert data["validation"] is None
    assert not list(page.iterfind(".//figure"))
    caution = visible_words(page.find(".//div[@class='caution']"))
    assert "The checkpoint of “dense” was chosen on validation of other examples" in caution


def test_rows_in_training_are_those_of_the_task_whatever_its_key(tmp_path):
    tuned = write_tuned(tmp_path / "tuned", right_of_ten(5), rows=ROWS)
    several = {"config_hash": "both", "tasks": {"text": "a corpus", "directions": "tasks"}}
    rows = {"text/de": 7, "directions/de": 30, "directions/sw": 40}
    languages = {leaf: {"train_records": count} for leaf, count in rows.items()}
    edit_config(tuned, examples=several, languages=languages)
    data, _, _ = page_of(tuned)
    found = {each["lang"]: each["train_rows"] for each in data["languages"]}
    assert found == {"de": 30, "sw": 40, "zh": 0}


def test_long_texts_are_cut_and_a_single_checkpoint_has_no_curve(tmp_path):
    tuned = write_tuned(tmp_path / "tuned", right_of_ten(5), rows=ROWS, inputs="x" * 5000)
    (tuned / "selected.json").unlink()
    data, _, page = page_of(tuned)
    assert data["validation"] is None
    assert not list(page.iterfind(".//figure"))
    assert {len(row["inputs"]) for each in data["languages"] for row in each["worst"]} == {400}
