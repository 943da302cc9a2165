"""How a report is published: its files, reruns, and what its bytes depend on."""

import json
import shutil

import pytest
from made_reports import make_report, parse_page
from report_runs import edit_config, read_config
from trees import data_bytes

from mswitch.flows.reports import pair as build
from mswitch.flows.reports.intervals import ReportConfig
from mswitch.flows.reports.pair import write_report
from mswitch.pipelines.errors import UserError

FILES = {"report.html", "report.json", "per_language.csv"}

FIGURES = {
    f"{name}.svg" for name in ("speedup", "horizons", "quality", "pooled", "curves", "routing")
}


def test_the_directory_holds_a_published_stage(full):
    names = {path.name for path in full.out.iterdir()}
    assert names == FILES | FIGURES | {"manifest.json", "_COMPLETED"}
    manifest = json.loads((full.out / "manifest.json").read_text())
    assert manifest["stage"] == "report"
    assert {file["path"] for file in manifest["files"]} == FILES | FIGURES
    assert full.summary["stage"] == "report"
    assert full.summary["reused"] is False
    assert full.summary["verdict"] == full.report["summary"]["verdict"]


def test_the_same_runs_elsewhere_give_the_same_bytes(pair, tmp_path):
    first = make_report(pair, tmp_path / "first")
    moved = [tmp_path / "elsewhere" / f"other-{run.name}" for run in pair]
    for source, target in zip(pair, moved, strict=True):
        shutil.copytree(source, target)
        edit_config(target, examples={**read_config(target)["examples"], "path": "/gone"})
    second = make_report(moved, tmp_path / "deep" / "second")
    assert data_bytes(first.out) == data_bytes(second.out)


def test_again_it_does_nothing_and_says_so(pair, tmp_path, capsys):
    first = make_report(pair, tmp_path / "out")
    before = {path: path.stat().st_mtime_ns for path in first.out.iterdir()}
    again = write_report(*pair, tmp_path / "out")
    assert again == {**first.summary, "reused": True}
    assert {path: path.stat().st_mtime_ns for path in first.out.iterdir()} == before
    assert "already complete" in capsys.readouterr().err


def test_other_settings_or_inputs_are_refused(pair, tmp_path):
    make_report(pair, tmp_path / "out")
    with pytest.raises(
        UserError, match=r"made with other settings or inputs \(changed: report.seed\)"
    ):
        make_report(pair, tmp_path / "out", seed=1)
    few = ReportConfig(resamples=100)
    address = "http://127.0.0.1:4200/flow-runs/flow-run/1?a&b"
    options = {"replace": True, "started_by": "nights of ana, by its <schedule>"}
    options["flow_run"] = address
    assert not write_report(*pair, tmp_path / "out", few, **options)["reused"]
    page = (tmp_path / "out" / "report.html").read_text()
    assert "Started by nights of ana, by its &lt;schedule&gt;." in page
    [link] = parse_page(page).findall(".//header//a")
    assert link.get("href") == address
    # That is no setting: whoever asks for the same again gets what is there.
    assert write_report(*pair, tmp_path / "out", few, started_by="another")["reused"]
    edit_config(pair[1], parameters=1)
    with pytest.raises(UserError, match="changed: candidate"):
        make_report(pair, tmp_path / "out")


def test_runs_that_went_on_from_others_are_compared_alone_and_it_is_said(pair, tmp_path):
    dense, sparse = pair
    origin = {"steps_counted": 1200, "keep_moments": True}
    edit_config(dense, origin=origin)
    with pytest.raises(
        UserError, match=r"continued after 1,200 steps of an optimizer and .*after 0"
    ):
        make_report(pair, tmp_path / "out")
    edit_config(sparse, origin=origin)
    cautions = make_report(pair, tmp_path / "out").report["summary"]["cautions"]
    assert cautions[0].startswith("Both models continued from others after 1,200 steps")


def test_a_report_by_an_older_statistic_is_not_taken_for_this_one(pair, tmp_path, monkeypatch):
    with monkeypatch.context() as before:
        before.setattr(build, "STATISTICS", build.STATISTICS - 1)
        make_report(pair, tmp_path / "out")
    with pytest.raises(UserError, match=r"changed: statistics\): .* remove it to make it again"):
        make_report(pair, tmp_path / "out")


def test_another_seed_moves_the_intervals_only(pair, tmp_path):
    one, other = (
        make_report(pair, tmp_path / f"out{seed}", seed=seed).by_lang() for seed in (0, 1)
    )
    assert one["de"]["step_speedup"] == other["de"]["step_speedup"]
    assert one["de"]["step_speedup_ci"] != other["de"]["step_speedup_ci"]
