"""Reports on runs that still train: common steps only, no verdict, replaced by later ones."""

import json
import shutil

import pytest
from made_reports import make_report
from report_runs import Scenario, edit_config, read_config, write_runs
from trees import data_bytes

from mswitch.flows.cli.main import main
from mswitch.flows.reports.intervals import ReportConfig
from mswitch.flows.reports.pair import write_report
from mswitch.pipelines.errors import UserError

FEW = ReportConfig(resamples=100)


def stop_at(run, step):
    """Make of a run what it was when it had evaluated `step`."""
    (run / "_COMPLETED").unlink()
    for path in [*(run / "eval").iterdir(), *(run / "routing").glob("*")]:
        if int(path.stem) > step:
            path.unlink()
    # Training is ahead of the evaluation, and writing the next line.
    lines = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    (run / "metrics.jsonl").write_text("".join(lines[: step + 3]) + lines[step + 3][:9])


@pytest.fixture
def in_training(pair, tmp_path):
    """The pair's baseline at step 98, its candidate at 50, and the pair itself."""
    runs = [shutil.copytree(run, tmp_path / "training" / run.name) for run in pair]
    steps = read_config(pair[0])["eval_steps"]
    stop_at(runs[0], steps[-3])
    stop_at(runs[1], steps[-5])
    return runs, pair


def test_it_covers_the_common_steps_and_gives_no_verdict(in_training, tmp_path):
    runs, pair = in_training
    made = make_report(runs, tmp_path / "out", unfinished=True, resamples=100)
    steps = read_config(pair[0])["eval_steps"]
    assert made.report["method"]["eval_steps"] == steps[:-4]
    assert made.report["summary"]["unfinished"] == {"step": steps[-5], "steps": 200}
    assert made.verdict.startswith(f"Up to step {steps[-5]} of 200, the median step speed-up of ")
    assert made.verdict.endswith("There is no verdict before the end.")
    assert "still in training" in made.html
    assert made.report["runs"]["candidate"]["steps"] == steps[-5]
    assert made.report["runs"]["candidate"]["final_metrics"]["step"] == steps[-5]


def test_it_is_the_report_of_runs_that_ended_there(in_training, tmp_path):
    runs, pair = in_training
    so_far = make_report(runs, tmp_path / "so-far", unfinished=True, resamples=100)
    steps = so_far.report["method"]["eval_steps"]
    for run in pair:
        edit_config(run, eval_steps=steps)
        (run / "metrics.jsonl").write_text(
            "".join((run / "metrics.jsonl").read_text().splitlines(keepends=True)[: steps[-1]])
        )
    ended = make_report(pair, tmp_path / "ended", resamples=100)
    assert so_far.report["languages"] == ended.report["languages"]
    assert so_far.report["summary"]["pooled"] == ended.report["summary"]["pooled"]


def test_what_a_candidate_has_not_reached_is_a_bound(tmp_path):
    documents = dict.fromkeys(("de", "en", "fr", "sw", "yo"), 6)
    runs = write_runs(tmp_path, Scenario(documents, 0.5, steps=200))
    for run in runs:
        stop_at(run, read_config(run)["eval_steps"][-4])
    made = make_report(runs, tmp_path / "out", unfinished=True, resamples=100)
    assert {row["censored"] for row in made.report["languages"]} == {"upper"}
    assert "is at most 1.0× so far" in made.verdict


def test_a_later_report_replaces_it_and_the_last_is_the_usual_one(in_training, tmp_path, capsys):
    runs, pair = in_training
    out = tmp_path / "out"
    command = ["report", "--baseline", str(runs[0]), "--candidate", str(runs[1]), "--out", str(out)]
    command += ["--resamples", "100", "--unfinished"]
    assert main(command) == 0
    first = (out / "report.json").read_bytes()
    assert main(command) == 0
    assert "already complete" in capsys.readouterr().err
    step = read_config(pair[1])["eval_steps"][-4]
    shutil.copy(pair[1] / "eval" / f"{step}.parquet", runs[1] / "eval")
    shutil.copy(pair[1] / "metrics.jsonl", runs[1])
    assert main(command) == 0
    assert (out / "report.json").read_bytes() != first
    for run, whole in zip(runs, pair, strict=True):
        shutil.copytree(whole, run, dirs_exist_ok=True)
    assert main(command) == 0
    write_report(*pair, tmp_path / "usual", FEW)
    assert data_bytes(out) == data_bytes(tmp_path / "usual")
    assert sorted(path.name for path in tmp_path.glob(".out*")) == [".out.lock"]
    # A usual report is not replaced by another.
    capsys.readouterr()
    assert main([*command, "--seed", "1"]) == 2
    assert "made with other settings" in capsys.readouterr().err


def test_it_does_not_replace_that_of_another_pair(in_training, tmp_path):
    runs, _ = in_training
    write_report(*runs, tmp_path / "out", FEW, unfinished=True)
    edit_config(runs[1], config_hash="another")
    with pytest.raises(UserError, match="changed: candidate"):
        write_report(*runs, tmp_path / "out", FEW, unfinished=True)


def test_too_few_common_steps_say_what_to_wait_for(in_training, tmp_path):
    runs, _ = in_training
    stop_at_second = read_config(runs[1])["eval_steps"][2:]
    for step in stop_at_second:
        (runs[1] / "eval" / f"{step}.parquet").unlink(missing_ok=True)
    with pytest.raises(UserError, match=r"at 2 common steps so far.*at least 3.*--watch"):
        write_report(*runs, tmp_path / "out", FEW, unfinished=True)
    assert not (tmp_path / "out").exists()
    with pytest.raises(UserError, match=r"has not finished .*`mswitch report --unfinished`"):
        write_report(*runs, tmp_path / "out", FEW)


def test_killed_while_it_replaces_the_next_one_finishes(in_training, tmp_path, monkeypatch):
    runs, pair = in_training
    write_report(*runs, tmp_path / "out", FEW, unfinished=True)
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    # As a kill between the two renames leaves it.
    (tmp_path / "out").rename(tmp_path / f".out.partial-{manifest['config_hash']}")
    write_report(*pair, tmp_path / "out", FEW)
    assert not list(tmp_path.glob(".out.partial*"))
