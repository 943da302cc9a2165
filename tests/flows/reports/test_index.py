"""The page over all reports of a place, and the same as JSON."""

import json
import os
import shutil
import urllib.parse
from pathlib import Path

import pytest
from made_reports import assert_inert, parse_page, visible_words
from tuned_runs import right_of_ten, write_tuned

from mswitch.flows.cli.main import main
from mswitch.flows.reports.downstream import write_downstream
from mswitch.flows.reports.index import write_index
from mswitch.pipelines.errors import UserError

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(1)>\"'&\u202e\x00"


@pytest.fixture
def place(full, few, tmp_path) -> Path:
    """A directory with two reports, the one with the headline two days older."""
    for made, name, day in ((full, "experiments/full", 1), (few, "few", 3)):
        shutil.copytree(made.out, tmp_path / "runs" / name)
        os.utime(tmp_path / "runs" / name / "report.json", (0, 86_400 * day))
    return tmp_path / "runs"


def read(place: Path):
    page = parse_page((place / "index.html").read_text(encoding="utf-8"))
    return page, json.loads((place / "index.json").read_text(encoding="utf-8"))["reports"]


def edit_report(report: Path, **summary) -> None:
    data = json.loads((report / "report.json").read_text(encoding="utf-8"))
    data["summary"] |= summary
    (report / "report.json").write_text(json.dumps(data), encoding="utf-8")


def test_it_lists_reports_at_any_depth_the_newest_first(place, full, few, capsys):
    assert main(["report", "index", str(place), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "stage": "report index",
        "out": f"{place}/index.html",
        "reports": 2,
        "downstream": 0,
    }
    page, rows = read(place)
    assert [row["path"] for row in rows] == ["few/report.html", "experiments/full/report.html"]
    assert [row["name"] for row in rows] == ["few", "full"]
    assert [row["date"] for row in rows] == ["1970-01-04T00:00:00Z", "1970-01-02T00:00:00Z"]
    for row, made in zip(rows, (few, full), strict=True):
        summary = made.report["summary"]
        assert row["median_step_speedup"] == summary["median_step_speedup"]
        assert (row["candidate"], row["baseline"]) == ("32 experts, learned router", "dense")
        assert (row["languages"], row["steps"]) == (107, 1000)
        assert row["verdict"] == summary["verdict"]
    cells = [list(line) for line in page.iterfind(".//tbody/tr")]
    for line, row in zip(cells, rows, strict=True):
        assert (place / urllib.parse.unquote(line[0].find(".//a").get("href"))).is_file()
        assert float(line[2].get("data-v")) == row["median_step_speedup"]["value"]
    assert visible_words(cells[1][2].find("span")).count("to") == 1
    assert visible_words(cells[0][2].find("span")) == "no interval"
    embedded = page.find(".//script[@type='application/json']")
    assert json.loads("".join(embedded.itertext())) == {"reports": rows, "downstream": []}


def test_again_it_takes_in_new_reports_and_gives_equal_bytes(place):
    write_index(place)
    before = [(place / name).read_bytes() for name in ("index.html", "index.json")]
    assert write_index(place)["reports"] == 2
    assert before == [(place / name).read_bytes() for name in ("index.html", "index.json")]
    shutil.copytree(place / "few", place / "other")
    assert write_index(place)["reports"] == 3


def test_a_report_on_runs_in_training_says_so(place):
    edit_report(place / "few", unfinished={"step": 718, "steps": 5000})
    write_index(place)
    page, _ = read(place)
    assert "of 5,000, in training" in visible_words(page.find(".//tbody/tr"))


def test_comparisons_of_fine_tuned_runs_are_listed_too(place, tmp_path, capsys):
    languages = {"de": 30, "sw": 30}
    dense = write_tuned(tmp_path / "dense", right_of_ten(7), rows=languages)
    sparse = write_tuned(tmp_path / "sparse", right_of_ten(9), "mswitch-tiny", rows=languages)
    write_downstream([dense], [sparse], place / "tasks" / "toy")
    # A copy within a report is not listed: its report is.
    shutil.copytree(place / "tasks" / "toy", place / "few" / "downstream-toy-test")
    (place / "few" / "downstream-toy-test" / "_COMPLETED").unlink()
    damaged = Path(shutil.copytree(place / "tasks" / "toy", place / "damaged"))
    (damaged / "downstream.json").write_text('{"runs": []}')
    assert write_index(place)["downstream"] == 1
    assert f"{damaged}/downstream.json is left out: " in capsys.readouterr().err
    page = read(place)[0]
    [row] = json.loads((place / "index.json").read_text(encoding="utf-8"))["downstream"]
    assert (row["task"], row["metric"], row["split"]) == ("toy", "accuracy", "test")
    assert (row["baseline"]["value"], row["candidate"]["value"]) == (70, 90)
    assert row["difference"]["value"] == pytest.approx(20)
    line = page.findall(".//tbody/tr")[-1]
    assert visible_words(line).startswith("toy8 experts, learned router against dense · tasks/toy")
    assert (place / line.find(".//a").get("href")).resolve().is_file()
    for name in ("few", "experiments", "damaged"):
        shutil.rmtree(place / name)
    assert write_index(place) == {
        "stage": "report index",
        "out": f"{place}/index.html",
        "reports": 0,
        "downstream": 1,
    }


def test_what_reports_say_of_themselves_is_text(place):
    hostile = place / "javascript:alert(1)" / "<img src=x>&quot; #?%"
    shutil.copytree(place / "few", hostile)
    data = json.loads((hostile / "report.json").read_text(encoding="utf-8"))
    for run in data["runs"].values():
        run["name"] = HOSTILE
    data["method"]["examples_config_hash"] = HOSTILE
    data["summary"]["verdict"] = data["started_by"] = HOSTILE
    (hostile / "report.json").write_text(json.dumps(data))
    write_index(place)
    page, rows = read(place)
    assert_inert(page)
    assert HOSTILE in {row["candidate"] for row in rows} & {row["started_by"] for row in rows}
    [link] = [a.get("href") for a in page.iterfind(".//tbody//a") if "alert" in a.get("href")]
    assert link.startswith("./javascript%3Aalert%281%29/")
    assert (place / urllib.parse.unquote(link)).is_file()
    html = (place / "index.html").read_text(encoding="utf-8")
    body = html.partition("<body>")[2].partition("<script")[0]
    assert "\u202e" not in body
    assert "\\u202e" in body


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        "{}",
        "[" * 100_000,
        '{"summary": {"languages": "many"}}',
        '{"summary": {"median_step_speedup": {"value": NaN}}}',
    ],
    ids=lambda content: content[:40],
)
def test_what_is_no_report_is_left_out_and_said(place, content, capsys):
    (place / "few" / "report.json").write_text(content)
    assert write_index(place)["reports"] == 1
    assert f"{place}/few/report.json is left out: " in capsys.readouterr().err


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "three", [1]])
def test_a_number_that_is_none_is_left_out(place, value, capsys):
    edit_report(place / "few", languages=value)
    edit_report(
        place / "experiments" / "full",
        median_step_speedup={"value": value, "ci": None, "range": [1, 2]},
    )
    with pytest.raises(UserError, match="no finished report"):
        write_index(place)
    assert capsys.readouterr().err.count("is left out") == 2


def test_what_is_unfinished_hidden_or_vanishes_meanwhile_is_not_listed(place):
    shutil.copytree(place / "experiments" / "full", place / ".full.partial-0123")
    (place / "gone").mkdir()
    (place / "gone" / "report.json").symlink_to(place / "nowhere")
    assert write_index(place)["reports"] == 2
    (place / "few" / "_COMPLETED").unlink()
    assert write_index(place)["reports"] == 1


def test_a_report_is_called_by_what_a_person_named(place):
    names = {
        "pairs/nightly/report": "nightly",
        "pairs/nightly/report-so-far": "nightly",
        "experiments/width/mswitch": "width/mswitch",
    }
    for path in names:
        shutil.copytree(place / "few", place / path)
    write_index(place)
    page, rows = read(place)
    shown = {row["path"].removesuffix("/report.html"): row["name"] for row in rows}
    assert names.items() <= shown.items()
    links = {urllib.parse.unquote(a.get("href")): a for a in page.iterfind(".//tbody//a")}
    assert visible_words(links["./pairs/nightly/report/report.html"]) == "nightly"


def test_a_place_that_is_not_utf8_has_an_index_and_a_pipe_does_not_hold_it_up(place, tmp_path):
    """Opening a pipe would wait for somebody to write to it."""
    strange = place.rename(tmp_path / os.fsdecode(b"caf\xe9"))
    (strange / "pipe").mkdir()
    os.mkfifo(strange / "pipe" / "report.json")
    (strange / "pipe" / "_COMPLETED").touch()
    assert write_index(strange)["reports"] == 2
    assert "Reports in caf\ufffd" in (strange / "index.html").read_text(encoding="utf-8")


def test_wrong_places_are_named(place, tmp_path):
    with pytest.raises(UserError, match="is not a directory: check the path"):
        write_index(tmp_path / "nowhere")
    with pytest.raises(UserError, match="is itself an output: give the directory above"):
        write_index(place / "few")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="has no finished report below it"):
        write_index(tmp_path / "empty")
    (place / "index.html").write_text("mine")
    with pytest.raises(UserError, match=r"an index.html that is not an index of reports"):
        write_index(place)
    assert (place / "index.html").read_text() == "mine"
