"""How far trainings are, by what they write."""

import json

from mswitch.flows.jobs.job import Job
from mswitch.flows.prefect import training_progress
from mswitch.flows.prefect.training_progress import TrainingProgress, last_metrics


def test_the_last_metrics_are_those_of_the_last_whole_line(tmp_path):
    assert last_metrics(tmp_path) == []
    file = tmp_path / "metrics.jsonl"
    file.write_text('{"step": 1}\n{"step": 2}\n{"st')
    assert last_metrics(tmp_path) == [{"step": 2}]
    assert last_metrics(tmp_path, 5) == [{"step": 1}, {"step": 2}]
    file.write_text('{"st')
    assert last_metrics(tmp_path) == []


def test_the_time_left_follows_from_the_median_step(tmp_path, monkeypatch):
    """However often it is asked, and though a step waited for a checkpoint."""
    shown = []
    monkeypatch.setattr(
        training_progress, "create_progress_artifact", lambda *given: shown.append(given)
    )
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
