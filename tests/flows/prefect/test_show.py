"""What a person sees of a run in Prefect: artifacts, and how far trainings are."""

import json

from mswitch.flows.jobs.job import Job
from mswitch.flows.prefect import show
from mswitch.flows.prefect.show import TrainingProgress, make_key, read_last_metrics


def test_an_artifact_has_a_key_that_prefect_allows_and_numbers_that_one_can_read(monkeypatch):
    assert make_key("report", "My pair_1.2") == "report-my-pair-1-2"
    shown = []
    monkeypatch.setattr(show, "create_table_artifact", lambda rows, *_: shown.extend(rows))
    show.show_table("key", [{"lang": "af", "share": 0.07281553398058252, "n": 12345}])
    assert shown == [{"lang": "af", "share": 0.07282, "n": 12345}]


def test_the_last_metrics_are_those_of_the_last_whole_line(tmp_path):
    assert read_last_metrics(tmp_path) == []
    file = tmp_path / "metrics.jsonl"
    file.write_text('{"step": 1}\n{"step": 2}\n{"st')
    assert read_last_metrics(tmp_path) == [{"step": 2}]
    assert read_last_metrics(tmp_path, 5) == [{"step": 1}, {"step": 2}]
    file.write_text('{"st')
    assert read_last_metrics(tmp_path) == []


def test_the_time_left_follows_from_the_median_step(tmp_path, monkeypatch):
    """However often it is asked, and though a step waited for a checkpoint."""
    shown = []
    monkeypatch.setattr(show, "create_progress_artifact", lambda *given: shown.append(given))
    progress = TrainingProgress(Job(("train",), tmp_path / "pairs" / "dense"), 1000)
    run = tmp_path / "pairs" / "dense"
    run.mkdir(parents=True)
    for steps in (10, 100):
        lines = [
            {"step": step, "train/loss": 3.0, "train/step_secs": 90.0 if step == 50 else 2.0}
            for step in range(1, steps + 1)
        ]
        (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        progress.update()
    assert shown == [
        (1.0, "train-pairs-dense", "dense: step 10 of 1,000 · loss 3.000"),
        (
            10.0,
            "train-pairs-dense",
            "dense: step 100 of 1,000 · loss 3.000 · 0.50 steps/s · 30 min left",
        ),
    ]
